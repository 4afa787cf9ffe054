"""The curves of a comparison: one for each cell, its seeds averaged, with the band that they span."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from metarun.report.cells import ResultGrid
from metarun.report.runs import Run
from metarun.report.scales import is_logarithmic
from metarun.tracking.jsonl import Reach, read_metrics


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Mean `y` over `seeds` runs at each `x`, between the lowest and the highest of them; scores in their own unit.

    `selected` are those of `x` whose parameters some run was tested with. `number` is the place of its runs in the table, so
    that they look the same in every figure.
    """

    name: str
    number: int
    seeds: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    selected: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of any kind: what it is called, its axes, its curves.

    An axis is logarithmic where what lies on it spans decades: `y` by its scores, `x` by how far its curves reach.
    """

    file: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    is_percent: bool
    x_is_whole: bool = False

    @property
    def has_bands(self) -> bool:
        """Whether any curve is of several seeds, so that a band says how far they lie apart."""
        return any(curve.seeds > 1 for curve in self.curves)

    @property
    def has_selected(self) -> bool:
        """Whether any curve has a selected step to be marked."""
        return any(curve.selected for curve in self.curves)

    @property
    def x_is_log(self) -> bool:
        """Not where it begins at zero, as inner steps do."""
        ends = [curve.x[-1] for curve in self.curves if curve.x]
        return is_logarithmic(ends) and all(x > 0 for curve in self.curves for x in curve.x)

    @property
    def y_is_log(self) -> bool:
        """Not of a percentage: it has a scale of its own, and its upper end is what matters."""
        return not self.is_percent and is_logarithmic(
            y for curve in self.curves for side in (curve.y, curve.low, curve.high) for y in side
        )


def figures(grid: ResultGrid) -> list[Figure]:
    """Learning curves, the score against inner steps, and the score against wall time; those that have any curve.

    One point is no curve: the tables have its number.
    """
    by_step: list[Curve] = []
    by_second: list[Curve] = []
    by_inner_step: list[Curve] = []
    by_count: list[Curve] = []
    counted = {
        name for cell in grid.run_cells for run in cell.finished for name in (run.result or {}).get("counted") or ()
    }
    for number, cell in enumerate(grid.run_cells):
        if not cell.finished:
            continue
        name = grid.run_name(cell)
        trained = [run for run in cell.finished if run.evaluation is None]
        records = [record for run in trained if (record := _validations(run, grid.score, cell.problems))]
        if records:
            steps = sorted(set.intersection(*map(set, records)))
            scores = [[record[step].score for step in steps] for record in records]
            chosen = {(run.result or {})["protocol"]["selected_step"] for run in trained}
            are_selected = [step in chosen for step in steps]
            by_step.append(_curve(name, number, steps, scores, are_selected))
            seconds = [math.fsum(record[step].seconds for record in records) / len(records) for step in steps]
            by_second.append(_curve(name, number, seconds, scores, are_selected))
            counts = [[record[step].counted for step in steps] for record in records]
            if len(counted) == 1 and all(count is not None for each in counts for count in each):
                means = [math.fsum(filter(None, each)) / len(records) for each in zip(*counts, strict=True)]
                by_count.append(_curve(name, number, means, scores, are_selected))
        measured = [run.scores() for run in cell.finished]
        inner = sorted(set.intersection(*map(set, measured)))
        by_inner_step.append(_curve(name, number, inner, [[scores[n]["mean"] for n in inner] for scores in measured]))
    name_of_score = grid.score.upper() if len(grid.score) < 4 else grid.score.capitalize()
    score = f"{grid.score} (%)" if grid.is_percent else grid.score
    found = [
        Figure(
            file="learning_curves",
            title="Learning curves",
            x_label="outer step",
            y_label=f"validation {score}",
            curves=tuple(by_step),
            x_is_whole=True,
            is_percent=grid.is_percent,
        ),
        Figure(
            file="inner_steps",
            title=f"{name_of_score} against inner steps",
            x_label="inner steps at test",
            y_label=f"test {score}",
            curves=tuple(by_inner_step),
            x_is_whole=True,
            is_percent=grid.is_percent,
        ),
        Figure(
            file="wall_time",
            title=f"{name_of_score} against wall time",
            x_label="seconds spent in training steps",
            y_label=f"validation {score}",
            curves=tuple(by_second),
            is_percent=grid.is_percent,
        ),
        Figure(
            file="counted",
            title=f"{name_of_score} against {_words(counted)}",
            x_label=_words(counted),
            y_label=f"validation {score}",
            curves=tuple(by_count),
            is_percent=grid.is_percent,
        ),
    ]
    return [figure for figure in found if any(len(curve.x) > 1 for curve in figure.curves)]


def _curve(
    name: str, number: int, x: Sequence[float], scores: Sequence[Sequence[float]], are_selected: Sequence[bool] = ()
) -> Curve:
    at_each = list(zip(*scores, strict=True))
    return Curve(
        name=name,
        number=number,
        seeds=len(scores),
        x=tuple(map(float, x)),
        y=tuple(math.fsum(values) / len(values) for values in at_each),
        low=tuple(map(min, at_each)),
        high=tuple(map(max, at_each)),
        selected=tuple(float(place) for place, is_selected in zip(x, are_selected, strict=False) if is_selected),
    )


@dataclass(frozen=True)
class _Validation:
    """Seconds spent in training steps until then, how much had been worked on (where that is counted), and the score."""

    seconds: float
    counted: float | None
    score: float


def _words(counted: set[str]) -> str:
    return ", ".join(sorted(counted)).replace("_", " ")


def _validations(run: Run, score: str, problems: list[str]) -> dict[int, _Validation]:
    """By outer step, from metrics.jsonl."""
    (counted,) = (run.result or {}).get("counted") or (None,)  # absent from results of earlier versions
    try:
        reach = (run.result or {}).get("record")  # absent from results of earlier versions
        rows = read_metrics(run.path / "metrics.jsonl", Reach(**reach) if reach else None)
    except (OSError, ValueError) as error:
        problems.append(f"{run.path}: no curve, metrics.jsonl cannot be read ({error})")
        return {}
    steps, seconds = [0], [0.0]
    counted_at, counts = [0], [0.0]
    for row in rows:
        count = row.get(f"train/{counted}_so_far")
        if count is not None and row["step"] > counted_at[-1]:
            counted_at.append(int(row["step"]))
            counts.append(float(count))
        step_s = row.get("time/step_s")  # mean over the steps since the line before
        if step_s is not None and row["step"] > steps[-1]:
            seconds.append(seconds[-1] + step_s * (row["step"] - steps[-1]))
            steps.append(int(row["step"]))
    scores = {int(row["step"]): value for row in rows if (value := row.get(f"val/{score}")) is not None}
    return {
        step: _Validation(
            seconds=_interpolated(step, steps, seconds),
            counted=_interpolated(step, counted_at, counts) if counted else None,
            score=value,
        )
        for step, value in scores.items()
    }


def _interpolated(step: int, steps: Sequence[int], values: Sequence[float]) -> float:
    """The value at a step between (or after) those that are known."""
    if len(steps) < 2:
        return 0.0
    right = min(max(bisect.bisect_left(steps, step), 1), len(steps) - 1)
    speed = (values[right] - values[right - 1]) / (steps[right] - steps[right - 1])
    return values[right] + speed * (step - steps[right])
