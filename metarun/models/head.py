"""Which layer makes a model's outputs: found by calling it, since the order of registration does not say."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def learnable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name that are learned at all, each once."""
    return {name: leaf for name, leaf in module.named_parameters() if leaf.requires_grad}


def names_of_each(module: nn.Module) -> list[list[str]]:
    """For each parameter the names that it has in different layers, the first as in `named_parameters`.

    A layer that is known by two names counts once: its parameters are one attribute.
    """
    names: dict[int, list[str]] = {}
    for prefix, layer in module.named_modules():
        for name, leaf in layer.named_parameters(prefix, recurse=False):
            names.setdefault(id(leaf), []).append(name)
    return list(names.values())


def find_head(module: nn.Module, call: Callable[[], Tensor]) -> str:
    """Name of the last layer with parameters, if the outputs depend on all others through it alone; "" for `module` itself.

    Args:
        call: runs the module, with a graph to its parameters where it can have one.
    Raises:
        ValueError: there is no such layer.
    """
    # A container's own parameters (a temperature) belong to no layer: whatever they do is seen below.
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if any(leaf.requires_grad for leaf in layer.parameters())
        and not any(leaf.requires_grad for child in layer.children() for leaf in child.parameters())
    }
    order: list[str] = []
    with _hooks({layer: lambda *_, name=name: order.append(name) for name, layer in layers.items()}), torch.no_grad():
        call()
    if not order:
        raise ValueError("no layer with parameters of its own was called")
    head = order[-1]
    cut: list[Tensor] = []

    def cut_off(_layer: nn.Module, _inputs: Any, outputs: Any) -> Any:
        def leaf(tensor: Tensor) -> Tensor:
            cut.append(tensor.detach().requires_grad_())
            return cut[-1].clone()  # what follows may write into it

        return tree_map_only(Tensor, leaf, outputs)

    parameters = learnable(module)
    with _hooks({layers[head]: cut_off}), torch.enable_grad():
        outputs = call()
    if not outputs.requires_grad:
        raise ValueError(f"the outputs do not depend on {head}, the last layer called")
    gradients = torch.autograd.grad(outputs.sum(), [*cut, *parameters.values()], allow_unused=True)
    past = [name for name, gradient in zip(parameters, gradients[len(cut) :], strict=True) if gradient is not None]
    if all(gradient is None for gradient in gradients[: len(cut)]):
        raise ValueError(f"the outputs do not depend on {head}, the last layer called")
    if past:
        raise ValueError(
            f"the last layer is {head or 'the module itself'}, and {', '.join(past[:3])} "
            f"{'acts' if len(past) == 1 else 'act'} on the outputs past it"
        )
    return head


def parameters_of(module: nn.Module, head: str) -> list[str]:
    """Names of the head's parameters among those that are learned.

    Raises:
        ValueError: no such layer, none of its parameters is learned, or one is another layer's, too.
    """
    layers = dict(module.named_modules())
    if head not in layers:
        named = ", ".join(name for name, layer in layers.items() if name and list(layer.parameters()))
        raise ValueError(f"head must be a layer of the model, got {head!r}; it has {named}")
    prefix = f"{head}." if head else ""
    names = [name for name in learnable(module) if name.startswith(prefix)]
    for shared in names_of_each(module):
        inside = [name for name in shared if name.startswith(prefix)]
        if inside and len(inside) < len(shared):
            other = next(name for name in shared if name not in inside)
            raise ValueError(f"the head's {inside[0]} is the parameter {other}, too: it cannot be adapted alone")
    if not names:
        raise ValueError(f"no parameter of the head, {head or 'the module itself'}, is learned")
    return names


class _hooks:
    """Forward hooks on layers for the length of a block."""

    def __init__(self, hooks: dict[nn.Module, Callable[..., Any]]) -> None:
        self._hooks = hooks

    def __enter__(self) -> None:
        self._handles = [layer.register_forward_hook(hook) for layer, hook in self._hooks.items()]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
