"""Runs as a grid of cells: rows and columns from any key, seeds averaged, what is missing in its place."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from metarun.errors import ConfigurationError
from metarun.maths.stats import student_t_half_width, summarize
from metarun.report import protocol
from metarun.report.runs import ABSENT, Run, check_keys, word

INNER_STEPS = "inner_steps"
"""May stand among rows and columns: one for each measured number of inner steps."""

Label = tuple[str, ...]
_LOWER_IS_BETTER = {"mse", "loss"}
_HIGHER_IS_BETTER = {"accuracy", "return"}


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

    @property
    def planned(self) -> int:
        """The seeds that a whole cell would have."""
        return len({*map(_seed, (*self.finished, *self.others)), *map(word, self.missing)})

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
            tasks = self.task_means({_seed(run) for run in self.finished})
            over_tasks = None if tasks is None else _over_tasks(tasks)[1]
        return Estimate(math.fsum(means) / len(means), student_t_half_width(means), over_tasks)

    def task_means(self, seeds: set[str]) -> list[float] | None:
        """The score of each test task, averaged over the runs of these seeds; None if some tasks.csv cannot give it."""
        by_run = [
            scores for run in self.finished if _seed(run) in seeds if (scores := self._tasks[id(run)]) is not None
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
                self.problems.append(f"{run.path}: {error}; no intervals over tasks where it is needed")
        return found


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell less the baseline's cell in the same column, task by task and seed by seed."""

    cell: Cell
    estimate: Estimate | None
    seeds: tuple[str, ...]
    words: str  # what it is paired on, or why there is none


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Runs that were judged by one protocol."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    score: str
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

    def best(self, column: Label) -> Cell | None:
        """The cell with the best mean in a column of two or more; None where nobody knows which way is better."""
        there = [cell for cell in self.cells if cell.column == column and cell.estimate is not None]
        there = [cell for cell in there if math.isfinite(_mean(cell))]
        if len(there) < 2 or self.score not in _LOWER_IS_BETTER | _HIGHER_IS_BETTER:
            return None
        return (min if self.score in _LOWER_IS_BETTER else max)(there, key=_mean)

    @cached_property
    def differences(self) -> list[Difference]:
        """Of every cell but the baseline's, in the order of the cells."""
        if self.baseline is None:
            return []
        base = {cell.column: cell for cell in self.cells if cell.row == self.baseline}
        return [_difference(cell, base[cell.column]) for cell in self.cells if cell.row != self.baseline]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One grid for each protocol, what parts them, and what a reader must know besides."""

    grids: tuple[Grid, ...]
    parted_by: tuple[str, ...]
    notes: tuple[str, ...]
    runs: tuple[Run, ...]
    left_out: tuple[Run, ...]


def compare(
    runs: Sequence[Run],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    baseline: str | None = None,
    inner_steps: int | None = None,
) -> Comparison:
    """Sort runs into grids.

    Args:
        rows: keys of the rows; none for whatever tells the runs apart, seeds aside.
        baseline: the row to take differences to, as its label (`maml`, or `algorithm=maml,optimizer.lr=0.1`); None for
            the first row.
        inner_steps: what to measure after; None for the number that counts in each run.
    Raises:
        ConfigurationError: a key that no run has, rows and columns that leave a cell with runs of different settings, a
            baseline that is no row, or inner steps that no run measured.
    """
    readable = [run for run in runs if run.config]
    left_out = [run for run in runs if not run.config]
    notes: list[str] = []
    if not readable:
        raise ConfigurationError("no run has a config.json that can be read: " + _list(str(run.path) for run in runs))
    doubled = {*rows} & {*columns}
    if doubled:
        raise ConfigurationError(f"{doubled.pop()} cannot be both in --rows and in --cols.")
    check_keys([*rows, *columns], readable, besides=[INNER_STEPS])
    if "seed" in rows or "seed" in columns:
        notes.append("seed is a row or a column: nothing is averaged over seeds")
    if inner_steps is not None and INNER_STEPS in (*rows, *columns):
        raise ConfigurationError("--steps chooses one number of inner steps, and inner_steps is a row or a column.")
    readable = _each_once(readable, notes)
    parts, parted_by = protocol.split(readable, [*rows, *columns])
    grids = [_grid(part, rows, columns, baseline, inner_steps) for part in parts]
    if inner_steps is not None and not any(cell.finished for grid in grids for cell in grid.cells):
        measured = sorted({steps for run in readable if run.result for steps in run.scores()})
        raise ConfigurationError(
            f"no run was measured after {inner_steps} inner steps; there are {_list(map(str, measured))}."
        )
    if baseline is not None and all(grid.baseline is None for grid in grids):
        labels = dict.fromkeys(", ".join(label) for grid in grids for label in grid.row_labels)
        raise ConfigurationError(f"--baseline must name one row, and {baseline!r} does not; rows: {'; '.join(labels)}.")
    return Comparison(
        grids=tuple(grids),
        parted_by=tuple(parted_by),
        notes=tuple(notes + _environments([run for run in readable if run.result])),
        runs=tuple(readable),
        left_out=tuple(left_out),
    )


def _grid(
    runs: list[Run], rows: Sequence[str], columns: Sequence[str], baseline: str | None, inner_steps: int | None
) -> Grid:
    keys = tuple(rows) or tuple(_telling_apart(runs, [key for key in columns if key != INNER_STEPS]))
    every = sorted({steps for run in runs if run.result for steps in run.scores()})
    places: dict[tuple[Label, Label], list[tuple[Run, int | None]]] = {}
    for run in runs:
        for shown in every if INNER_STEPS in (*keys, *columns) and every else [None]:
            place = (_label(run, keys, shown), _label(run, columns, shown))
            places.setdefault(place, []).append((run, _measured(run, inner_steps if shown is None else shown)))
    passed_over: dict[tuple[Label, Label], list[str]] = {}
    for place, inside in places.items():
        places[place], passed_over[place] = _without_other_attempts(inside)
        _check_alike([run for run, _ in places[place]], keys, columns, ", ".join((*place[0], *place[1])))
    row_labels = sorted({row for row, _ in places}, key=_natural)
    column_labels = sorted({column for _, column in places}, key=_natural)
    seeds = sorted({_seed(run) for run in runs}, key=_natural)
    finished = [run for run in runs if run.result]
    cells = tuple(
        _cell(
            row,
            column,
            places.get((row, column), []),
            [] if "seed" in (*keys, *columns) else seeds,
            passed_over.get((row, column), []),
        )
        for row in row_labels
        for column in column_labels
    )
    return Grid(
        rows=keys,
        columns=tuple(columns),
        score=finished[0].result["score"] if finished and finished[0].result else "score",
        protocol=protocol.protocol(finished[0] if finished else runs[0]),
        cells=cells,
        baseline=_baseline(baseline, keys, row_labels),
    )


def _measured(run: Run, inner_steps: int | None) -> int | None:
    """`inner_steps`, or the number that counts where that is None; None where the run has no score after it."""
    if run.result is None:
        return None
    wanted = run.result["protocol"]["headline_inner_steps"] if inner_steps is None else inner_steps
    return wanted if wanted in run.scores() else None


def _without_other_attempts(
    inside: Sequence[tuple[Run, int | None]],
) -> tuple[list[tuple[Run, int | None]], list[str]]:
    """Pass over unfinished runs that differ in their settings from all finished ones of their cell; and say so."""
    finished = [run.settings for run, _ in inside if run.result]
    kept, said = [], []
    for run, steps in inside:
        if run.result or not finished or run.settings in finished:
            kept.append((run, steps))
        else:
            key = _telling_apart([run, next(other for other, _ in inside if other.result)], [])[0]
            said.append(
                f"{run.path} ({run.state}) is left out: its {key} is {word(run.value(key))}, unlike the finished runs'"
            )
    return kept, said


def _cell(
    row: Label, column: Label, inside: Sequence[tuple[Run, int | None]], seeds: Sequence[str], problems: list[str]
) -> Cell:
    by_seed = sorted(inside, key=lambda pair: _natural((_seed(pair[0]),)))
    finished = [(run, steps) for run, steps in by_seed if steps is not None]
    there = {_seed(run) for run, _ in inside}
    return Cell(
        row=row,
        column=column,
        inner_steps=finished[0][1] if finished else None,
        finished=tuple(run for run, _ in finished),
        others=tuple(run for run, steps in by_seed if steps is None),
        missing=tuple(seed for seed in seeds if seed not in there),
        problems=list(problems),
    )


def _telling_apart(runs: Sequence[Run], columns: Sequence[str]) -> list[str]:
    """As few keys as tell all runs apart but for their seeds: what the user chose by name first, then groups, then keys."""
    typed = dict.fromkeys(override.partition("=")[0].lstrip("+~") for run in runs for override in run.overrides)
    groups = dict.fromkeys(
        group for run in runs for group in run.choices if group not in ("experiment", "tracker", "device")
    )
    settings = dict.fromkeys(key for run in runs for key in run.settings)
    known = {*groups, *settings}
    candidates = dict.fromkeys(
        [
            *(key for key in typed if key in groups),
            *(key for key in typed if key in known),
            *(group for group in groups if "/" not in group),
            *groups,
            *sorted(settings, key=lambda key: key.endswith("_target_")),
        ]
    )
    chosen: list[str] = []
    classes = _parted([list(runs)], columns)
    for key in candidates:
        finer = _parted(classes, [key])
        if len(finer) > len(classes):
            chosen, classes = [*chosen, key], finer
    return chosen or ["algorithm"]


def _parted(classes: Iterable[Sequence[Run]], keys: Sequence[str]) -> list[list[Run]]:
    finer: list[list[Run]] = []
    for runs in classes:
        parts: dict[Label, list[Run]] = {}
        for run in runs:
            parts.setdefault(tuple(word(run.value(key)) for key in keys), []).append(run)
        finer += parts.values()
    return finer


def _check_alike(runs: Sequence[Run], rows: Sequence[str], columns: Sequence[str], place: str) -> None:
    """Refuse a cell whose runs differ in more than their seeds: their mean would be of nothing."""
    first = runs[0].settings
    for run in runs[1:]:
        if run.settings == first:
            continue
        differing = [
            key for key in {**first, **run.settings} if first.get(key, ABSENT) != run.settings.get(key, ABSENT)
        ]
        pair = [runs[0], run]
        key = _telling_apart(pair, [*rows, *columns])[0]
        values = " and ".join(dict.fromkeys(word(run.value(key)) for run in pair))
        more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
        raise ConfigurationError(
            f"runs of one cell may differ in their seeds alone, and those of {place} differ in {key}: {values}{more}. "
            f"Add it to --rows or --cols, or choose with --where {key}={word(runs[0].value(key))}."
        )


def _each_once(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Of runs with the same settings and seed the finished one, or the newest: a copy is no second seed."""
    kept: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.result is None, -run.changed)):
        key = _identity(run)
        if key in kept:
            notes.append(f"{run.path} is left out: {kept[key].path} is the same run (same settings, same seed)")
        else:
            kept[key] = run
    chosen = {id(run) for run in kept.values()}
    return [run for run in runs if id(run) in chosen]


