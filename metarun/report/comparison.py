"""Runs sorted into grids: rows and columns from any key, one grid for each protocol, and what a reader must know besides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metarun.errors import ConfigurationError
from metarun.report import protocol
from metarun.report.cells import INNER_STEPS, Cell, Label, ResultGrid, natural, seed_of
from metarun.report.row_order import ordered
from metarun.report.runs import (
    ABSENT,
    BESIDE_KEYS,
    NOT_STARTED,
    STARTS_FROM,
    TESTED_ON,
    TRAINED_ON,
    Run,
    check_keys,
    word,
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One grid for each protocol, what parts them, and what a reader must know besides."""

    grids: tuple[ResultGrid, ...]
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
    sort: str | None = None,
) -> Comparison:
    """Put runs into grids.

    Where any run starts from another, or was tested on another data set than it was trained on, rows say so.

    Args:
        rows: keys of the rows; none for whatever tells the runs apart, seeds aside.
        baseline: the row to take differences to, as its label (`maml`, or `algorithm=maml,optimizer.lr=0.1`); None for
            no differences: which row the others are held against is a choice that nobody else can make.
        inner_steps: what to measure after; None for the number that counts in each run.
        sort: the order of the rows, see `ordered`; None for that of their labels.
    Raises:
        ConfigurationError: a key that no run has, rows and columns that leave a cell with runs of different settings, a
            baseline that is no row, inner steps that no run measured, or an order that no grid has.
    """
    readable = [run for run in runs if run.config]
    left_out = [run for run in runs if not run.config]
    notes: list[str] = []
    if not readable:
        raise ConfigurationError("no run has a config.json that can be read: " + _list(str(run.path) for run in runs))
    doubled = {*rows} & {*columns}
    if doubled:
        raise ConfigurationError(f"{doubled.pop()} cannot be both in --rows and in --cols.")
    check_keys([*rows, *columns], readable, besides=[INNER_STEPS, *BESIDE_KEYS])
    if "seed" in rows or "seed" in columns:
        notes.append("seed is a row or a column: nothing is averaged over seeds")
    if inner_steps is not None and INNER_STEPS in (*rows, *columns):
        raise ConfigurationError("--steps chooses one number of inner steps, and inner_steps is a row or a column.")
    readable = _each_once(readable, notes)
    told = [key for key in _to_be_told(readable) if key not in (*rows, *columns)]
    parts, parted_by = protocol.split(readable, [*rows, *told, *columns])
    grids = ordered([_grid(part, rows, told, columns, baseline, inner_steps) for part in parts], sort)
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
        notes=tuple(notes + _environments([run for run in readable if run.result and run.evaluation is None])),
        runs=tuple(readable),
        left_out=tuple(left_out),
    )


def _to_be_told(runs: Sequence[Run]) -> list[str]:
    """What a row must say of runs, whatever rows were asked for."""
    keys = []
    if any(run.value(TRAINED_ON) != run.value(TESTED_ON) for run in runs):
        keys += [TRAINED_ON, TESTED_ON]
    return [*keys, STARTS_FROM] if any(run.starts_from for run in runs) else keys


def _grid(
    runs: list[Run],
    rows: Sequence[str],
    told: Sequence[str],
    columns: Sequence[str],
    baseline: str | None,
    inner_steps: int | None,
) -> ResultGrid:
    known = [*told, *(key for key in columns if key != INNER_STEPS)]
    keys = (*(rows or telling_apart(runs, known)), *told)
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
    row_labels = sorted({row for row, _ in places}, key=natural)
    column_labels = sorted({column for _, column in places}, key=natural)
    seeds = sorted({seed_of(run) for run in runs}, key=natural)
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
    return ResultGrid(
        rows=keys,
        columns=tuple(columns),
        score=finished[0].result["score"] if finished and finished[0].result else "score",
        higher_is_better=_direction(finished),
        protocol=protocol.protocol(finished[0] if finished else runs[0]),
        cells=cells,
        baseline=_baseline(baseline, keys, row_labels),
    )


def _direction(finished: Sequence[Run]) -> bool | None:
    """Which way the score is better."""
    return finished[0].higher_is_better if finished else None


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
            key = telling_apart([run, next(other for other, _ in inside if other.result)], [])[0]
            said.append(
                f"{run.path} ({run.state}) is left out: its {key} is {word(run.value(key))}, unlike the finished runs'"
            )
    return kept, said


def _cell(
    row: Label, column: Label, inside: Sequence[tuple[Run, int | None]], seeds: Sequence[str], problems: list[str]
) -> Cell:
    by_seed = sorted(inside, key=lambda pair: natural((seed_of(pair[0]),)))
    finished = [(run, steps) for run, steps in by_seed if steps is not None]
    there = {seed_of(run) for run, _ in inside}
    return Cell(
        row=row,
        column=column,
        inner_steps=finished[0][1] if finished else None,
        finished=tuple(run for run, _ in finished),
        others=tuple(run for run, steps in by_seed if steps is None),
        missing=tuple(seed for seed in seeds if seed not in there),
        problems=list(problems),
    )


def telling_apart(runs: Sequence[Run], columns: Sequence[str]) -> list[str]:
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
        key = telling_apart(pair, [*rows, *columns])[0]
        values = " and ".join(dict.fromkeys(word(run.value(key)) for run in pair))
        more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
        raise ConfigurationError(
            f"runs of one cell may differ in their seeds alone, and those of {place} differ in {key}: {values}{more}. "
            f"Add it to --rows or --cols, or choose with --where {key}={word(runs[0].value(key))}."
        )


def _each_once(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Of runs with the same settings and seed the finished one, or the newest: a copy is no second seed."""
    kept: dict[str, Run] = {}
    for run in sorted(
        runs, key=lambda run: (run.result is None, run.state == NOT_STARTED, bool(run.evaluation), -run.changed)
    ):
        key = _identity(run)
        if key in kept and run.state == NOT_STARTED:
            continue  # another folder holds it
        if key in kept:
            notes.append(f"{run.place} is left out: {kept[key].place} is the same run (same settings, same seed)")
        else:
            kept[key] = run
    chosen = {id(run) for run in kept.values()}
    return [run for run in runs if id(run) in chosen]


def _identity(run: Run) -> str:
    """What two folders share that hold the same run."""
    return repr((sorted((key, word(value)) for key, value in run.settings.items()), seed_of(run)))


def _baseline(wanted: str | None, keys: Sequence[str], labels: Sequence[Label]) -> Label | None:
    """The row that `wanted` names; None if no row, or more than one, is meant."""
    if wanted is None:
        return None
    whole, parts = [wanted], [part.strip() for part in wanted.split(",")]
    if tuple(parts) in labels:
        return tuple(parts)
    for split in (whole, parts):
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


def _list(words: Iterable[str]) -> str:
    all_words = list(words)
    return ", ".join(all_words[:8]) + (f" and {len(all_words) - 8} more" if len(all_words) > 8 else "")
