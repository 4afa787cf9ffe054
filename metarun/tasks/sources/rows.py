"""From rows of numbers to a class store: grouped by class or by task, split, and standardised by the training split."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from metarun import checks
from metarun.tasks.class_store import ClassStore, sha256_of, split_sha256
from metarun.tasks.sources.class_split import split_of
from metarun.tasks.sources.image_files import some
from metarun.tasks.types import SPLITS, Split

logger = logging.getLogger(__name__)

VERSION = "1"
_USUAL_DEVIATION = 10.0
"""Of the targets of a regression: the usual inner steps are for about 1."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a person chooses about the split and the scale of rows, whatever file they come from.

    Attributes:
        split_file: JSON {"train": [classes], "val": [...], "test": [...]}; classes that it does not name are left out.
        split_fractions: without a file or a split in the rows, shares of train, val and test.
        split_seed: of that split.
        min_examples: leave out classes with fewer rows; None: all are kept.
        standardise: features to mean 0 and deviation 1 over the training classes.
        standardise_target: targets of a regression, too.
    """

    split_file: str | None
    split_fractions: Sequence[float]
    split_seed: int
    min_examples: int | None
    standardise: bool
    standardise_target: bool = False

    def __post_init__(self) -> None:
        if self.min_examples is not None:
            checks.integer("min_examples", self.min_examples, minimum=2)
        for name in ("standardise", "standardise_target"):
            checks.boolean(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What was read from a file.

    Attributes:
        source: the file, in words: "table flowers.csv".
        inputs: float64 [n, ...].
        groups: n names: the class of each row, or its task where there are targets.
        targets: float64 [n, outputs] of a regression, or None.
        splits: n of "train", "val" and "test", or None where the file does not say.
        place: of row i in the file, in words: "line 7".
        names: of the features, for the words about them; empty where they have none.
        notes: whatever else is worth keeping about what was read.
    """

    source: str
    inputs: np.ndarray
    groups: Sequence[str]
    targets: np.ndarray | None
    splits: Sequence[str] | None
    place: Callable[[int], str]
    names: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the groups are."""
        return "class" if self.targets is None else "task"


def store_of(rows: Rows, choices: Choices) -> ClassStore:
    """The store of rows. Example k of a class is the class's k-th row in the file.

    Raises:
        FileNotFoundError: the split file is not there.
        ValueError: a class in two splits, a split that is none, or nothing left.
    """
    members: dict[str, list[int]] = {}
    for row, name in enumerate(rows.groups):
        members.setdefault(name, []).append(row)
    plural = "classes" if rows.kind == "class" else "tasks"
    if len(members) == len(rows.groups):
        hint = " For numbers to predict: dataset=table_regression or arrays_regression." if rows.kind == "class" else ""
        raise ValueError(
            f"{rows.source} has {len(members):,} {plural} and as many examples, and each {rows.kind} needs several.{hint}"
        )
    found = _splits(rows, members, choices)
    named = {name for names in found.values() for name in names}
    fewest = choices.min_examples or 1
    kept = sorted(name for name, own in members.items() if name in named and len(own) >= fewest)
    left_out = sorted(set(members) - set(kept))
    if not kept:
        raise ValueError(f"no {rows.kind} of {rows.source} is left: {some(left_out)}. Lower dataset.min_examples.")
    if left_out:
        logger.warning("%d %s of %s are left out: %s", len(left_out), plural, rows.source, some(left_out))
    is_kept = set(kept)
    splits: dict[Split, list[str]] = {split: [name for name in found[split] if name in is_kept] for split in SPLITS}
    training = np.array([row for name in splits["train"] for row in members[name]], dtype=np.int64)
    order = np.array([row for name in kept for row in members[name]], dtype=np.int64)
    notes = dict(rows.notes) | {"left_out": json.dumps(left_out), "input_shape": json.dumps(rows.inputs.shape[1:])}
    if rows.targets is not None:
        notes["num_outputs"] = json.dumps(rows.targets.shape[1])
    inputs, notes["standardised"] = _inputs(rows, training, choices)
    targets, notes["standardised_target"] = _targets(rows, training, choices)
    items = torch.from_numpy(inputs[order].astype(np.float32))
    provenance = {"source": rows.source, "version": VERSION, "sha256": sha256_of(items)}
    provenance |= {"split_sha256": split_sha256(splits), "classes_sha256": _classes_sha256(kept, members)}
    ids = {name: position for position, name in enumerate(kept)}
    stored = None if targets is None else torch.from_numpy(targets[order].astype(np.float32))
    if stored is not None:
        provenance["targets_sha256"] = sha256_of(stored)
    return ClassStore(
        items=items,
        counts=torch.tensor([len(members[name]) for name in kept]),
        classes=tuple(kept),
        splits={
            split: torch.tensor(sorted(ids[name] for name in splits[split]), dtype=torch.int64) for split in SPLITS
        },
        provenance=provenance | notes,
        targets=stored,
    )


def require_finite(values: np.ndarray, place: Callable[[int], str], source: str, names: Sequence[str]) -> None:
    """Raise `ValueError` with the first row that holds a number that is NaN or infinite.

    Args:
        values: [n, ...].
        names: of the columns of `values`; empty: the position is named.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, *position = (int(index) for index in bad[0])
        what = f"column {names[position[0]]}" if names else f"position {position}" if position else "the value"
        num_rows = len({int(index[0]) for index in bad})
        also = f", and so have {num_rows - 1} more rows" if num_rows > 1 else ""
        raise ValueError(
            f"{source}, {place(row)}: {what} is {values[tuple(bad[0])]}{also}. Every number must be finite: fill the gaps, or "
            "leave the rows or the column out."
        )


