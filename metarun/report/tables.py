"""A comparison as tables of words: what every format prints, each in its own spelling."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metarun.console.words import fixed
from metarun.report import protocol
from metarun.report.cells import INNER_STEPS, Cell, Estimate, ResultGrid
from metarun.report.comparison import Comparison
from metarun.report.runs import BESIDE_KEYS, word

NONE = "–"
_MAX_GAPS = 30


@dataclass(frozen=True)
class Entry:
    """A cell of a table: its text, a smaller `note`, and what it is.

    `kind` is "" or one of label, best, clear (a difference whose intervals leave zero out), missing, failed, running.
    """

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A heading for each column, the first `labels` of which name the row; `notes` go below."""

    title: str
    columns: tuple[str, ...]
    labels: int
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """What belongs to one protocol."""

    title: str
    tables: tuple[Table, ...]


def sections(comparison: Comparison) -> list[Section]:
    """Results, paired differences where a baseline is named, and costs of each grid."""
    found = []
    for grid in comparison.grids:
        spent = costs(grid)
        tables = [results(grid), *([differences(grid)] if grid.differences else []), *([spent] if spent.rows else [])]
        found.append(Section(title=title(grid), tables=tuple(tables)))
    return found


def title(grid: ResultGrid) -> str:
    """How the grid's runs were evaluated, without what its rows or columns vary."""
    return protocol.words(grid.protocol, without=[key for key in grid.protocol if _varies(grid, key)])


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the tables: parted protocols, folders left out, problems met."""
    said = []
    if comparison.parted_by:
        count = len(comparison.grids)
        said.append(
            f"{count} evaluation protocols, in {count} tables, never averaged or compared with each other: they"
        )
        said[-1] += " differ in " + "; ".join(comparison.parted_by)
    said += comparison.notes
    said += [f"{run.place} is left out: {run.detail}" for run in comparison.left_out]
    cells = [cell for grid in comparison.grids for cell in grid.cells]
    return list(dict.fromkeys([*said, *(problem for cell in cells for problem in cell.problems)]))


def results(grid: ResultGrid) -> Table:
    """The scores: in a row for each cell, or, with columns, in the grid that the user asked for."""
    best = {id(cell) for column in grid.column_labels for cell in grid.best(column)}
    places = decimals(grid)
    unit = f"{grid.score} (%)" if grid.is_percent else grid.score
    if not grid.columns:
        heads: list[str] = [*map(head, grid.rows), "seeds", "inner steps", unit, "± over seeds", "± over tasks"]
        has_published = any(published_value(cell) is not None for cell in grid.cells)
        rows = []
        for cell in grid.cells:
            row = [*_labels(cell.row), Entry(seeds_words(cell), kind="" if cell.is_whole else "missing")]
            if cell.estimate is None:
                row += [Entry(NONE), absent_entry(cell), Entry(NONE), Entry(NONE)]
            else:
                estimate = _estimate(
                    cell.estimate, grid, places, id(cell) in best, note=median_words(cell, grid, places)
                )
                row += [Entry(str(cell.inner_steps)), *estimate]
            if has_published:
                published = published_value(cell)
                row.append(Entry(NONE if published is None else number(published, grid, places)))
            rows.append(tuple(row))
        heads += ["published"] if has_published else []
        return Table(
            title="Results", columns=tuple(heads), labels=len(grid.rows), rows=tuple(rows), notes=_results_notes(grid)
        )
    rows = []
    for label in grid.row_labels:
        cells = [cell for cell in grid.cells if cell.row == label]
        rows.append((*_labels(label), *(_whole(cell, grid, places, id(cell) in best) for cell in cells)))
    names = [
        ", ".join(f"{head(key)} {value}" for key, value in zip(grid.columns, label, strict=True))
        for label in grid.column_labels
    ]
    first = f"{unit}: mean ± over seeds ± over tasks{_seeds_each(grid)}"
    return Table(
        title=f"Results, {first}", columns=(*map(head, grid.rows), *names), labels=len(grid.rows), rows=tuple(rows),
        notes=_results_notes(grid),
    )  # fmt: skip


def differences(grid: ResultGrid) -> Table:
    """Every other row less the baseline, paired."""
    assert grid.baseline is not None
    places = decimals(grid)
    unit = "percentage points" if grid.is_percent else grid.score
    rows = []
    for difference in grid.differences:
        cell, estimate = difference.cell, difference.estimate
        row = [*_labels(cell.row), *_labels(cell.column)]
        if estimate is None:
            row += [Entry(NONE, kind="missing"), Entry(NONE), Entry(NONE)]
        else:
            row += _estimate(estimate, grid, places, False, sign=True, kind="clear" if difference.is_clear else "")
        rows.append((*row, Entry(difference.words)))
    name = ", ".join(grid.baseline)
    marked = "; marked: both intervals leave zero out" if any(each.is_clear for each in grid.differences) else ""
    return Table(
        title=f"Differences to {name}",
        columns=(*map(head, (*grid.rows, *grid.columns)), unit, "± over seeds", "± over tasks", "paired on"),
        labels=len(grid.rows) + len(grid.columns),
        rows=tuple(rows),
        notes=(f"same test tasks, same seeds, less those of {name}{marked}",),
    )


def costs(grid: ResultGrid) -> Table:
    """What a run took: means over the finished runs, and the most memory that training added in any of them."""
    keys = [key for key in (*grid.rows, *grid.columns) if key != INNER_STEPS]
    rows = []
    for cell in grid.run_cells:
        if cell.is_of_evaluations:
            continue  # the run itself has cost what it has
        runs = [run.result for run in cell.finished if run.result]
        labels = dict(zip((*grid.rows, *grid.columns), (*cell.row, *cell.column), strict=True))
        row = _labels(labels[key] for key in keys)
        if runs:
            row += [
                Entry(clock(_mean([run.get("train_s") for run in runs]))),
                Entry(_rounded([run.get("step_s") for run in runs], 1000)),
                Entry(_rounded([max(_numbers([run.get("training_memory_mib") for run in runs]), default=None)], 1)),
                Entry(" / ".join(dict.fromkeys(f"{run.get('num_parameters', 0):,}" for run in runs))),
            ]
        else:
            row += [absent_entry(cell), *[Entry(NONE)] * 3]
        rows.append(tuple(row))
    return Table(
        title="Cost of a run",
        columns=(*map(head, keys), "training", "ms a step", "memory added (MiB)", "parameters"),
        labels=len(keys),
        rows=tuple(rows),
    )


def settings(grid: ResultGrid) -> Table:
    """The configuration's keys in which the grid's cells differ, and each cell's value."""
    cells = [cell for cell in grid.run_cells if cell.finished or cell.others]
    runs = [(*cell.finished, *cell.others)[0] for cell in cells]
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = []
    for key in keys:
        values = [word(run.settings.get(key, "–")) for run in runs]
        if len(set(values)) > 1:
            rows.append((Entry(key, kind="label"), *map(Entry, values)))
    names = [grid.run_name(cell) for cell in cells]
    return Table(title="Configuration differences", columns=("key", *names), labels=1, rows=tuple(rows))


