"""A multi-layer perceptron with a context beside its inputs: what CAVIA adapts."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from metarun import checks
from metarun.models.mlp import MLP


class ContextMLP(nn.Module):
    """An `MLP` of each example and the parameter `context`, which is the same for all examples of a task and starts at zero.

    Args:
        input_shape: of one example; flattened.
        num_outputs: outputs of one example.
        context: how many context parameters.
        hidden, activation, init_std: as of `MLP`.
    Source: Zintgraf et al. 2019, section 3.3 and, for sinusoids, 5.1.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        context: int,
        hidden: Sequence[int] = (40, 40),
        activation: Literal["relu", "tanh", "softplus"] = "relu",
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        checks.integer("context", context, minimum=1)
        self.context = nn.Parameter(torch.zeros(context))
        self.net = MLP(
            input_shape=(math.prod(input_shape) + context,),
            num_outputs=num_outputs,
            hidden=hidden,
            activation=activation,
            init_std=init_std,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[S, *input_shape] -> [S, num_outputs]."""
        flat = inputs.flatten(1)
        return self.net(torch.cat([flat, self.context.expand(len(flat), -1)], dim=1))
