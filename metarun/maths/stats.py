"""Means over tasks and over runs, and how far to believe them. Standard library alone: reports must answer at once."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DIVERGED = 100.0
"""A task whose loss is beyond so many times the median has diverged: where none has, the largest was seen at 5 to 30 times."""
_MAX_NAMED = 8


@dataclass(frozen=True)
class Summary:
    """`mean` over `num_tasks` tasks, their standard deviation `std` (ddof 1) and `ci95`, the half-width of the 95 % interval.

    `median` says what most tasks were like where one of the `num_diverged` decides the mean.
    """

    mean: float
    std: float
    ci95: float
    num_tasks: int
    median: float
    num_diverged: int = 0

    @property
    def is_finite(self) -> bool:
        """Whether there is a score at all: a mean that is a number, of tasks that have not all diverged."""
        return has_score(vars(self))


def has_score(summary: Mapping[str, Any]) -> bool:
    """`Summary.is_finite` of a summary as result.json holds it, where null stands for what is no number."""
    mean = summary["mean"]
    return mean is not None and math.isfinite(mean) and summary.get("num_diverged", 0) < summary["num_tasks"]


def summarize(values: Sequence[float], num_diverged: int = 0) -> Summary:
    """Mean, standard deviation (ddof 1), 95 % half-width 1.96 std / sqrt(n) and median over tasks.

    A value that is not finite makes the mean and its interval NaN; the median ranks it last, as a loss is ranked.

    Raises:
        ValueError: fewer than two values, for which no interval exists.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 tasks, got {count}")
    median = statistics.median(value if math.isfinite(value) else math.inf for value in values)
    mean = std = math.nan
    if all(map(math.isfinite, values)):
        mean = _sum(values) / count
        std = math.sqrt(_sum([(value - mean) * (value - mean) for value in values]) / (count - 1))
    return Summary(mean, std, 1.96 * std / math.sqrt(count), count, median, num_diverged)


def _sum(values: Sequence[float]) -> float:
    """Without rounding on the way; infinity beyond the largest double."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def diverged(values: Sequence[float], *, is_loss: bool) -> list[int]:
    """The tasks whose value is not finite or, of losses, beyond DIVERGED times the median of those that are."""
    finite = [value for value in values if math.isfinite(value)]
    median = statistics.median(finite) if finite and is_loss else 0.0
    limit = DIVERGED * median if median > 0 else math.inf  # a negative log-likelihood has no such scale
    return [task for task, value in enumerate(values) if not (math.isfinite(value) and value <= limit)]


def count_words(tasks: Sequence[int], num_tasks: int) -> str:
    """`1 of 600 tasks: 133`, the first few by their numbers."""
    if len(tasks) == num_tasks:
        return f"all {num_tasks} tasks"
    more = ", ..." if len(tasks) > _MAX_NAMED else ""
    return f"{len(tasks)} of {num_tasks} tasks: {', '.join(map(str, tasks[:_MAX_NAMED]))}{more}"


def student_t_half_width(values: Sequence[float]) -> float | None:
    """Half-width of the 95 % interval of a mean over few values: t(0.975, n - 1) std / sqrt(n).

    With 3 seeds the factor is 4.30 and not 1.96: the standard deviation of 3 values is itself hardly known.

    Returns:
        None for fewer than two values; NaN where a value is.
    """
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan
    summary = summarize(values)
    return student_t_quantile(0.975, len(values) - 1) * summary.std / math.sqrt(len(values))


def student_t_quantile(probability: float, degrees: int) -> float:
    """The t with P(T <= t) = `probability` for Student's distribution with `degrees` degrees of freedom.

    By bisection of the distribution function, to the last bits of a double.

    Raises:
        ValueError: probability outside (0.5, 1), or degrees < 1.
    """
    if not 0.5 < probability < 1 or degrees < 1:
        raise ValueError(f"needs 0.5 < probability < 1 and degrees >= 1, got {probability} and {degrees}")
    low, high = 0.0, 1.0
    while student_t_within(high, degrees) < 2 * probability - 1:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if student_t_within(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def student_t_within(t: float, degrees: int) -> float:
    """P(|T| <= t), t >= 0, as the finite sum that it is for a whole number of degrees of freedom.

    Source: Abramowitz and Stegun, equations 26.7.3 (odd) and 26.7.4 (even), with theta = arctan(t / sqrt(degrees)).
    """
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = degrees % 2
    term = cosine if is_odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(3 if is_odd else 2, degrees, 2):  # the terms up to cosine^(degrees - 2)
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (theta + sine * total) if is_odd else sine * total