def _identity(run: Run) -> str:
    """What two folders share that hold the same run."""
    return repr((sorted((key, word(value)) for key, value in run.settings.items()), _seed(run)))


def _difference(cell: Cell, base: Cell) -> Difference:
    def without(words: str) -> Difference:
        return Difference(cell=cell, estimate=None, seeds=(), words=words)

    if cell.estimate is None or base.estimate is None:
        return without("no result" if cell.estimate is None else "the baseline has no result")
    if not protocol.same_tasks(cell.finished[0], base.finished[0]):
        return without("not on the same test tasks")
    seeds = {_seed(run) for run in cell.finished} & {_seed(run) for run in base.finished}
    mine = cell.task_means(seeds or {_seed(run) for run in cell.finished})
    theirs = base.task_means(seeds or {_seed(run) for run in base.finished})
    if mine is None or theirs is None or len(mine) != len(theirs):
        return without("a tasks.csv cannot be read")
    by_task = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean, over_tasks = _over_tasks(by_task)
    ordered = tuple(sorted(seeds, key=lambda seed: _natural((seed,))))
    by_seed = [_mean_of(cell, seed) - _mean_of(base, seed) for seed in ordered]
    paired = f"{len(by_task)} tasks, " + (
        f"seed{'s' if len(ordered) > 1 else ''} {' '.join(ordered)}" if ordered else "no seed in common"
    )
    estimate = Estimate(mean, student_t_half_width(by_seed), over_tasks)
    return Difference(cell=cell, estimate=estimate, seeds=ordered, words=paired)


