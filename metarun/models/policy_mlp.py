"""A Gaussian policy: a net for the means, and deviations that do not depend on the observation."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from metarun import checks
from metarun.models.mlp import MLP


class PolicyMLP(nn.Module):
    """Means of the actions by an MLP, and a learned logarithm of the deviation for each number of an action.

    Weights begin uniform as Glorot and Bengio have it, biases at zero: a policy at first hardly prefers any action.

    Args:
        input_shape: of one observation; flattened.
        num_outputs: means and logarithms of deviations together: twice the numbers of an action.
        hidden: widths of the hidden layers.
        activation: "relu" or "tanh".
        init_std: deviation at the start, >= min_std.
        min_std: below it a deviation does not fall, > 0.
    Source: Finn et al. 2017, appendix A.2 (100-100 and ReLU; 64-64 and tanh in pytorch-maml-rl, ProMP and garage); in
        its code the deviation begins at 1 and stays above 1e-6; weights begin so in rllab, pytorch-maml-rl and ProMP.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int],
        activation: Literal["relu", "tanh"],
        init_std: float,
        min_std: float,
    ) -> None:
        super().__init__()
        checks.integer("num_outputs", num_outputs, minimum=1)
        if num_outputs % 2:
            raise ValueError(
                f"num_outputs must be even for a policy whose actions are real numbers, a mean and a deviation for each, got "
                f"{num_outputs}. Where actions are choices, choose model=softmax_policy; where there are none, model=mlp."
            )
        for name, value in (("init_std", init_std), ("min_std", min_std)):
            checks.number(name, value, minimum=0, exclusive=True)
        if init_std < min_std:
            raise ValueError(
                f"init_std must be >= min_std, below which no deviation falls, got {init_std} and {min_std}."
            )
        self.mean = MLP(input_shape=input_shape, num_outputs=num_outputs // 2, hidden=hidden, activation=activation)
        for layer in self.mean.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.log_std = nn.Parameter(torch.full((num_outputs // 2,), math.log(init_std)))
        self.min_log_std = math.log(min_std)
        self.head_layer = f"mean.layers.{len(self.mean.layers) - 1}"  # the deviations act past it

    def forward(self, inputs: Tensor) -> Tensor:
        """[S, *input_shape] -> [S, num_outputs]: means, then logarithms of deviations."""
        mean = self.mean(inputs)
        return torch.cat([mean, self.log_std.clamp(min=self.min_log_std).expand_as(mean)], -1)
