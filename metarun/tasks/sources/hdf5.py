"""The HDF5 files that torchmeta makes of its data sets, read without torchmeta."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarun.tasks.packed_file import Originals
from metarun.tasks.sources.archives import reading
from metarun.tasks.sources.catalogue import DataSet
from metarun.tasks.sources.images import decoded, resized_array
from metarun.tasks.sources.listing import Files, originals_of
from metarun.tasks.types import SPLITS, Split


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """An HDF5 file; an error inside the block is the file's.

    Raises:
        ValueError: it is damaged or something else.
    """
    import h5py

    with reading(path, _what(name)), h5py.File(path, "r") as file:
        yield file


def _what(name: str) -> str:
    return f"{name} in torchmeta's HDF5"


def from_split_files(entry: DataSet, files: Files, size: int) -> Originals:
    """`{split}_data.hdf5` with `datasets/<class>`: arrays of images, encoded images, or features."""
    splits: dict[Split, list[str]] = {}
    counts: dict[str, int] = {}
    place: dict[str, tuple[Path, str]] = {}
    for split in SPLITS:
        path = files[f"{split}_data.hdf5"]
        # tiered-ImageNet's archives are read split by split, so its classes are named after them; see imagenet.py.
        prefix = f"{split}/" if entry.name == "tieredimagenet" else ""
        labels = _labels(entry, files[f"{split}_labels.json"])
        with opened(path, entry.name) as file:
            data = file["datasets"]
            absent = [label for label in labels if label not in data]
            if absent:
                raise ValueError(f"it lacks {len(absent)} classes of its labels, first {absent[0]}")
            found = {label: len(data[label]) for label in labels}
        splits[split] = [prefix + label for label in labels]
        for label, count in found.items():
            if prefix + label in counts:
                raise ValueError(f"class {label} of {entry.name} is there twice, the second time in {path}.")
            counts[prefix + label] = count
            place[prefix + label] = (path, label)

    def items() -> Iterator[Tensor]:
        for name in sorted(counts):
            path, label = place[name]
            with opened(path, entry.name) as file:
                data = array_of(entry, file["datasets"][label])
            yield from _blocks(entry, data, path, label, size)

    shape = (entry.shape[0], size, size) if entry.has_images else entry.shape
    return originals_of(entry, counts, splits, shape, items, {"originals": str(files["train_data.hdf5"].parent)})


def array_of(entry: DataSet, node: Any) -> np.ndarray:
    """What an HDF5 file has of a class, if that is no more than the set holds."""
    if node.nbytes > entry.largest_file:
        raise ValueError(
            f"{node.name} in it takes {node.nbytes:,} bytes, and no file of the set {entry.largest_file:,}"
        )
    return np.asarray(node)


def _labels(entry: DataSet, path: Path) -> list[str]:
    with reading(path, f"{entry.name} labels, a JSON list of names"):
        labels = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"it starts with {json.dumps(labels)[:40]}")
        if len(set(labels)) < len(labels):
            raise ValueError(f"{next(label for label in labels if labels.count(label) > 1)} is there twice")
    return labels


def _blocks(entry: DataSet, data: np.ndarray, path: Path, label: str, size: int) -> Iterator[Tensor]:
    """One class, as blocks of items."""
    if entry.has_images and data.dtype == object:
        for position, encoded in enumerate(data):
            where = f"{path}: {label}, number {position}"
            yield decoded(encoded.tobytes(), where, channels=entry.shape[0], size=size)[None]
        return
    with reading(path, _what(entry.name)):
        block = resized_array(data, size) if entry.has_images else torch.from_numpy(data.astype(np.float32))
    yield block


READERS = {"hdf5": from_split_files}
