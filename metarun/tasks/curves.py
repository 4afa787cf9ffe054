"""What the regression families share: intervals, numbers of points, and draws from uniform numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_interval(name: str, interval: Sequence[float]) -> None:
    """Raise `ValueError` unless `interval` is [low, high] with low <= high."""
    interval = tuple(interval)
    if len(interval) != 2 or not interval[0] <= interval[1]:
        raise ValueError(
            f"{name} must be [low, high] with low <= high, got {list(interval)}. Set dataset.source.{name}."
        )


def check_points(shots: int, queries: int) -> None:
    """Raise `ValueError` unless both sets have a point; any number can be drawn."""
    if shots < 1:
        raise ValueError(f"shots must be >= 1, got {shots}. Set dataset.shots.")
    if queries < 1:
        raise ValueError(f"queries must be >= 1, got {queries}. Set dataset.queries or evaluation.queries.")


def scaled(unit: Tensor, interval: tuple[float, float]) -> Tensor:
    """Uniform in [low, high), from uniform in [0, 1)."""
    low, high = interval
    return low + (high - low) * unit


def normal(unit: Tensor) -> Tensor:
    """Standard normal, from uniform in [0, 1) with 53 random bits, by the inverse of the distribution function."""
    # The middle of each of the 2^53 cells, which would round to 1 in the last one.
    return torch.special.ndtri((unit + 2.0**-54).clamp(max=1 - 2.0**-53))
