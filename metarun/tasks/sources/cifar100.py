"""CIFAR-FS and FC100: two splits of CIFAR-100's 100 classes of 600 images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metarun.tasks.packed_file import Originals
from metarun.tasks.sources.archives import damaged, read_tar, reading, value_of
from metarun.tasks.sources.catalogue import DataSet
from metarun.tasks.sources.hdf5 import array_of, opened
from metarun.tasks.sources.images import resized_array
from metarun.tasks.sources.listing import Files, missing_classes, originals_of
from metarun.tasks.sources.plain_pickle import unpickled
from metarun.tasks.sources.torchmeta_compat import split_lists
from metarun.tasks.types import Split

_PICKLES = ("train", "test", "meta")


def class_lists(name: str, known: list[str]) -> dict[Split, list[str]]:
    """`<superclass>/<class>` of train, val and test: CIFAR-FS lists classes, FC100 superclasses."""
    lists = split_lists("cifar100", "cifar-fs" if name == "cifar_fs" else "fc100")
    if name == "cifar_fs":
        return {split: [f"{coarse}/{fine}" for coarse, fine in pairs] for split, pairs in lists.items()}
    return {
        split: [label for label in known if label.partition("/")[0] in superclasses]
        for split, superclasses in lists.items()
    }


def from_archive(entry: DataSet, files: Files, size: int) -> Originals:
    """`cifar-100-python.tar.gz`."""
    (path,) = files.values()
    found = {}
    for name, file in read_tar(path, entry.name, lambda n: n.rpartition("/")[2] in _PICKLES, entry.largest_file):
        found[name.rpartition("/")[2]] = unpickled(file, path, entry.name)
    absent = [name for name in _PICKLES if name not in found]
    if absent:
        raise damaged(path, entry.name, f"it lacks cifar-100-python/{absent[0]}")
    return _from_pickles(entry, found, path, size)


def from_folder(entry: DataSet, files: Files, size: int) -> Originals:
    """`cifar-100-python/`, unpacked."""
    (folder,) = files.values()
    found = {}
    for name in _PICKLES:
        if not (folder / name).is_file():
            raise damaged(folder, entry.name, f"it lacks {name}")
        with open(folder / name, "rb") as file:
            found[name] = unpickled(file, folder / name, entry.name)
    return _from_pickles(entry, found, folder, size)


def _from_pickles(entry: DataSet, found: dict[str, Any], path: Path, size: int) -> Originals:
    with reading(path, entry.name):
        parts = [found["train"], found["test"]]  # torchmeta's order within a class
        pixels = np.concatenate([np.asarray(value_of(part, "data"), dtype=np.uint8) for part in parts])
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        fine = np.concatenate([np.asarray(value_of(part, "fine_labels")) for part in parts])
        coarse = np.concatenate([np.asarray(value_of(part, "coarse_labels")) for part in parts])
        fine_names = [_text(name) for name in value_of(found["meta"], "fine_label_names")]
        coarse_names = [_text(name) for name in value_of(found["meta"], "coarse_label_names")]
        rows = {}
        for label in np.unique(fine):
            positions = np.flatnonzero(fine == label)
            rows[f"{coarse_names[coarse[positions[0]]]}/{fine_names[label]}"] = positions
        if len(images) != len(fine):
            raise ValueError(f"it has {len(images)} images and {len(fine)} labels")
    return _split(
        entry, {name: len(positions) for name, positions in rows.items()}, lambda n: images[rows[n]], path, size
    )


def from_hdf5(entry: DataSet, files: Files, size: int) -> Originals:
    """torchmeta's data.hdf5."""
    (path,) = files.values()
    with opened(path, entry.name) as file:
        counts = {f"{coarse}/{fine}": len(data) for coarse, group in file.items() for fine, data in group.items()}

    def images(name: str) -> np.ndarray:
        with opened(path, entry.name) as file:
            return array_of(entry, file[name])

    return _split(entry, counts, images, path, size)


def _split(
    entry: DataSet, counts: dict[str, int], images: Callable[[str], np.ndarray], path: Path, size: int
) -> Originals:
    splits = class_lists(entry.name, sorted(counts))
    absent = missing_classes(splits, counts)
    if absent:
        raise damaged(path, entry.name, f"it lacks {len(absent)} of the split's classes, first {absent[0]}")
    kept = {name: counts[name] for names in splits.values() for name in names}

    def items() -> Iterator[Tensor]:
        for name in sorted(kept):
            yield resized_array(images(name), size)

    return originals_of(entry, kept, splits, (3, size, size), items, {"originals": str(path)})


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


READERS = {"archive": from_archive, "extracted": from_folder, "hdf5": from_hdf5}
