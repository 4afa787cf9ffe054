"""Sets published as one folder of images for each class: CUB, Double MNIST and Triple MNIST, packed up or not."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from metarun.tasks.packed_file import Originals
from metarun.tasks.sources.archives import damaged, read_tar, read_zip, zip_members
from metarun.tasks.sources.catalogue import DataSet
from metarun.tasks.sources.listing import (
    Files,
    decode_all,
    grouped,
    missing_classes,
    originals_of,
    plain_decoder,
    read_files,
)
from metarun.tasks.sources.torchmeta_compat import split_lists
from metarun.tasks.types import Split

_CUB = re.compile(r"(?:.*/)?images/(?P<label>[^/]+)/[^/]+\.jpg")
_MNIST = re.compile(r"(?:.*/)?(?P<split>train|val|test)/(?P<label>[^/]+)/[^/]+\.png")


def _groups(entry: DataSet, names: list[str], where: Path) -> tuple[dict[str, list[str]], dict[Split, list[str]]]:
    """Files by class, and the split of torchmeta's lists; MNIST's folders have a split too, which must be the same."""
    pattern, splits = _CUB if entry.name == "cub" else _MNIST, split_lists(entry.folder)
    split_of = {label: split for split, labels in splits.items() for label in labels}

    def class_of(name: str) -> str | None:
        match = pattern.fullmatch(name)
        if match is None or (label := match["label"]) not in split_of:
            return None
        return label if match.groupdict().get("split", split_of[label]) == split_of[label] else None

    groups = grouped(names, class_of)
    absent = missing_classes(splits, groups)
    if absent:
        number = len(split_of)
        raise damaged(where, entry.name, f"it lacks {len(absent)} of the split's {number} classes, first {absent[0]}")
    return groups, splits


def from_zip(entry: DataSet, files: Files, size: int) -> Originals:
    """A zip, read in the order of names."""
    (path,) = files.values()
    groups, splits = _groups(entry, zip_members(path, entry.name), path)
    names = [name for members in groups.values() for name in members]

    def items() -> Iterator[Tensor]:
        return decode_all(lambda n: read_zip(path, entry.name, n), names, path, plain_decoder(entry, size))

    return _originals(entry, groups, splits, items, path, size)


def from_tar(entry: DataSet, files: Files, size: int) -> Originals:
    """A compressed tar, which can be read in its own order alone: all is decoded in one pass, then put in order."""
    (path,) = files.values()
    found = read_tar(path, entry.name, lambda name: _CUB.fullmatch(name) is not None)
    groups, splits = _groups(entry, [name for name, _ in found], path)
    decode, wanted = plain_decoder(entry, size), {name for members in groups.values() for name in members}

    def items() -> Iterator[Tensor]:
        found = read_tar(path, entry.name, wanted.__contains__)
        images = {name: decode(file.read(), f"{path}: {name}") for name, file in found}
        for members in groups.values():
            for name in members:
                yield images.pop(name)[None]

    return _originals(entry, groups, splits, items, path, size)


def from_folder(entry: DataSet, files: Files, size: int) -> Originals:
    """The archive's contents, unpacked."""
    (folder,) = files.values()
    base = folder.parent
    names = [path.relative_to(base).as_posix() for path in folder.rglob("*.*") if path.is_file()]
    groups, splits = _groups(entry, names, folder)
    ordered = [name for members in groups.values() for name in members]

    def items() -> Iterator[Tensor]:
        return decode_all(lambda n: read_files(base, n), ordered, folder, plain_decoder(entry, size))

    return _originals(entry, groups, splits, items, folder, size)


def _originals(
    entry: DataSet,
    groups: dict[str, list[str]],
    splits: dict[Split, list[str]],
    items: Callable[[], Iterator[Tensor]],
    path: Path,
    size: int,
) -> Originals:
    counts = {name: len(members) for name, members in groups.items()}
    shape = (entry.shape[0], size, size)
    return originals_of(entry, counts, splits, shape, items, {"originals": str(path)})


CUB_READERS = {"archive": from_tar, "extracted": from_folder}
MNIST_READERS = {"archive": from_zip, "extracted": from_folder}
