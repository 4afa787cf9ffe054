"""Means over tasks and over runs, and how far to believe them. Standard library alone: reports must answer at once."""

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
