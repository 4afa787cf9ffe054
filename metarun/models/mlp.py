"""The multi-layer perceptron of the sinusoid experiments."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from metarun import checks

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}


class MLP(nn.Module):
    """Linear layers with activations between them.

    Args:
        input_shape: of one example; flattened.
        num_outputs: outputs of one example.
        hidden: widths of the hidden layers.
        activation: "relu", "tanh" or "softplus" (the last two have second derivatives everywhere).
        init_std: None for PyTorch's initialisation; a number for normal weights of that deviation, cut at two of them, and
            biases of zero.
    Source: Finn et al. 2017, section 5.1 (two hidden layers of 40) and its code (`init_std` 0.01). PyTorch's own start
        does not lose the first thousands of steps on a plateau.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (40, 40),
        activation: Literal["relu", "tanh", "softplus"] = "relu",
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        checks.one_of("activation", activation, tuple(_ACTIVATIONS))
        for name, sizes in (("input_shape", input_shape), ("num_outputs", [num_outputs]), ("hidden", hidden)):
            for size in sizes:
                checks.integer(name, size, minimum=1)
        sizes = [math.prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), _ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_outputs))
        if init_std is not None:
            checks.number("init_std", init_std, minimum=0, exclusive=True)
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
                    nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """[S, *input_shape] -> [S, num_outputs]."""
        return self.layers(inputs)
