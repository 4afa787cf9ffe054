"""From classes of encoded or raw images to `Originals`: sorted, counted, decoded one at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from metarun.tasks.packed_file import Originals
from metarun.tasks.sources.catalogue import VERSIONS, DataSet
from metarun.tasks.sources.images import decoded
from metarun.tasks.types import SPLITS, Split

Files = Mapping[str, Path]
Reader = Callable[[DataSet, Files, int], Originals]


def originals_of(
    entry: DataSet,
    counts: Mapping[str, int],
    splits: Mapping[Split, Iterable[str]],
    shape: tuple[int, ...],
    items: Callable[[], Iterator[Tensor]],
    notes: Mapping[str, str],
) -> Originals:
    """`Originals` of a named set; classes that are in no split are left out by the caller.

    Args:
        counts: examples of each class.
        splits: names of the classes of train, val and test.
        shape: of one item.
        items: every item once, classes in sorted order.
        notes: what was read.
    """
    classes = sorted(counts)
    return Originals(
        classes=classes,
        counts=[counts[name] for name in classes],
        splits={split: sorted(splits[split]) for split in SPLITS},
        shape=shape,
        dtype=torch.uint8 if entry.has_images else torch.float32,
        items=items,
        source=entry.name,
        version=VERSIONS[entry.name],
        notes=dict(notes),
    )


def check_contents(entry: DataSet, listed: Originals) -> None:
    """Compare what was found with what the set is known to hold.

    Raises:
        ValueError: another number of classes in a split, of examples in a class, or in all.
    """
    for split, expected in zip(SPLITS, entry.classes, strict=True):
        if len(listed.splits[split]) != expected:
            raise ValueError(
                f"{entry.name} has {expected} {split} classes, and {len(listed.splits[split])} were found "
                f"({listed.notes.get('originals', '')})."
            )
    if entry.per_class is not None:
        for name, count in zip(listed.classes, listed.counts, strict=True):
            if count != entry.per_class:
                raise ValueError(
                    f"each class of {entry.name} has {entry.per_class} examples, and {name} has {count} "
                    f"({listed.notes.get('originals', '')})."
                )
    if sum(listed.counts) != entry.num_items:
        raise ValueError(
            f"{entry.name} has {entry.num_items:,} examples, and {sum(listed.counts):,} were found "
            f"({listed.notes.get('originals', '')})."
        )


def grouped(names: Iterable[str], class_of: Callable[[str], str | None]) -> dict[str, list[str]]:
    """File names by class, both sorted; those without a class are left out."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        label = class_of(name)
        if label is not None:
            groups.setdefault(label, []).append(name)
    return dict(sorted(groups.items()))


def decode_all(
    read: Callable[[Sequence[str]], Iterator[tuple[str, bytes]]],
    names: Sequence[str],
    where: Path,
    decode: Callable[[bytes, str], Tensor],
) -> Iterator[Tensor]:
    """Every named file, decoded, as blocks of one."""
    for name, data in read(names):
        yield decode(data, f"{where}: {name}")[None]


def plain_decoder(entry: DataSet, size: int) -> Callable[[bytes, str], Tensor]:
    """Decode to the set's channels at `size`."""
    return lambda data, where: decoded(data, where, channels=entry.shape[0], size=size)


def read_files(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Files below `folder`."""
    for name in names:
        yield name, (folder / name).read_bytes()


def missing_classes(expected: Mapping[Split, Sequence[str]], found: Iterable[str]) -> list[str]:
    """Classes of the split lists that were not found."""
    there = set(found)
    return sorted(name for names in expected.values() for name in names if name not in there)
