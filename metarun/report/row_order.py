"""The order of a grid's rows, by a column or by what a run took."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metarun.errors import ConfigurationError
from metarun.report.cells import Cell, Label, ResultGrid, natural

_DIRECTIONS = {"asc": False, "desc": True}
_COSTS = ("train_s", "step_s", "training_memory_mib", "num_parameters")
_MEASURED: dict[str, Callable[[Cell], float | None]] = {
    "score": lambda cell: cell.estimate.mean if cell.estimate else None,
    "over_seeds": lambda cell: cell.estimate.over_seeds if cell.estimate else None,
    "over_tasks": lambda cell: cell.estimate.over_tasks if cell.estimate else None,
    "seeds": lambda cell: len(cell.finished),
}


def ordered(grids: list[ResultGrid], wanted: str | None) -> list[ResultGrid]:
    """The grids with their rows as `wanted`: a key of the rows, a column, `score` or another number, then `:asc` or `:desc`.

    Scores are best first and all else ascending unless the direction is given; rows without a number come last either way. A
    grid that has nothing of that name stays as it is.

    Raises:
        ConfigurationError: no grid has it, or it does not say which column is meant.
    """
    if wanted is None:
        return grids
    name, colon, direction = wanted.rpartition(":")
    if not colon or direction not in _DIRECTIONS:
        name, direction = wanted, ""
    found = [_ordered(grid, name, direction) for grid in grids]
    if all(grid is None for grid in found):
        names = list(dict.fromkeys(known for grid in grids for known in _names(grid)))
        raise ConfigurationError(f"--sort has no {name!r}; there are {', '.join(names)}; with :asc or :desc.")
    return [after or before for before, after in zip(grids, found, strict=True)]


def _names(grid: ResultGrid) -> list[str]:
    return [*grid.rows, *_MEASURED, *_COSTS, *(_name(grid, label) for label in grid.column_labels if label)]


def _name(grid: ResultGrid, label: Label) -> str:
    return ",".join(f"{key}={value}" for key, value in zip(grid.columns, label, strict=True))


def _ordered(grid: ResultGrid, name: str, direction: str) -> ResultGrid | None:
    labels = grid.row_labels
    if name in grid.rows:
        place = grid.rows.index(name)
        order = sorted(labels, key=lambda label: natural(label[place : place + 1]), reverse=direction == "desc")
    else:
        values = _values(grid, name)
        if values is None:
            return None
        is_score = name not in _COSTS and (name not in _MEASURED or name == "score")
        best_first = is_score and grid.higher_is_better is not False
        is_descending = _DIRECTIONS.get(direction, best_first)
        there = [label for label in labels if values[label] is not None]
        order = sorted(there, key=lambda label: values[label] or 0.0, reverse=is_descending)
        order += [label for label in labels if values[label] is None]
    by_row = {label: [cell for cell in grid.cells if cell.row == label] for label in order}
    return replace(grid, cells=tuple(cell for cells in by_row.values() for cell in cells))


def _values(grid: ResultGrid, name: str) -> dict[Label, float | None] | None:
    """Row -> its number, None where it has none; None where nothing has this name."""
    by_row: dict[Label, list[Cell]] = {}
    for cell in grid.cells:
        by_row.setdefault(cell.row, []).append(cell)
    if name in _COSTS:
        return {row: _mean(cell, name) for row, (cell, *_) in by_row.items()}
    columns = grid.column_labels
    if name in _MEASURED or name == grid.score:
        if len(columns) > 1:
            raise ConfigurationError(
                f"--sort {name} must say of which column: --sort {'; --sort '.join(_name(grid, c) for c in columns[:6])}."
            )
        column, number = columns[0], _MEASURED.get(name, _MEASURED["score"])
    else:
        meant = [label for label in columns if label and name in (_name(grid, label), ",".join(label))]
        if not meant:
            return None
        column, number = meant[0], _MEASURED["score"]
    return {row: _finite(number(cell)) for row, cells in by_row.items() for cell in cells if cell.column == column}


def _mean(cell: Cell, name: str) -> float | None:
    found: list[Any] = [(run.result or {}).get(name) for run in cell.finished]
    numbers = [float(value) for value in found if isinstance(value, int | float)]
    return math.fsum(numbers) / len(numbers) if numbers else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
