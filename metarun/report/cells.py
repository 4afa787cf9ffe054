"""One cell of a comparison and the grid of them: means over seeds, two intervals, paired differences."""

import contextlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from metarun.maths.stats import student_t_half_width, summarize
from metarun.report import protocol
from metarun.report.runs import Diverged, Run, word

INNER_STEPS = "inner_steps"
"""May stand among rows and columns: one for each measured number of inner steps."""

Label = tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean with two 95 % half-widths that answer different questions; None where one cannot be had.

    Attributes:
        over_seeds: Student's t over the runs' means: what another training run would give on the same test tasks.
        over_tasks: 1.96 standard errors over test tasks, each averaged over the runs: what other test tasks would give.
    """

    mean: float
    over_seeds: float | None
    over_tasks: float | None

    @property
    def is_clear(self) -> bool:
        """Whether zero lies outside of both intervals."""
        halves = (self.over_seeds, self.over_tasks)
        return all(half is not None and abs(self.mean) > half for half in halves)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row's runs in one column.

    Attributes:
        inner_steps: what the scores were measured after; None where no run is finished, or none measured it.
        finished: by seed. others: not finished, or finished without a score after these inner steps.
        missing: seeds that other cells of the table have and this one does not.
    """

    row: Label
    column: Label
    inner_steps: int | None
    finished: tuple[Run, ...]
    others: tuple[Run, ...]
    missing: tuple[Any, ...]
    problems: list[str] = field(default_factory=list)

    @cached_property
    def diverged(self) -> dict[str, Diverged]:
        """Seed -> the test tasks that diverged; empty where none did in any run."""
        found: dict[str, Diverged] = {}
        for run in self.finished:
            with contextlib.suppress(ValueError):  # whoever needs the scores of tasks says so
                found[seed_of(run)] = run.diverged(self.inner_steps or 0)
        return found if any(each.tasks for each in found.values()) else {}

    @property
    def is_of_evaluations(self) -> bool:
        """Whether its runs are evaluations of other runs: they were not trained for it."""
        return all(run.evaluation for run in (*self.finished, *self.others)) and bool(self.finished)

    @property
    def is_decided_by_few(self) -> bool:
        """Whether the mean is of losses, and of tasks that diverged among them: then it says nothing of the others."""
        return bool(self.diverged) and self.finished[0].higher_is_better is False

    @property
    def median(self) -> float | None:
        """Over test tasks, averaged over the runs; None where no task diverged."""
        return math.fsum(each.median for each in self.diverged.values()) / len(self.diverged) if self.diverged else None

    @property
    def planned(self) -> int:
        """The seeds that a whole cell would have."""
        return len({*map(seed_of, (*self.finished, *self.others)), *map(word, self.missing)})

    @property
    def is_whole(self) -> bool:
        """Whether every planned seed is finished."""
        return len(self.finished) == self.planned

    @cached_property
    def estimate(self) -> Estimate | None:
        """The score, or None without a finished run."""
        if not self.finished or self.inner_steps is None:
            return None
        summaries = [run.scores()[self.inner_steps] for run in self.finished]
        means = [summary["mean"] for summary in summaries]
        if len(summaries) == 1:
            over_tasks = summaries[0]["ci95"]
        else:
            tasks = self.task_means({seed_of(run) for run in self.finished})
            over_tasks = None if tasks is None else _over_tasks(tasks)[1]
        return Estimate(math.fsum(means) / len(means), student_t_half_width(means), over_tasks)

    def task_means(self, seeds: set[str]) -> list[float] | None:
        """The score of each test task, averaged over the runs of these seeds; None if some tasks.csv cannot give it."""
        by_run = [
            scores for run in self.finished if seed_of(run) in seeds if (scores := self._tasks[id(run)]) is not None
        ]
        if len(by_run) < len(seeds) or not by_run:
            return None
        return [math.fsum(scores) / len(by_run) for scores in zip(*by_run, strict=True)]

    @cached_property
    def _tasks(self) -> dict[int, list[float] | None]:
        found: dict[int, list[float] | None] = {}
        for run in self.finished:
            try:
                found[id(run)] = run.task_scores(self.inner_steps or 0)
            except ValueError as error:
                found[id(run)] = None
                self.problems.append(f"{run.place}: {error}; no intervals over tasks where it is needed")
        return found


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell less the baseline's cell in the same column, task by task and seed by seed."""

    cell: Cell
    estimate: Estimate | None
    is_decided_by_few: bool  # of either cell
    seeds: tuple[str, ...]
    words: str  # what it is paired on, or why there is none

    @property
    def is_clear(self) -> bool:
        """Whether zero lies outside of both intervals, of means that no diverged task decides."""
        return self.estimate is not None and self.estimate.is_clear and not self.is_decided_by_few


