"""Checks of values that a person wrote, used by every part's `__post_init__`: what must hold, and what was given."""

import math
from collections.abc import Sequence


def integer(name: str, value: object, *, minimum: int) -> None:
    """Raise `ValueError` unless `value` is an integer >= minimum (`True` is not an integer here)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    if value >= 2**63:
        raise ValueError(f"{name} must be an integer of at most 64 bits, got one of {value.bit_length()}")


def number(name: str, value: object, *, minimum: float, exclusive: bool = False, below: float = math.inf) -> None:
    """Raise `ValueError` unless `value` is a finite number >= (or, when `exclusive`, >) minimum and < `below`."""
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) != math.inf
        and (value > minimum if exclusive else value >= minimum)
        and value < below
    ):
        return
    limits = f"{'>' if exclusive else '>='} {minimum:g}" + ("" if below == math.inf else f" and < {below:g}")
    raise ValueError(f"{name} must be a number {limits}, got {value!r}")


def numbers(name: str, value: object, *, minimum: float, exclusive: bool = False) -> None:
    """Raise `ValueError` unless `value` is a list, not empty, of finite numbers >= (or, when `exclusive`, >) minimum."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a list of numbers, such as [0.5, 0.25], got {value!r}")
    for place, each in enumerate(value):
        number(f"{name}[{place}]", each, minimum=minimum, exclusive=exclusive)


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def boolean(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def steps(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a list, not empty, of integers >= 0."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a list of integers, such as [0, 1, 10], got {value!r}")
    for each in value:
        integer(name, each, minimum=0)
