"""Nested dicts, sequences and dataclasses of tensors, as a flat list of the tensors and back."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def tensors_of(tree: Any) -> list[Tensor]:
    """Every tensor in a nest of dicts, lists, tuples and dataclasses, in their order; anything else in it is passed over."""
    if isinstance(tree, Tensor):
        return [tree]
    return [tensor for part in _parts(tree) for tensor in tensors_of(part)]


def with_tensors(tree: Any, tensors: list[Tensor]) -> Any:
    """The same nest with other tensors, as many as `tensors_of` finds, in that order."""
    rest = iter(tensors)
    made = mapped(tree, lambda _: next(rest))
    if next(rest, None) is not None:
        raise ValueError("more tensors than the structure has")
    return made


def mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with `function` of each tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: mapped(part, function) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(part, function) for part in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(
            tree, **{each.name: mapped(getattr(tree, each.name), function) for each in fields(tree) if each.init}
        )
    return tree


def _parts(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return list(tree.values())
    if isinstance(tree, list | tuple):
        return list(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, each.name) for each in fields(tree) if each.init]
    return []