@dataclass(frozen=True, kw_only=True)
class ResultGrid:
    """Runs that were evaluated by one protocol."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    score: str
    higher_is_better: bool | None  # None where no result says
    protocol: dict[str, Any]
    cells: tuple[Cell, ...]  # row by row
    baseline: Label | None

    @property
    def row_labels(self) -> list[Label]:
        """In the order of the table."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def column_labels(self) -> list[Label]:
        """In the order of the table; one empty label where there are no columns."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def run_cells(self) -> list[Cell]:
        """The cells, without the repetition that inner steps as rows or columns make of each run."""
        seen: dict[tuple[Label, Label], Cell] = {}
        for cell in self.cells:
            seen.setdefault(self._run_label(cell), cell)
        return list(seen.values())

    def run_name(self, cell: Cell) -> str:
        """The label of a cell's runs in words: `maml, 5`."""
        return ", ".join(itertools.chain(*self._run_label(cell)))

    def _run_label(self, cell: Cell) -> tuple[Label, Label]:
        row = tuple(value for key, value in zip(self.rows, cell.row, strict=True) if key != INNER_STEPS)
        return row, tuple(value for key, value in zip(self.columns, cell.column, strict=True) if key != INNER_STEPS)

    @property
    def is_percent(self) -> bool:
        """Whether scores are shown in percent."""
        return self.score == "accuracy"

    def best(self, column: Label) -> list[Cell]:
        """Of a column's cells on the same test tasks, two or more, the one with the best mean; one for each set of tasks.

        None where nobody knows which way is better, nor where diverged tasks decide a mean: the others would be best by its
        accident.
        """
        on_same_tasks: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.column == column and cell.estimate is not None:
                on_same_tasks.setdefault(protocol.tasks_of(cell.finished[0]), []).append(cell)
        found = []
        for cells in on_same_tasks.values():
            there = [cell for cell in cells if math.isfinite(_mean(cell))]
            if len(there) > 1 and self.higher_is_better is not None and not any(c.is_decided_by_few for c in cells):
                found.append((max if self.higher_is_better else min)(there, key=_mean))
        return found

    @cached_property
    def differences(self) -> list[Difference]:
        """Of every cell but the baseline's, in the order of the cells."""
        if self.baseline is None:
            return []
        base = {cell.column: cell for cell in self.cells if cell.row == self.baseline}
        return [_difference(cell, base[cell.column]) for cell in self.cells if cell.row != self.baseline]


def _difference(cell: Cell, base: Cell) -> Difference:
    def without(words: str) -> Difference:
        return Difference(cell=cell, estimate=None, is_decided_by_few=False, seeds=(), words=words)

    if cell.estimate is None or base.estimate is None:
        return without("no result" if cell.estimate is None else "the baseline has no result")
    if not protocol.same_tasks(cell.finished[0], base.finished[0]):
        return without("not on the same test tasks")
    seeds = {seed_of(run) for run in cell.finished} & {seed_of(run) for run in base.finished}
    mine = cell.task_means(seeds or {seed_of(run) for run in cell.finished})
    theirs = base.task_means(seeds or {seed_of(run) for run in base.finished})
    if mine is None or theirs is None or len(mine) != len(theirs):
        return without("a tasks.csv cannot be read")
    by_task = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean, over_tasks = _over_tasks(by_task)
    ordered = tuple(sorted(seeds, key=lambda seed: natural((seed,))))
    by_seed = [_mean_of(cell, seed) - _mean_of(base, seed) for seed in ordered]
    paired = f"{len(by_task)} tasks, " + (
        f"seed{'s' if len(ordered) > 1 else ''} {' '.join(ordered)}" if ordered else "no seed in common"
    )
    estimate = Estimate(mean, student_t_half_width(by_seed), over_tasks)
    is_decided_by_few = cell.is_decided_by_few or base.is_decided_by_few
    if is_decided_by_few:
        paired += "; tasks diverged"
    return Difference(cell=cell, estimate=estimate, is_decided_by_few=is_decided_by_few, seeds=ordered, words=paired)


def _over_tasks(values: Sequence[float]) -> tuple[float, float]:
    """Mean and 95 % half-width; NaN where one task has no number, for then the mean has none."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    summary = summarize(values)
    return summary.mean, summary.ci95


def _mean_of(cell: Cell, seed: str) -> float:
    (run,) = [run for run in cell.finished if seed_of(run) == seed]
    assert cell.inner_steps is not None
    return run.scores()[cell.inner_steps]["mean"]


def seed_of(run: Run) -> str:
    """A run's seed as a label."""
    return word(run.seed)


def _mean(cell: Cell) -> float:
    return cell.estimate.mean if cell.estimate else math.nan


def natural(label: Iterable[str]) -> tuple[tuple[bool, float, str], ...]:
    """A key to sort labels by: numbers by size, before words by alphabet."""
    found = []
    for text in label:
        try:
            found.append((False, float(text), text))
        except ValueError:
            found.append((True, 0.0, text))
    return tuple(found)
