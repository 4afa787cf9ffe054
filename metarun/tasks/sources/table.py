"""A table of features, as CSV: a line for each example, with its class, or with its targets and its task."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarun.configuration.did_you_mean import closest
from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources.rows import Choices, Rows, require_finite, store_of


def table(
    path: str | None,
    target: str | None,
    features: Sequence[str] | None,
    split: str | None,
    delimiter: str,
    split_file: str | None,
    split_fractions: Sequence[float],
    split_seed: int,
    min_examples: int | None,
    standardise: bool,
) -> ClassStore:
    """The store of a table of classes: `target` is the column of their names.

    Args:
        path: the file; its first line names the columns.
        target: the column of the classes.
        features: the columns of the inputs; None: all others.
        split: the column that says train, val or test; None: by `split_file` or `split_fractions`.
        delimiter: between the cells of a line.
        split_file, split_fractions, split_seed, min_examples, standardise: `Choices`.
    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a column is missing, or a cell is not what its column must hold; the line is named.
    """
    if target is None:
        raise ValueError("dataset=table needs the column that names the classes. Set dataset.target=COLUMN.")
    others = {"target": [target], "split": [] if split is None else [split]}
    read = _read(path, "table", delimiter, others, features)
    choices = Choices(
        split_file=split_file,
        split_fractions=split_fractions,
        split_seed=split_seed,
        min_examples=min_examples,
        standardise=standardise,
    )
    return store_of(_rows(read, groups=read.texts(target), targets=None, split=split), choices)


def regression_table(
    path: str | None,
    target: str | Sequence[str] | None,
    task: str | None,
    features: Sequence[str] | None,
    split: str | None,
    delimiter: str,
    split_file: str | None,
    split_fractions: Sequence[float],
    split_seed: int,
    min_examples: int | None,
    standardise: bool,
    standardise_target: bool,
) -> ClassStore:
    """The store of a table of regressions: the lines with one name in the column `task` are one task.

    Args:
        target: the column, or the columns, of the numbers to predict.
        task: the column that says which task a line is of.
        path, features, split, delimiter: as in `table`.
        split_file, split_fractions, split_seed, min_examples, standardise, standardise_target: `Choices`.
    Raises:
        FileNotFoundError, ValueError: as `table`.
    """
    if target is None or task is None:
        missing = [f"dataset.{key}=COLUMN" for key, value in (("target", target), ("task", task)) if value is None]
        raise ValueError(
            "dataset=table_regression needs the column to predict and the column that says which task a line is of. "
            f"Set {' and '.join(missing)}."
        )
    targets = [target] if isinstance(target, str) else list(target)
    others = {"target": targets, "task": [task], "split": [] if split is None else [split]}
    read = _read(path, "table_regression", delimiter, others, features)
    choices = Choices(
        split_file=split_file,
        split_fractions=split_fractions,
        split_seed=split_seed,
        min_examples=min_examples,
        standardise=standardise,
        standardise_target=standardise_target,
    )
    return store_of(_rows(read, groups=read.texts(task), targets=read.numbers(targets), split=split), choices)


@dataclass(frozen=True)
class _Read:
    """The cells of a table.

    Attributes:
        lines: the number of each row's line in the file, from 1.
        features: the columns of the inputs.
    """

    path: Path
    columns: list[str]
    cells: list[list[str]]
    lines: list[int]
    features: list[str]

    @property
    def source(self) -> str:
        return f"table {self.path}"

    def place(self, row: int) -> str:
        return f"line {self.lines[row]}"

    def texts(self, column: str) -> list[str]:
        """A column of names, none of which is empty."""
        index = self.columns.index(column)
        found = [cells[index].strip() for cells in self.cells]
        empty = next((row for row, text in enumerate(found) if not text), None)
        if empty is not None:
            raise ValueError(
                f"{self.source}, {self.place(empty)}: column {column} is empty. Fill it, or leave the line out."
            )
        return found

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """Columns of finite numbers: float64 [n, columns]."""
        indices = [self.columns.index(column) for column in columns]
        values = np.empty((len(self.cells), len(columns)))
        for row, cells in enumerate(self.cells):
            for place, index in enumerate(indices):
                values[row, place] = self._number(cells[index], row, columns[place])
        require_finite(values, self.place, self.source, columns)
        return values

    def _number(self, text: str, row: int, column: str) -> float:
        try:
            return float(text) if text.strip() else math.nan
        except ValueError:
            raise ValueError(
                f"{self.source}, {self.place(row)}: column {column} must hold numbers, and here is {text.strip()!r}. Name the "
                "columns of numbers: dataset.features=[A,B], or dataset.target and dataset.task where they are meant."
            ) from None


def _rows(read: _Read, *, groups: list[str], targets: np.ndarray | None, split: str | None) -> Rows:
    return Rows(
        source=read.source,
        inputs=read.numbers(read.features),
        groups=groups,
        targets=targets,
        splits=None if split is None else read.texts(split),
        place=read.place,
        names=read.features,
        notes={"features": json.dumps(read.features)},
    )


def _read(
    path: str | None,
    option: str,
    delimiter: str,
    others: Mapping[str, Sequence[str]],
    features: Sequence[str] | None,
) -> _Read:
    """The whole file, whose columns are there and whose lines are of one length.

    Args:
        others: columns that are no features, by the key that names them.
    """
    if path is None:
        raise ValueError(f"dataset={option} needs the file of your table. Set dataset.path=FILE.csv.")
    if len(delimiter) != 1:
        raise ValueError(f"delimiter must be one character, got {delimiter!r}. Set dataset.delimiter.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"dataset.path must be a CSV file, and {file} is not there.")
    cells, lines = [], []
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, delimiter=delimiter)
            columns = [name.strip() for name in next(reader, [])]
            for line in reader:
                if not any(cell.strip() for cell in line):
                    continue
                if len(line) != len(columns):
                    raise ValueError(
                        f"table {file}, line {reader.line_num}: {len(line)} cells, and the first line names {len(columns)} columns."
                    )
                cells.append(line)
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"table {file} cannot be read as CSV in UTF-8: {error}") from error
    if not cells:
        raise ValueError(
            f"table {file} must have a line of column names and a line for each example; it has no example."
        )
    _check_columns(file, columns, delimiter, {**others, "features": features or ()})
    taken = {name for names in others.values() for name in names}
    chosen = list(features) if features is not None else [name for name in columns if name not in taken]
    if not chosen:
        raise ValueError(f"table {file} has no column left for the inputs. Set dataset.features=[COLUMN,...].")
    return _Read(file, columns, cells, lines, chosen)


def _check_columns(file: Path, columns: list[str], delimiter: str, needed: Mapping[str, Sequence[str]]) -> None:
    """Raise `ValueError` unless the columns that keys name are there, and no name is there twice."""
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"table {file} has several columns called {twice[0]!r}. Name them apart in its first line.")
    for key, name in ((key, name) for key, names in needed.items() for name in names):
        if name not in columns:
            near = closest(name, columns)
            other = next((mark for mark in ";\t" if mark in columns[0]), None) if len(columns) == 1 else None
            hint = (
                f"; it seems to be written with {other!r} between its cells: set dataset.delimiter={other!r}."
                if other and other != delimiter
                else f"; did you mean {near}?"
                if near
                else "."
            )
            raise ValueError(
                f"table {file} has no column {name} (dataset.{key}){hint} Its columns: {', '.join(columns)}."
            )
