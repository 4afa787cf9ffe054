"""The mean over tasks, and how far to believe it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """`mean` over `num_tasks` tasks, their standard deviation `std` (ddof 1) and `ci95`, the half-width of the 95 % interval."""

    mean: float
    std: float
    ci95: float
    num_tasks: int


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation (ddof 1) and 95 % half-width 1.96 std / sqrt(n) over tasks.

    Raises:
        ValueError: fewer than two values, for which no interval exists.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 tasks, got {count}")
    mean = math.fsum(values) / count
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Summary(mean=mean, std=std, ci95=1.96 * std / math.sqrt(count), num_tasks=count)
