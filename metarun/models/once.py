"""Functions without a second derivative that PyTorch differentiates twice even so, without a word."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_ONCE = torch.autograd.function.once_differentiable(lambda ctx: None)


@contextlib.contextmanager
def refuse_second_derivatives(outputs: Tensor) -> Iterator[None]:
    """Within the block, a second derivative through a function that is `once_differentiable` raises `RuntimeError`.

    PyTorch raises only where the gradient from above has a graph; else it counts what the function saved as constant, and
    the second derivative is silently another.

    Args:
        outputs: in whose graph such functions are looked for.
    """
    functions = _once_differentiable(outputs)
    own = {function: function.__dict__["backward"] for function in functions}

    def refusing(function: type) -> Any:
        def backward(ctx: Any, *gradients: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(f"{function.__name__} is marked with @once_differentiable")
            return own[function].__func__(ctx, *gradients)

        return staticmethod(backward)

    for function in functions:
        function.backward = refusing(function)
    try:
        yield
    finally:
        for function, backward in own.items():
            function.backward = backward


def _once_differentiable(outputs: Tensor) -> set[type[torch.autograd.Function]]:
    """The functions marked so in the graph of `outputs`."""
    found, seen, nodes = set(), set(), [outputs.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes.extend(before for before, _ in node.next_functions)
        function = getattr(node, "_forward_cls", None)
        backward = None if function is None else function.__dict__.get("backward")
        if isinstance(backward, staticmethod) and backward.__func__.__code__ is _ONCE.__code__:
            found.add(function)
    return found
