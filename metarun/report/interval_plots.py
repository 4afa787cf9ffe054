"""Means and their intervals as drawings beside the rows of a table, on one scale that stands below them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metarun.report.cells import Estimate, ResultGrid
from metarun.report.scales import is_logarithmic, ticks
from metarun.report.tables import decimals, number

_WIDTH, _HEIGHT = 260, 26
_TICKS = 4  # labels of five figures stand beside each other


@dataclass(frozen=True, kw_only=True)
class IntervalPlots:
    """SVG texts.

    Attributes:
        key: what the two lines mean, of those that are drawn.
        rows: one for each row of the table; "" where there is no mean.
        axis: the scale, with its ticks.
    """

    key: str
    rows: tuple[str, ...]
    axis: str


def interval_plots(estimates: Sequence[Estimate | None], grid: ResultGrid, *, zero: bool) -> IntervalPlots | None:
    """Draw the estimates; None without any.

    The scale holds the means and the intervals over tasks; an interval over two seeds may be huge, and runs out of it. Where the
    means span decades it is logarithmic.

    Args:
        zero: whether these are differences, which zero is to be seen beside.
    """
    shown = [estimate for estimate in estimates if estimate is not None and math.isfinite(estimate.mean)]
    if not shown:
        return None
    scale = _Scale.of(shown, factor=100.0 if grid.is_percent else 1.0, is_percent=grid.is_percent, zero=zero)
    places = decimals(grid)
    rows = []
    for estimate in estimates:
        if estimate is None or not math.isfinite(estimate.mean):
            rows.append("")
            continue
        marks = "".join(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>' for x, _ in scale.ticks)
        x = scale.at(0.0) if zero else 0.0
        marks += f'<line class="zero" x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>' if zero else ""
        for kind, half in (("tasks", estimate.over_tasks), ("seeds", estimate.over_seeds)):
            if half is not None and math.isfinite(half):
                left, right = estimate.mean - half, estimate.mean + half
                marks += f'<line class="{kind}" x1="{scale.at(left)}" x2="{scale.at(right)}" y1="13" y2="13"/>'
                marks += '<path class="off" d="M0 13 l6 -4 v8 z"/>' if left < scale.low else ""
                marks += f'<path class="off" d="M{_WIDTH} 13 l-6 -4 v8 z"/>' if right > scale.high else ""
        label = number(estimate.mean, grid, places, sign=zero)
        marks += f'<circle cx="{scale.at(estimate.mean)}" cy="13" r="4.5"/>'
        rows.append(
            f'<svg class="forest" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{marks}</svg>'
        )
    marks = f'<line class="axis" x1="0" x2="{_WIDTH}" y1="1" y2="1"/>'
    for x, words in scale.ticks:
        anchor = "start" if x < 16 else "end" if x > _WIDTH - 16 else "middle"
        marks += f'<line class="axis" x1="{x}" x2="{x}" y1="1" y2="5"/>'
        marks += f'<text x="{x}" y="18" text-anchor="{anchor}">{words}</text>'
    axis = f'<svg class="forest" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="scale">{marks}</svg>'
    kinds = [
        kind
        for kind, halves in (
            ("tasks", [estimate.over_tasks for estimate in shown]),
            ("seeds", [estimate.over_seeds for estimate in shown]),
        )
        if any(half is not None and math.isfinite(half) for half in halves)
    ]
    key = " ".join(
        f'<svg class="key" viewBox="0 0 26 10" aria-hidden="true"><g class="forest"><line class="{kind}" x1="2" x2="24" y1="5" '
        f'y2="5"/></g></svg> {kind}'
        for kind in kinds
    )
    return IntervalPlots(key=key, rows=tuple(rows), axis=axis)


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """From `low` to `high` in the scores' unit; labels are these times `factor`."""

    low: float
    high: float
    is_log: bool
    factor: float

    @classmethod
    def of(cls, shown: Sequence[Estimate], *, factor: float, is_percent: bool, zero: bool) -> "_Scale":
        is_log = not zero and not is_percent and is_logarithmic(estimate.mean for estimate in shown)
        ends = [0.0] if zero else []
        for estimate in shown:
            half = max(
                estimate.over_tasks or 0.0, min(estimate.over_seeds or 0.0, 8 * (estimate.over_tasks or math.inf))
            )
            ends += [estimate.mean - half, estimate.mean + half] if math.isfinite(half) else [estimate.mean]
        if is_log:
            least = min(estimate.mean for estimate in shown)
            low, high = max(min(end for end in (*ends, least) if end > 0), least / 2), max(ends)
            pad = (high / low) ** 0.06
            return cls(low=low / pad, high=high * pad, is_log=True, factor=factor)
        low, high = min(ends), max(ends)
        pad = 0.06 * (high - low) or abs(low) * 0.1 or 1.0
        return cls(low=low - pad, high=high + pad, is_log=False, factor=factor)

    def at(self, value: float) -> float:
        """Where it is in the drawing, at its edge where it lies beyond."""
        if self.is_log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(_WIDTH * min(max(part, 0.0), 1.0), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        found = ticks(self.factor * self.low, self.factor * self.high, _TICKS, is_log=self.is_log)
        return [(self.at(value / self.factor), words) for value, words in found]
