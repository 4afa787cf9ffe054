"""Scales of axes: linear or logarithmic, by what is drawn. Standard library alone."""

import math
from collections.abc import Iterable

_DECADES = 1.5


def is_logarithmic(values: Iterable[float]) -> bool:
    """Whether an axis for these values is logarithmic: all are positive, and span more than a decade and a half.

    On a linear axis the smaller ones of such values would all lie at its foot. Values that are not finite do not count.
    """
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 10**_DECADES * min(finite)


def ticks(low: float, high: float, count: int, *, is_log: bool = False) -> list[tuple[float, str]]:
    """Round values in [low, high] and how they are written, about `count` or fewer.

    On a logarithmic axis 1, 2 and 5 times powers of ten where there is room for them, else powers of ten.
    """
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        found: list[float] = []
        for factors, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 5), ((1,), 20), ((1,), 100)):
            powers = range(first, last + 1, stride)
            found = [f * 10.0**power for power in powers for f in factors if low <= f * 10.0**power <= high]
            if len(found) <= count:
                break
        return [(value, f"{value:g}") for value in found]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-12))
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    whole = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    is_small = max(abs(low), abs(high)) < 1e6
    return [(k * step, f"{k * step:.{places}f}" if is_small and places < 7 else f"{k * step:g}") for k in whole]