def head(key: str) -> str:
    """A column's heading: a configuration's key as it is typed, words for what is none."""
    return key.replace("_", " ") if key in (INNER_STEPS, *BESIDE_KEYS) else key


def decimals(grid: ResultGrid) -> int:
    """Of scores and intervals alike: two digits of the smallest interval, within reason."""
    halves = [
        half * (100 if grid.is_percent else 1)
        for cell in grid.cells
        if cell.estimate is not None
        for half in (cell.estimate.over_seeds, cell.estimate.over_tasks)
        if half is not None and math.isfinite(half) and half > 0
    ]
    needed = 1 - math.floor(math.log10(min(halves))) if halves else 0
    return min(max(needed, 1), 2) if grid.is_percent else min(max(needed, 3), 6)


def number(value: float | None, grid: ResultGrid, places: int, *, sign: bool = False) -> str:
    """A score as the tables have it: accuracy in percent, very large losses by their first digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not finite"
    value *= 100 if grid.is_percent else 1
    plus = "+" if sign else ""
    return fixed(value, places, plus) if abs(value) < 1e6 else f"{value:{plus}.3g}"


def clock(seconds: float | None) -> str:
    """`0.9 s`, `3:07 min` or `1:02:09 h`."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def short(text: str, limit: int = 140) -> str:
    """Its beginning, where it is longer than `limit`; log.txt has it whole."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"


def gap(cell: Cell) -> str:
    """What keeps a cell from being whole, in words: `seed 2 missing; seed 1 failed (MemoryError: ...) in out/b`."""
    words = []
    if cell.missing:
        words.append(f"seed{'s' if len(cell.missing) > 1 else ''} {', '.join(cell.missing)} missing")
    for run in cell.others:
        if run.result:
            measured = ", ".join(map(str, sorted(run.scores())))
            words.append(f"seed {word(run.seed)} not measured after these inner steps (but after {measured})")
        else:
            detail = f" ({short(run.detail)})" if run.detail else ""
            words.append(f"seed {word(run.seed)} {run.state}{detail} in {run.path}")
    return "; ".join(words)


def _whole(cell: Cell, grid: ResultGrid, places: int, is_best: bool) -> Entry:
    """A cell of the user's grid in one entry."""
    if cell.estimate is None:
        return absent_entry(cell)
    parts = [cell.estimate.mean, cell.estimate.over_seeds, cell.estimate.over_tasks]
    steps = (
        f"after {cell.inner_steps}" if _steps_differ(grid) and INNER_STEPS not in (*grid.rows, *grid.columns) else ""
    )
    count = "" if _seeds_each(grid) else f"n {seeds_words(cell)}"
    beside = ", ".join(filter(None, (count, steps, median_words(cell, grid, places))))
    return Entry(" ± ".join(number(part, grid, places) for part in parts), beside, "best" if is_best else "")


def _seeds_each(grid: ResultGrid) -> str:
    """How many seeds each cell has, where all have as many."""
    counts = {(len(cell.finished), cell.is_whole) for cell in grid.cells}
    ((count, is_whole),) = counts if len(counts) == 1 else {(0, False)}
    return f", {count} seed{'s' if count > 1 else ''} each" if is_whole and count else ""


