"""mini- and tiered-ImageNet, from the archives and pickles of Ren et al. 2018, or mini-ImageNet from images and csv files."""

import csv
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metarun.tasks.packed_file import Originals
from metarun.tasks.sources.archives import Worded, damaged, read_tar, reading, value_of
from metarun.tasks.sources.catalogue import DataSet
from metarun.tasks.sources.images import decoded, resized_array
from metarun.tasks.sources.listing import Files, decode_all, originals_of, plain_decoder, read_files
from metarun.tasks.sources.plain_pickle import unpickled
from metarun.tasks.types import SPLITS, Split


def mini_from_archive(entry: DataSet, files: Files, size: int) -> Originals:
    """`mini-imagenet.tar.gz`, which holds the three pickles."""
    (path,) = files.values()
    split_of = {f"mini-imagenet-cache-{split}.pkl": split for split in SPLITS}
    caches = {}
    for name, file in read_tar(path, entry.name, lambda name: _last(name) in split_of, entry.largest_file):
        caches[split_of[_last(name)]] = unpickled(file, path, entry.name)
    absent = [split for split in SPLITS if split not in caches]
    if absent:
        raise damaged(path, entry.name, f"it lacks mini-imagenet-cache-{absent[0]}.pkl")
    return _mini(entry, caches, {split: path for split in SPLITS}, size)


def mini_from_pickles(entry: DataSet, files: Files, size: int) -> Originals:
    """`mini-imagenet-cache-{train,val,test}.pkl`, as they circulate."""
    paths: dict[Split, Path] = {split: files[f"mini-imagenet-cache-{split}.pkl"] for split in SPLITS}
    caches = {}
    for split, path in paths.items():
        with open(path, "rb") as file:
            caches[split] = unpickled(file, path, entry.name)
    return _mini(entry, caches, paths, size)


def _mini(entry: DataSet, caches: dict[Split, Any], paths: dict[Split, Path], size: int) -> Originals:
    """Dictionaries of `image_data`, uint8 [N, 84, 84, 3], and `class_dict`, class -> rows."""
    counts: dict[str, int] = {}
    splits: dict[Split, list[str]] = {}
    place: dict[str, tuple[np.ndarray, list[int]]] = {}
    for split in SPLITS:
        with reading(paths[split], entry.name):
            images, rows = value_of(caches[split], "image_data"), value_of(caches[split], "class_dict")
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
                raise ValueError(f"image_data is {images.dtype} {images.shape}, expected uint8 [N, 84, 84, 3]")
            rows = {str(name): [operator.index(row) for row in found] for name, found in rows.items()}
            for name, found in rows.items():
                if found and not 0 <= min(found) <= max(found) < len(images):
                    raise ValueError(f"class {name} names rows {min(found)} to {max(found)} of {len(images)}")
        splits[split] = sorted(rows)
        for name, found in rows.items():
            if name in counts:
                raise ValueError(f"class {name} of {entry.name} is there twice, the second time in {paths[split]}.")
            counts[name], place[name] = len(found), (images, found)

    def items() -> Iterator[Tensor]:
        for name in sorted(counts):
            images, rows = place[name]
            yield resized_array(images[rows], size)

    names = ", ".join(sorted({str(path) for path in paths.values()}))
    return originals_of(entry, counts, splits, (3, size, size), items, {"originals": names})


def mini_from_images(entry: DataSet, files: Files, size: int) -> Originals:
    """A folder of images and the csv files (filename, label) of Ravi and Larochelle."""
    folder = files["images/"]
    splits: dict[Split, list[str]] = {}
    members: dict[str, list[str]] = {}
    for split in SPLITS:
        path, labels = files[f"{split}.csv"], set()
        with reading(path, entry.name), open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                if not row.get("filename") or not row.get("label"):
                    raise Worded(f"{path}, line {number}: expected columns filename and label, got {list(row)}.")
                labels.add(row["label"])
                members.setdefault(row["label"], []).append(row["filename"])
        splits[split] = sorted(labels)
    names = [name for label in sorted(members) for name in members[label]]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ValueError(
            f"{folder} lacks {len(absent):,} of the {len(names):,} images of the csv files, first {absent[0]}."
        )

    def items() -> Iterator[Tensor]:
        yield from decode_all(lambda n: read_files(folder, n), names, folder, plain_decoder(entry, size))

    counts = {label: len(names) for label, names in members.items()}
    return originals_of(entry, counts, splits, (3, size, size), items, {"originals": f"{folder} and csv files"})


def tiered_from_archive(entry: DataSet, files: Files, size: int) -> Originals:
    """`tiered-imagenet.tar`, which holds the six pickles."""
    (path,) = files.values()

    def load(name: str) -> tuple[Any, Path]:
        for _, file in read_tar(path, entry.name, lambda member: _last(member) == name, entry.largest_file):
            return unpickled(file, path, entry.name), path
        raise damaged(path, entry.name, f"it lacks {name}")

    return _tiered(entry, load, size, path)


def tiered_from_pickles(entry: DataSet, files: Files, size: int) -> Originals:
    """`{train,val,test}_{images_png,labels}.pkl`."""
    paths = {_last(name): path for name, path in files.items()}

    def load(name: str) -> tuple[Any, Path]:
        with open(paths[name], "rb") as file:
            return unpickled(file, paths[name], entry.name), paths[name]

    return _tiered(entry, load, size, next(iter(paths.values())).parent)


def _tiered(entry: DataSet, load: Callable[[str], tuple[Any, Path]], size: int, where: Path) -> Originals:
    """Labels, and lists of PNG bytes.

    The images of a split are one pickle of up to 7 GB, so classes are named `<split>/<class>`: in order of name they are
    then in order of split, and one pickle is in memory at a time.

    Args:
        load: the contents of a pickle by its name, and the file that it is in.
        where: what is read, for the record.
    """
    counts: dict[str, int] = {}
    splits: dict[Split, list[str]] = {}
    rows: dict[Split, list[Sequence[int]]] = {}
    for split in SPLITS:
        labels, path = load(f"{split}_labels.pkl")
        with reading(path, entry.name):
            names = [f"{split}/{name}" for name in value_of(labels, "label_specific_str")]
            specific = np.asarray(value_of(labels, "label_specific"))
            order = sorted(range(len(names)), key=names.__getitem__)
            rows[split] = [np.flatnonzero(specific == position).tolist() for position in order]
        splits[split] = [names[position] for position in order]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class {twice} of {entry.name} is there twice in {path}.")
        counts |= {name: len(positions) for name, positions in zip(splits[split], rows[split], strict=True)}

    def items() -> Iterator[Tensor]:
        for split in sorted(SPLITS):
            images, path = load(f"{split}_images_png.pkl")
            for name, positions in zip(splits[split], rows[split], strict=True):
                for position in positions:
                    with reading(path, entry.name):
                        data = np.asarray(images[position], dtype=np.uint8).tobytes()
                    yield decoded(data, f"{path}: {name}, image {position}", channels=3, size=size)[None]

    return originals_of(entry, counts, splits, (3, size, size), items, {"originals": str(where)})


def _last(name: str) -> str:
    """A member's name without its folders."""
    return name.rpartition("/")[2]


MINI_READERS = {"archive": mini_from_archive, "pickles": mini_from_pickles, "images": mini_from_images}
TIERED_READERS = {"archive": tiered_from_archive, "pickles": tiered_from_pickles}
