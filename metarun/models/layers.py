"""What a model's linear and convolutional layers are given, and their outputs as variables: Kronecker factors are made of both."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.maths.trees import Params
from metarun.models.head import names_of_each


@dataclass(frozen=True)
class Layer:
    """A layer whose outputs are a matrix times rows made of its inputs: y = W a, with a one at the end of a where there is a bias.

    Attributes:
        weight, bias: names of its parameters; no bias: None.
        module: the layer itself.
    """

    weight: str
    bias: str | None
    module: nn.Linear | nn.Conv1d | nn.Conv2d

    @property
    def names(self) -> list[str]:
        """Of its parameters."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def inputs(self, given: Tensor) -> Tensor:
        """The rows a of what the layer was given, [B, S, ...]: [B, S, T, in], T the places of a convolution's window."""
        layer = self.module
        if isinstance(layer, nn.Linear):
            rows = given.reshape(*given.shape[:2], -1, given.shape[-1])
        else:
            images, kernel, dilation, padding, stride = given.flatten(0, 1), *map(_two, _geometry(layer))
            if isinstance(layer, nn.Conv1d):
                images, kernel, dilation, padding, stride = (
                    images[:, :, None], (1, kernel[0]), (1, dilation[0]), (0, padding[0]), (1, stride[0])
                )  # fmt: skip
            rows = F.unfold(images, kernel, dilation, padding, stride).mT.unflatten(0, given.shape[:2])
        return rows if self.bias is None else F.pad(rows, (0, 1), value=1.0)

    def outputs(self, values: Tensor) -> Tensor:
        """Values of the shape of the layer's outputs [B, S, ...], in the order of `inputs`: [B, S, T, out]."""
        if isinstance(self.module, nn.Linear):
            return values.reshape(*values.shape[:2], -1, values.shape[-1])
        return values.flatten(3).mT

    def matrix(self, leaves: Params) -> Tensor:
        """W of the layer's leaves [B, ...]: [B, out, in]."""
        weight = leaves[self.weight].flatten(2)
        return weight if self.bias is None else torch.cat([weight, leaves[self.bias][..., None]], -1)

    def leaves(self, matrix: Tensor, like: Params) -> Params:
        """The inverse of `matrix`."""
        weight = matrix if self.bias is None else matrix[..., :-1]
        leaves = {self.weight: weight.reshape(like[self.weight].shape)}
        return leaves if self.bias is None else leaves | {self.bias: matrix[..., -1]}


def layers_of(module: nn.Module, names: Iterable[str]) -> list[Layer]:
    """Linear and convolutional layers, as PyTorch has them, whose parameters are all among `names` and their own alone."""
    known = set(names)
    shared = {name for each in names_of_each(module) if len(each) > 1 for name in each}
    found = []
    for prefix, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or not _is_plain(layer):
            continue
        names = [name for name, _ in layer.named_parameters(recurse=False)]
        own = [f"{prefix}.{name}".lstrip(".") for name in names]
        if names in (["weight"], ["weight", "bias"]) and all(name in known and name not in shared for name in own):
            found.append(Layer(own[0], own[1] if len(own) > 1 else None, layer))
    return found


@contextmanager
def recording(layers: list[Layer], shifts: Params | None = None) -> Iterator[Params]:
    """Within the block, each call of a layer is written down in the order of calls: what it is given, by its `label`.

    Args:
        shifts: by the same labels, are added to the outputs: what is differentiated by them is differentiated by the outputs.
    """
    given: Params = {}

    def hook(number: int, _: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        name = label(number, sum(other.startswith(f"{number}:") for other in given))
        given[name] = inputs[0] if shifts is not None else outputs
        return outputs if shifts is None else outputs + shifts[name]

    handles = [layer.module.register_forward_hook(partial(hook, number)) for number, layer in enumerate(layers)]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def label(number: int, call: int) -> str:
    """Of a call of the layer with this number."""
    return f"{number}:{call}"


def _is_plain(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> bool:
    if isinstance(layer, nn.Linear):
        return type(layer).forward is nn.Linear.forward
    kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    is_own = type(layer).forward is kind.forward
    return is_own and layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _geometry(layer: nn.Conv1d | nn.Conv2d) -> tuple:
    return layer.kernel_size, layer.dilation, layer.padding, layer.stride


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[-1])
