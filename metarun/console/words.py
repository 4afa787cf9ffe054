"""Numbers in words, as every command prints them."""

import math
from collections.abc import Mapping
from typing import Any


def collected_words(shots: int, queries: int, examples: str) -> str:
    """How much is collected for a task: `20 episodes for each inner step, 20 to measure`."""
    return f"{shots} {examples} for each inner step, {queries} to measure"


def clock_words(seconds: float) -> str:
    """`3:07` or `1:02:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def interval(mean: float | None, half: float | None, is_percent: bool) -> str:
    """`93.4 ± 0.5 %` or `0.352 ± 0.021`; null in a file is what was not finite."""
    if mean is None or not math.isfinite(mean):
        return "not finite"
    return f"{amount(mean, is_percent)} ± {amount(half, is_percent)}{' %' if is_percent else ''}"


def summary_words(score: str, summary: Mapping[str, Any]) -> str:
    """`accuracy 93.4 ± 0.5 %`, and how many tasks diverged if any did, from a summary as result.json has it."""
    words = f"{score} {interval(summary['mean'], summary['ci95'], score == 'accuracy')}"
    count = summary.get("num_diverged", 0)  # absent from those of earlier versions
    return f"{words}, {count} of {summary['num_tasks']} tasks diverged" if count else words


def amount(value: float | None, is_percent: bool, sign: str = "") -> str:
    """`93.4` or `0.352`; very large ones by their first digits, `1.67e+10`."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if is_percent:
        return fixed(100 * value, 1, sign)
    return fixed(value, 3, sign) if abs(value) < 1e6 else f"{value:{sign}.3g}"


def fixed(value: float, places: int, sign: str = "") -> str:
    """With so many decimals; what rounds to zero has no sign, for nobody measured one."""
    text = f"{value:{sign}.{places}f}"
    return text if float(text) else text.lstrip("+-")