def median_words(cell: Cell, grid: ResultGrid, places: int) -> str:
    """What stands beside a mean that diverged tasks have moved; "" elsewhere."""
    return f"median {number(cell.median, grid, places)}" if cell.diverged else ""


def _estimate(
    estimate: Estimate,
    grid: ResultGrid,
    places: int,
    is_best: bool,
    *,
    sign: bool = False,
    kind: str = "",
    note: str = "",
) -> list[Entry]:
    return [
        Entry(number(estimate.mean, grid, places, sign=sign), note, "best" if is_best else kind),
        Entry(number(estimate.over_seeds, grid, places)),
        Entry(number(estimate.over_tasks, grid, places)),
    ]


def absent_entry(cell: Cell) -> Entry:
    """What stands in place of a score that there is not: the states of the cell's runs."""
    states = dict.fromkeys("not measured" if run.result else run.state for run in cell.others)
    if not states:
        return Entry("missing", kind="missing")
    kind = "failed" if {"failed", "damaged", "killed"} & {*states} else "running" if "running" in states else "missing"
    return Entry(", ".join(states), kind=kind)


def seeds_words(cell: Cell) -> str:
    """`3`, or `2 of 3` where some are missing."""
    return str(len(cell.finished)) if cell.is_whole else f"{len(cell.finished)} of {cell.planned}"


def _labels(label: Iterable[str]) -> list[Entry]:
    return [Entry(value, kind="label") for value in label]


def _results_notes(grid: ResultGrid) -> tuple[str, ...]:
    said = [
        "± over seeds: 95 % interval of the mean over training seeds (Student's t, for few seeds); "
        "± over tasks: 95 % interval over test tasks, each averaged over the seeds"
    ]
    if any(grid.best(column) for column in grid.column_labels):
        tasks = {protocol.tasks_of(cell.finished[0]) for cell in grid.cells if cell.finished}
        said[0] += f"; marked: the best mean{'' if len(tasks) == 1 else ' on the same test tasks'}"
    if all(len(cell.finished) < 2 for cell in grid.cells) and any(cell.finished for cell in grid.cells):
        said.append("one seed each: nothing here says what another seed would give")
    steps = {", ".join(cell.row): cell.inner_steps for cell in grid.cells if cell.inner_steps is not None}
    if _steps_differ(grid) and INNER_STEPS not in (*grid.rows, *grid.columns):
        after = "; ".join(f"{name}: {count}" for name, count in list(steps.items())[:6])
        said.append(
            f"inner steps differ ({after}): each run at the number that counts; --steps N takes the same for all"
        )
    if grid.protocol.get("batch_norm") == "transductive":
        said.append(
            "batch norm is transductive: query examples share batch statistics; batch_norm=support does without"
        )
    said += _diverged(grid)
    gaps = [f"{', '.join((*cell.row, *cell.column))}: {words}" for cell in grid.cells if (words := gap(cell))]
    said += gaps[:_MAX_GAPS]
    if len(gaps) > _MAX_GAPS:
        said.append(f"and {len(gaps) - _MAX_GAPS} more cells that are not whole; --format csv names them all")
    return tuple(said)


def _diverged(grid: ResultGrid) -> list[str]:
    """Which test tasks diverged, and what follows."""
    found = [
        f"{', '.join((*cell.row, *cell.column))}, seed {seed}: {diverged.words}"
        for cell in grid.cells
        for seed, diverged in cell.diverged.items()
        if diverged.tasks
    ]
    if not found:
        return []
    more = f"; and {len(found) - _MAX_GAPS} more runs" if len(found) > _MAX_GAPS else ""
    follows = "they count as wrong"
    if any(cell.is_decided_by_few for cell in grid.cells):
        follows = "they decide the mean, the median stands beside it, and nothing is marked best beside such a mean"
    return [f"tasks diverged ({'; '.join(found[:_MAX_GAPS])}{more}): {follows}"]


def _steps_differ(grid: ResultGrid) -> bool:
    return len({cell.inner_steps for cell in grid.cells if cell.inner_steps is not None}) > 1


def _varies(grid: ResultGrid, key: str) -> bool:
    found = [protocol.protocol(cell.finished[0]).get(key) for cell in grid.cells if cell.finished]
    return any(value != found[0] for value in found)


def published_value(cell: Cell) -> float | None:
    """The figure printed in the literature for what this cell's runs set out to reproduce."""
    references = [(run.result or {}).get("reference") or {} for run in cell.finished]
    values = [reference.get("values", {}).get(str(cell.inner_steps)) for reference in references]
    return values[0] if values and all(value == values[0] for value in values) else None


def _numbers(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _mean(values: Sequence[object]) -> float | None:
    there = _numbers(values)
    return math.fsum(there) / len(there) if there else None


def _rounded(values: Sequence[object], scale: float) -> str:
    mean = _mean(values)
    return NONE if mean is None else f"{scale * mean:.1f}" if scale > 1 else f"{mean:.0f}"
