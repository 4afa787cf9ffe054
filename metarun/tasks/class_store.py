"""Examples grouped by class, with the split of the classes: what episodes are drawn from."""

import dataclasses
import hashlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metarun.tasks.types import SPLITS, Split


class CorruptStoreError(ValueError):
    """A packed file that is not what was written: truncated, altered, or of another format version."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassStore:
    """Every example of a data set, class after class. Classes may be of any size: nothing is padded.

    Attributes:
        items: uint8 images [T, channels, H, W] or float32 features [T, ...]; class c is `counts[c]` rows from `starts[c]`.
        counts: int64 [C], examples per class.
        classes: C names, sorted; a class id is a position in this list.
        splits: for train, val and test, int64 class ids in ascending order; no class is in two of them.
        provenance: `source`, `version`, `sha256` of the items, `split_sha256` of the split's class names, and whatever
            else a source says about what it read.
        mapping: the memory map that `items` lie in, or None.
        targets: of a regression, float32 [T, outputs], one row for each item; the classes are then its tasks.
        starts: int64 [C], first row of each class.
        largest: for each split, the examples of its largest class.
    """

    items: Tensor
    counts: Tensor
    classes: tuple[str, ...]
    splits: Mapping[Split, Tensor]
    provenance: Mapping[str, str]
    mapping: mmap.mmap | None = None
    targets: Tensor | None = None
    starts: Tensor = field(init=False)
    largest: Mapping[Split, int] = field(init=False)

    def __post_init__(self) -> None:
        is_images = self.items.dtype == torch.uint8 and self.items.dim() == 4
        is_features = self.items.dtype == torch.float32 and self.items.dim() >= 2
        if not (is_images or is_features):
            shape = tuple(self.items.shape)
            raise ValueError(
                f"items must be uint8 [T, channels, H, W] or float32 [T, ...], got {self.items.dtype} {shape}"
            )
        num_classes = len(self.classes)
        if list(self.classes) != sorted(set(self.classes)):
            raise ValueError("classes must be sorted, distinct names")
        if self.counts.shape != (num_classes,) or not bool((self.counts > 0).all()):
            raise ValueError(f"counts must be {num_classes} numbers >= 1, one for each class")
        if int(self.counts.sum()) != len(self.items):
            raise ValueError(f"counts must add up to the {len(self.items)} items, got {int(self.counts.sum())}")
        if self.targets is not None and (self.targets.dim() != 2 or len(self.targets) != len(self.items)):
            raise ValueError(f"targets must be [{len(self.items)}, outputs], got {tuple(self.targets.shape)}")
        check_splits(self.classes, {split: ids.tolist() for split, ids in self.splits.items()})
        largest = {split: int(self.counts[ids].max()) if len(ids) else 0 for split, ids in self.splits.items()}
        object.__setattr__(self, "starts", self.counts.cumsum(0) - self.counts)
        object.__setattr__(self, "largest", largest)

    @classmethod
    def build(
        cls, items: Tensor, classes: Sequence[str], splits: Mapping[Split, Sequence[str]], source: str, version: str
    ) -> "ClassStore":
        """A store of equally large classes in memory, hashes filled in.

        Args:
            items: [C, M, *shape], in the order of `classes`.
            classes: C sorted names.
            splits: names of the classes of train, val and test.
            source: where the items come from.
            version: of the preparation; changes whenever the items do.
        Raises:
            ValueError: a split names an unknown class, or two splits share one.
        """
        flat = items.flatten(0, 1)
        provenance = {"source": source, "version": version, "sha256": sha256_of(flat)}
        return cls(
            items=flat,
            counts=torch.full((len(items),), items.shape[1]),
            classes=tuple(classes),
            splits={split: torch.tensor(ids, dtype=torch.int64) for split, ids in ids_of(classes, splits).items()},
            provenance=provenance | {"split_sha256": split_sha256(splits)},
        )

    def to(self, device: torch.device | str) -> "ClassStore":
        """The store with its tensors on `device`: done once, so that an episode is an index into resident memory."""
        items = self.items.to(device)
        splits = {split: ids.to(device) for split, ids in self.splits.items()}
        mapping = self.mapping if items.data_ptr() == self.items.data_ptr() else None
        targets = None if self.targets is None else self.targets.to(device)
        moved = {"items": items, "counts": self.counts.to(device), "splits": splits, "targets": targets}
        return dataclasses.replace(self, mapping=mapping, **moved)

    @property
    def num_bytes(self) -> int:
        """Of the items, and of their targets."""
        return self.items.nbytes + (0 if self.targets is None else self.targets.nbytes)

    def names(self, split: Split) -> list[str]:
        """The classes of a split."""
        return [self.classes[i] for i in self.splits[split].tolist()]

    def verify(self) -> None:
        """Hash all items and compare.

        Raises:
            CorruptStoreError: the SHA-256 is not the recorded one.
        """
        found = sha256_of(self.items)
        if found != self.provenance["sha256"]:
            raise CorruptStoreError(
                f"items of {self.provenance['source']} have SHA-256 {found}, recorded {self.provenance['sha256']}"
            )


def check_splits(classes: Sequence[str], splits: Mapping[Split, Sequence[int]]) -> None:
    """Raise `ValueError` unless the splits are train, val and test, of class ids that exist, each in one split only."""
    if set(splits) != set(SPLITS):
        raise ValueError(f"splits must be {', '.join(SPLITS)}, got {', '.join(splits)}")
    owner: dict[int, str] = {}
    for split in SPLITS:
        for class_id in splits[split]:
            if not 0 <= class_id < len(classes):
                raise ValueError(f"split {split} names class {class_id}; there are {len(classes)} classes")
            if class_id in owner:
                where = f"{owner[class_id]} and {split}" if owner[class_id] != split else f"{split}, twice"
                raise ValueError(f"a class must be in one split only; {classes[class_id]} is in {where}")
            owner[class_id] = split


def ids_of(classes: Sequence[str], splits: Mapping[Split, Sequence[str]]) -> dict[Split, list[int]]:
    """Ascending class ids of each split.

    Raises:
        ValueError: a split names a class that is not there.
    """
    ids = {name: position for position, name in enumerate(classes)}
    for split, names in splits.items():
        unknown = sorted(set(names) - set(ids))
        if unknown:
            raise ValueError(f"split {split} names {len(unknown)} classes that are not there, first {unknown[0]}")
    return {split: sorted(ids[name] for name in names) for split, names in splits.items()}


def split_sha256(splits: Mapping[Split, Sequence[str]]) -> str:
    """SHA-256 of the lines "split name", splits in their order, names sorted."""
    listing = "".join(f"{split} {name}\n" for split in SPLITS for name in sorted(splits.get(split, ())))
    return hashlib.sha256(listing.encode()).hexdigest()


def sha256_of(items: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(bytes_of(items)).hexdigest()


def bytes_of(items: Tensor) -> memoryview:
    """A tensor's bytes, without a copy where it is contiguous on the CPU."""
    return items.cpu().contiguous().numpy().data.cast("B")