def _over_tasks(values: Sequence[float]) -> tuple[float, float]:
    """Mean and 95 % half-width; NaN where one task has no number, for then the mean has none."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    summary = summarize(values)
    return summary.mean, summary.ci95


def _mean_of(cell: Cell, seed: str) -> float:
    (run,) = [run for run in cell.finished if _seed(run) == seed]
    assert cell.inner_steps is not None
    return run.scores()[cell.inner_steps]["mean"]


def _baseline(wanted: str | None, keys: Sequence[str], labels: Sequence[Label]) -> Label | None:
    """The row that `wanted` names, the first where it is None; None if no row, or more than one, is meant."""
    if len(labels) < 2 and wanted is None:
        return None
    if wanted is None:
        return labels[0]
    for split in ([wanted], [part.strip() for part in wanted.split(",")]):
        named = [
            label
            for label in labels
            if all(part in label or part in {f"{k}={v}" for k, v in zip(keys, label, strict=True)} for part in split)
        ]
        if len(named) == 1:
            return named[0]
    return None


def _environments(runs: Sequence[Run]) -> list[str]:
    """What differs between the machines that results come from: it moves seconds and last digits."""
    notes = []
    for name in ("metarun", "device", "dtype", "threads"):
        values = {word((run.result or {}).get("environment", {}).get(name)) for run in runs}
        if len(values) > 1:
            notes.append(f"the runs' {name} differs ({_list(sorted(values))}): mind this where seconds are compared")
    torch = {word((run.result or {}).get("environment", {}).get("packages", {}).get("torch")) for run in runs}
    if len(torch) > 1:
        notes.append(f"the runs' torch differs ({_list(sorted(torch))})")
    return notes


def _label(run: Run, keys: Sequence[str], inner_steps: int | None) -> Label:
    return tuple(word(inner_steps if key == INNER_STEPS else run.value(key)) for key in keys)


def _seed(run: Run) -> str:
    return word(run.seed)


def _mean(cell: Cell) -> float:
    return cell.estimate.mean if cell.estimate else math.nan


def _natural(label: Iterable[str]) -> tuple[tuple[bool, float, str], ...]:
    """Numbers by size, before words by alphabet."""
    found = []
    for text in label:
        try:
            found.append((False, float(text), text))
        except ValueError:
            found.append((True, 0.0, text))
    return tuple(found)


def _list(words: Iterable[str]) -> str:
    all_words = list(words)
    return ", ".join(all_words[:8]) + (f" and {len(all_words) - 8} more" if len(all_words) > 8 else "")
