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
from metarun.tasks.sources.archives import damaged
from metarun.tasks.sources.catalogue import DataSet
from metarun.tasks.sources.listing import Files, originals_of
from metarun.tasks.sources.pictures import decoded, resized_array
from metarun.tasks.types import SPLITS, Split


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """An HDF5 file.

    Raises:
        ValueError: it is damaged or something else.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise damaged(path, f"{name} in torchmeta's HDF5", f"truncated, or no HDF5 file ({error})") from error
    with file:
        yield file


def from_split_files(entry: DataSet, files: Files, size: int) -> Originals:
    """`{split}_data.hdf5` with `datasets/<class>`: arrays of pictures, encoded pictures, or features."""
    splits: dict[Split, list[str]] = {}
    counts: dict[str, int] = {}
    place: dict[str, tuple[Path, str]] = {}
    for split in SPLITS:
        path = files[f"{split}_data.hdf5"]
        # tiered-ImageNet's archives are read split by split, so its classes are named after them; see imagenet.py.
        prefix = f"{split}/" if entry.name == "tieredimagenet" else ""
        labels = json.loads(files[f"{split}_labels.json"].read_text())
        with opened(path, entry.name) as file:
            data = file["datasets"]
            absent = [label for label in labels if label not in data]
            if absent:
                raise damaged(
                    path, f"{entry.name} in torchmeta's HDF5", f"it lacks {len(absent)} classes of its labels"
                )
            splits[split] = [prefix + label for label in labels]
            for label in labels:
                if prefix + label in counts:
                    raise ValueError(f"class {label} of {entry.name} is there twice, the second time in {path}.")
                counts[prefix + label] = len(data[label])
                place[prefix + label] = (path, label)

    def items() -> Iterator[Tensor]:
        with contextlib.ExitStack() as stack:
            handles = {path: stack.enter_context(opened(path, entry.name)) for path, _ in place.values()}
            for name in sorted(counts):
                path, label = place[name]
                yield from _blocks(entry, handles[path]["datasets"][label], f"{path}: {label}", size)

    shape = (entry.shape[0], size, size) if entry.is_pictures else entry.shape
    return originals_of(entry, counts, splits, shape, items, {"originals": str(files["train_data.hdf5"].parent)})


def _blocks(entry: DataSet, dataset: Any, where: str, size: int) -> Iterator[Tensor]:
    if not entry.is_pictures:
        yield torch.from_numpy(np.asarray(dataset, dtype=np.float32))
    elif dataset.dtype == object:
        for position, data in enumerate(dataset):
            yield decoded(data.tobytes(), f"{where}, number {position}", channels=entry.shape[0], size=size)[None]
    else:
        yield resized_array(np.asarray(dataset), size)


READERS = {"hdf5": from_split_files}
