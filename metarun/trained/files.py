"""A task in files: folders of images for each class, or tables of numbers."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.errors import ConfigurationError
from metarun.tasks.sources.image_files import as_text, find_images, images_below, some
from metarun.tasks.sources.images import surveyed
from metarun.trained.inputs import ImageInputs, NumberInputs
from metarun.trained.run import TrainedRun


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """What files say of a task.

    Attributes:
        support, query: prepared inputs, [S, *input_shape] and [Q, *input_shape].
        targets: of the support set: labels, or numbers [S, outputs].
        names: of each query example: the image's path, or the row's inputs as they were written.
        columns: what the parts of a name are, and what is predicted: for tables.
        labels: of each query example the class that its folder is named after; None where it is named otherwise.
        unreadable: images that cannot be read, and why.
    """

    support: Tensor
    targets: Any
    query: Tensor
    names: list[tuple[str, ...]]
    columns: tuple[tuple[str, ...], tuple[str, ...]]
    labels: list[str | None]
    unreadable: dict[str, str] = field(default_factory=dict)


def read_task(run: TrainedRun, support: Path, query: Sequence[Path]) -> FileTask:
    """A task for a run: folders of images if it was trained on images, else tables.

    Raises:
        ConfigurationError: the files are not there, or do not make a task.
    """
    if run.problem.data_depend_on_params:
        raise ConfigurationError(f"{run.path} is a policy, which is adapted to episodes, not to files.")
    if isinstance(run.inputs, ImageInputs):
        return _of_images(run.inputs, support, query)
    if len(run.inputs.shape) != 1:
        shape = "x".join(map(str, run.inputs.shape))
        raise ConfigurationError(
            f"{run.path} was trained on inputs of shape {shape}, and files hold images or rows of numbers. Use metarun.load in "
            "Python."
        )
    return _of_tables(run, support, query)


# ---- images ----------------------------------------------------------------------------------------------------------


def _of_images(inputs: ImageInputs, support: Path, query: Sequence[Path]) -> FileTask:
    if not support.is_dir():
        raise ConfigurationError(
            f"--support must be a folder with one folder of images for each class, and {as_text(support)} is not a folder."
        )
    try:
        members = find_images(support).members
    except ValueError as error:
        raise ConfigurationError(f"--support: {error}") from error
    files = [(support / file, name) for name, group in members.items() for file in group]
    asked = _asked(query)
    whites = surveyed([*(file for file, _ in files), *asked]).whites
    unreadable: dict[str, str] = {}
    pixels, targets = _read(inputs, files, whites, unreadable)
    missing = sorted(set(members) - set(targets))
    if missing:
        raise ConfigurationError(f"no image of the class {missing[0]} can be read: {next(iter(unreadable.values()))}")
    folders = [(file, file.parent.name if file.parent.name in members else None) for file in asked]
    query_pixels, labels = _read(inputs, folders, whites, unreadable)
    if asked and not query_pixels:
        raise ConfigurationError(f"no image of --query can be read: {next(iter(unreadable.values()))}")
    read = [file for file in asked if as_text(file) not in unreadable]
    empty = torch.empty(0, *inputs.shape)
    return FileTask(
        support=inputs.scaled(torch.stack(pixels)),
        targets=targets,
        query=inputs.scaled(torch.stack(query_pixels)) if query_pixels else empty,
        names=[(as_text(file),) for file in read],
        columns=(("image",), ("label",)),
        labels=labels,
        unreadable=unreadable,
    )


def _asked(query: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in query:
        if not path.exists():
            raise ConfigurationError(
                f"--query must name images or folders of images, and {as_text(path)} is not there."
            )
        found = images_below(path) if path.is_dir() else [path]
        if not found:
            raise ConfigurationError(f"--query: {as_text(path)} holds no image.")
        files += found
    return list(dict.fromkeys(files))


def _read(
    inputs: ImageInputs, files: Sequence[tuple[Path, Any]], whites: Mapping[int, int], unreadable: dict[str, str]
) -> tuple[list[Tensor], list[Any]]:
    """Pixels of the images that can be read, and what goes with each; of the others, `unreadable` is told."""
    pixels, kept = [], []
    for file, label in files:
        try:
            pixels.append(inputs.pixels(file, as_text(file), whites))
            kept.append(label)
        except (ValueError, OSError) as error:
            unreadable[as_text(file)] = " ".join(str(error).split())
    return pixels, kept


# ---- tables ----------------------------------------------------------------------------------------------------------


def _of_tables(run: TrainedRun, support: Path, query: Sequence[Path]) -> FileTask:
    """Rows of numbers: the support table has columns that the query table has not, which are what is to be predicted."""
    if len(query) > 1:
        raise ConfigurationError(
            f"--query must be one table, as this run was trained on numbers; got {len(query)} files."
        )
    heads, rows = zip(*(_table(path) for path in (support, *query)), strict=True)
    size = run.inputs.shape[0]
    is_classification = run.problem.score == "accuracy"
    num_targets = 1 if is_classification else int(run.config["dataset"]["output_size"])
    inputs = [name for name in heads[0] if not query or name in heads[1]][: None if query else size]
    if isinstance(run.inputs, NumberInputs) and (names := run.inputs.names):
        if not {*names} <= {*heads[0]} & {*heads[-1]}:
            raise ConfigurationError(
                f"this run was trained on the columns {', '.join(names)}, and --support and --query must have them all."
            )
        inputs = list(names)  # in the order of training
    targets = [name for name in heads[0] if name not in inputs]
    if len(inputs) != size or len(targets) != num_targets:
        raise ConfigurationError(
            f"this run's inputs have {size} columns and what it predicts {num_targets}: --support must have them all, and --query "
            f"those of the inputs alone. Got {', '.join(heads[0])}"
            f"{' and ' + ', '.join(heads[1]) if query else ''}."
        )
    support_inputs = _numbers(support, heads[0], rows[0], inputs)
    wanted: Any = [row[heads[0].index(targets[0])] for row in rows[0]]
    if not is_classification:
        wanted = _numbers(support, heads[0], rows[0], targets)
    given = _numbers(query[0], heads[1], rows[1], inputs) if query else torch.empty(0, size, dtype=torch.float64)
    names = [tuple(row[heads[1].index(name)] for name in inputs) for row in rows[1]] if query else []
    kind = torch.int64 if support_inputs.dtype != torch.float64 else torch.float64
    return FileTask(
        support=run.inputs(support_inputs.to(kind), {}),
        targets=wanted,
        query=run.inputs(given, {}) if len(given) else given,
        names=names,
        columns=(tuple(inputs), tuple(targets)),
        labels=[None] * len(names),
    )


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of a table's columns and its rows."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"this run was trained on rows of numbers, and {as_text(path)} cannot be read as a CSV file: {reason}."
        ) from error
    if len(lines) < 2:
        raise ConfigurationError(
            f"{as_text(path)} must have a line of names and a row at least, got {len(lines)} line(s)."
        )
    head = [name.strip() for name in lines[0]]
    if len(set(head)) != len(head) or all(_is_number(name) for name in head):
        raise ConfigurationError(
            f"the first line of {as_text(path)} must name its columns, each once, got {some(head)}."
        )
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(head):
            raise ConfigurationError(
                f"{as_text(path)}, row {number}: {len(line)} cells, and there are {len(head)} columns."
            )
    return head, [[cell.strip() for cell in line] for line in lines[1:]]


def _numbers(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str]) -> Tensor:
    """The columns `names` as float64 [rows, columns]."""
    for number, row in enumerate(rows, 2):
        for name in names:
            if not _is_number(row[head.index(name)]):
                given = row[head.index(name)]
                raise ConfigurationError(
                    f"{as_text(path)}, row {number}: {name} must be a finite number, got {given!r}."
                )
    return torch.tensor([[float(row[head.index(name)]) for name in names] for row in rows], dtype=torch.float64)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
