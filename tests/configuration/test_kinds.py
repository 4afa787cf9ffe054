"""metarun.configuration.kinds: values against annotations, in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch

from metarun.configuration.kinds import check_kinds


def part(
    count: int,
    rate: float | torch.Tensor,
    is_on: bool,
    name: str | None,
    is_set: bool | None,
    mode: Literal["a", "b"],
    chunk: int | Literal["auto"] | None,
    pair: tuple[float, float],
    sizes: Sequence[int],
    weights: float | Mapping[str, float],
    place: str | Path,
    unknown: torch.dtype,
    quoted: "list[float] | float",
    missing: "NoSuchName",  # noqa: F821
    loose: float = None,  # noqa: RUF013 (as is often written)
    anything=3,
) -> None:
    """A part with a parameter of every kind."""


@pytest.mark.parametrize(
    "values",
    [
        {"count": 3, "rate": 1, "is_on": True, "name": None, "mode": "b", "chunk": "auto", "pair": [0, 1.5]},
        {"rate": 0.1, "name": "x", "chunk": None, "sizes": [], "weights": {"head": 1}, "place": "/a", "quoted": [1.0]},
        {"chunk": 4, "sizes": (1, 2), "weights": 2.0, "unknown": "float32", "quoted": 1, "missing": {}, "loose": None},
        {"anything": object(), "no_parameter": 3},
    ],
)
def test_what_is_of_the_kind_passes(values):
    check_kinds(part, values)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", 1.0, "an integer, got 1.0"),
        ("count", True, "an integer, got True"),
        ("count", None, "an integer, got None"),
        ("rate", "abc", "a number, got 'abc'"),
        ("rate", float("nan"), "a number, got nan"),
        ("rate", float("inf"), "a number, got inf"),
        ("rate", True, "a number, got True"),
        ("is_on", "maybe", "true or false, got 'maybe'"),
        ("is_on", 1, "true or false, got 1"),
        ("name", 1, "a string or null, got 1"),
        ("is_set", "maybe", "true, false or null, got 'maybe'"),
        ("mode", "c", "one of a, b, got 'c'"),
        ("chunk", "all", "an integer, auto or null, got 'all'"),
        ("pair", [1.0], "a list of 2 numbers, got [1.0]"),
        ("pair", ["a", "b"], "a list of 2 numbers, got ['a', 'b']"),
        ("sizes", 64, "a list of integers, got 64"),
        ("sizes", "64", "a list of integers, got '64'"),
        ("sizes", [64, 0.5], "a list of integers, got [64, 0.5]"),
        ("weights", {"head": "x"}, "a number or a mapping to numbers, got {'head': 'x'}"),
        ("place", 3, "a string or a path, got 3"),
        ("quoted", "x", "a list of numbers or a number, got 'x'"),
        ("loose", "x", "a number, got 'x'"),
    ],
)
def test_what_is_not_is_told_in_one_line(name, value, words):
    with pytest.raises(ValueError) as raised:
        check_kinds(part, {name: value})
    assert str(raised.value) == f"{name} must be {words}"


def test_of_torch_and_of_classes_written_in_c():
    with pytest.raises(ValueError, match=r"^lr must be a number, got 'abc'$"):
        check_kinds(torch.optim.SGD, {"lr": "abc"})
    # Its module does not have every name that its annotations use; the others are still read.
    with pytest.raises(ValueError, match=r"^base_lr must be a number or a list of numbers, got 'x'$"):
        check_kinds(torch.optim.lr_scheduler.CyclicLR, {"scale_fn": 3, "base_lr": "x"})
    check_kinds(int, {"x": 3})