def _splits(rows: Rows, members: Mapping[str, list[int]], choices: Choices) -> dict[Split, list[str]]:
    """The names of each split's groups."""
    if rows.splits is None:
        found = split_of(
            sorted(members), choices.split_file, choices.split_fractions, choices.split_seed, f"a row in {rows.source}"
        )
        return found
    splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
    known: dict[str, Split] = {str(split): split for split in SPLITS}
    for name, own in members.items():
        first = rows.splits[own[0]]
        for row in own:
            if rows.splits[row] not in known:
                raise ValueError(
                    f"{rows.source}, {rows.place(row)}: the split must be train, val or test, and is {rows.splits[row]!r}."
                )
            if rows.splits[row] != first:
                raise ValueError(
                    f"{rows.source}: a {rows.kind} must be in one split only, and {name} is in {first} ({rows.place(own[0])}) "
                    f"and in {rows.splits[row]} ({rows.place(row)}). It is the {rows.kind} that is split here, not its rows."
                )
        splits[known[first]].append(name)
    return splits


def _inputs(rows: Rows, training: np.ndarray, choices: Choices) -> tuple[np.ndarray, str]:
    """The features as they are given to a model, and the means and deviations they were standardised by, as JSON."""
    if choices.standardise and not len(training):
        logger.warning("%s has no training examples: features are left as they are in the file", rows.source)
    if not choices.standardise or not len(training):
        return rows.inputs, json.dumps(None)
    mean, deviation = _scale(rows.inputs[training])
    constant: list[int] = np.flatnonzero(deviation == 0).tolist()
    names = [rows.names[i] for i in constant] if rows.names else [str(i) for i in constant]
    words = f"; constant there, and only centred: {some(names)}" if names else ""
    logger.info(
        "%s: features have mean 0 and deviation 1 over the %s training examples alone (dataset.standardise)%s",
        rows.source,
        f"{len(training):,}",
        words,
    )
    scale = np.where(deviation == 0, 1.0, deviation)
    return (rows.inputs - mean) / scale, json.dumps({"mean": mean.tolist(), "std": scale.tolist()})


def _targets(rows: Rows, training: np.ndarray, choices: Choices) -> tuple[np.ndarray | None, str]:
    """As `_inputs`, of the targets of a regression."""
    if rows.targets is None or not len(training):
        return rows.targets, json.dumps(None)
    mean, deviation = _scale(rows.targets[training])
    if choices.standardise_target:
        scale = np.where(deviation == 0, 1.0, deviation)
        logger.info(
            "%s: targets have mean 0 and deviation 1 over the training tasks alone, so that errors are in units of their "
            "deviation, %s (dataset.standardise_target)",
            rows.source,
            ", ".join(f"{each:g}" for each in scale),
        )
        return (rows.targets - mean) / scale, json.dumps({"mean": mean.tolist(), "std": scale.tolist()})
    size = float(np.abs(np.concatenate([mean, deviation])).max())
    if size > _USUAL_DEVIATION or deviation.max() < 1 / _USUAL_DEVIATION:
        logger.warning(
            "%s: targets have mean %s and deviation %s, and the usual steps are for about 0 and 1: consider "
            "dataset.standardise_target=true",
            rows.source,
            ", ".join(f"{each:g}" for each in mean),
            ", ".join(f"{each:g}" for each in deviation),
        )
    return rows.targets, json.dumps(None)


def _scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (of n) of each column; a column of equal values has deviation 0 whatever rounding says."""
    mean, deviation = values.mean(0), values.std(0)
    return mean, np.where((values == values[0]).all(0), 0.0, deviation)


def _classes_sha256(names: Sequence[str], members: Mapping[str, list[int]]) -> str:
    """SHA-256 of the lines "number name": what row is of what class, beside the rows themselves."""
    listing = "".join(f"{len(members[name])} {name}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()
