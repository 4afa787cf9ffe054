"""Whether values from a configuration are of the kinds that a class or function is annotated with."""

import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def check_kinds(function: Callable[..., Any], values: Mapping[str, object]) -> None:
    """Raise `ValueError` unless each value is of the kind that the parameter of its name is annotated with.

    Values are what YAML has: true, false, numbers, strings, null, lists and mappings. A parameter's own default is always
    right; a name that is no parameter, and an annotation that says nothing about such values, is left to others.

    Args:
        function: a class or a function.
        values: by the names of its parameters.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return
    for name, value in values.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = _evaluated(parameter.annotation, function)
        if not (_fits(value, annotation) or (value is None and parameter.default is None)):
            raise ValueError(f"{name} must be {_words(annotation)}, got {value!r}")


_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    Path: ("a path", "paths"),
    type(None): ("null", "nulls"),
}
_LISTS = (list, tuple, Sequence, Iterable)
_MAPPINGS = (dict, Mapping)


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """An annotation that is text, as an object; `Any` where its module does not have the name."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(vars(sys.modules[function.__module__])))
    except Exception:  # whatever the text says: it is somebody else's
        return Any


def _fits(value: object, annotation: Any) -> bool:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(value, inside[0])
    if origin in (Union, types.UnionType):
        # A class that YAML has no values of is none of the choices, as a tensor beside a number.
        return any(_fits(value, each) for each in inside if _is_of_yaml(each))
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inside)
    if annotation in (None, type(None)):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is Path:
        return isinstance(value, str)
    kind = origin or annotation
    if kind in _MAPPINGS:
        each = inside[1] if len(inside) == 2 else Any
        return isinstance(value, Mapping) and all(_fits(item, each) for item in value.values())
    if kind in _LISTS:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if kind is tuple and inside and inside[-1] is not Ellipsis:
            return len(value) == len(inside) and all(_fits(*pair) for pair in zip(value, inside, strict=True))
        return all(_fits(item, inside[0] if inside else Any) for item in value)
    return True


def _is_of_yaml(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    return kind in (*_WORDS, None, Any, Annotated, Literal, Union, types.UnionType, *_LISTS, *_MAPPINGS)


def _words(annotation: Any, several: bool = False) -> str:
    """What a value of this kind is, in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inside[0], several)
    if origin in (Union, types.UnionType):
        choices = (
            ", ".join(_words(each, several) for each in inside if _is_of_yaml(each)).replace(" or ", ", ").split(", ")
        )
        return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    if origin is Literal:
        return f"{'' if len(inside) == 1 else 'one of '}{', '.join(map(str, inside))}"
    kind = origin or annotation
    if kind in _MAPPINGS:
        return f"{'mappings' if several else 'a mapping'}{f' to {_words(inside[1], True)}' if inside else ''}"
    if kind in _LISTS:
        is_fixed = kind is tuple and inside and inside[-1] is not Ellipsis
        many = f"{len(inside)} " if is_fixed else ""
        return f"{'lists' if several else 'a list'}{f' of {many}{_words(inside[0], True)}' if inside else ''}"
    return _WORDS.get(type(None) if kind is None else kind, ("of another kind", "others"))[several]
