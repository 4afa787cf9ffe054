"""Images grouped by class, as one uint8 tensor and one packed file that is memory-mapped when opened.

Little endian: 16 bytes of magic; format version (u32); CRC-32 of the header (u32); length of the header (u64);
the header as JSON; zeros up to a multiple of 4096; the pixels. It is written whole or not at all.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metarun.tasks.types import SPLITS, Split

logger = logging.getLogger(__name__)

MAGIC = b"metarun classes\n"
FORMAT_VERSION = 1
_PREFIX = struct.Struct("<16sIIQ")
_ALIGNMENT = 4096  # a page, so that the pixels start on one


class CorruptStoreError(ValueError):
    """A packed file that is not what was written: truncated, altered, or of another format version."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassStore:
    """Every image of a data set, grouped by class, with the split of the classes.

    Attributes:
        images: uint8 [C, M, channels, H, W]; a class with fewer than M images is padded with zeros.
        counts: int64 [C], images per class.
        classes: C names, sorted; a class id is a position in this list.
        splits: for train, val and test, int64 class ids in ascending order; no class is in two of them.
        provenance: `source`, `version`, `sha256` of the pixels, `split_sha256` of the split's class names.
    """

    images: Tensor
    counts: Tensor
    classes: tuple[str, ...]
    splits: Mapping[Split, Tensor]
    provenance: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 5:
            shape = tuple(self.images.shape)
            raise ValueError(f"images must be uint8 [C, M, channels, H, W], got {self.images.dtype} {shape}")
        num_classes, num_images = self.images.shape[:2]
        if len(self.classes) != num_classes or list(self.classes) != sorted(set(self.classes)):
            raise ValueError(f"classes must be {num_classes} sorted, distinct names, got {len(self.classes)}")
        if self.counts.shape != (num_classes,) or not bool(((self.counts > 0) & (self.counts <= num_images)).all()):
            raise ValueError(f"counts must be {num_classes} numbers from 1 to {num_images}")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be {', '.join(SPLITS)}, got {', '.join(self.splits)}")
        owner: dict[int, str] = {}
        for split in SPLITS:
            for class_id in self.splits[split].tolist():
                if not 0 <= class_id < num_classes:
                    raise ValueError(f"split {split} names class {class_id}; there are {num_classes} classes")
                if class_id in owner:
                    where = f"{owner[class_id]} and {split}" if owner[class_id] != split else f"{split}, twice"
                    raise ValueError(f"a class must be in one split only; {self.classes[class_id]} is in {where}")
                owner[class_id] = split

    @classmethod
    def build(
        cls, images: Tensor, classes: Sequence[str], splits: Mapping[Split, Sequence[str]], source: str, version: str
    ) -> "ClassStore":
        """A store of equally large classes from its pixels and class names, hashes filled in.

        Args:
            images: uint8 [C, M, channels, H, W], in the order of `classes`.
            classes: C sorted names.
            splits: names of the classes of train, val and test.
            source: where the pixels come from.
            version: of the preparation; changes whenever the pixels do.
        Raises:
            ValueError: a split names an unknown class, or two splits share one.
        """
        ids = {name: position for position, name in enumerate(classes)}
        for split, names in splits.items():
            unknown = sorted(set(names) - set(ids))
            if unknown:
                raise ValueError(f"split {split} names {len(unknown)} classes that {source} lacks, first {unknown[0]}")
        listing = "".join(f"{split} {name}\n" for split in SPLITS for name in sorted(splits.get(split, ())))
        return cls(
            images=images,
            counts=torch.full((len(images),), images.shape[1]),
            classes=tuple(classes),
            splits={
                split: torch.tensor(sorted(ids[name] for name in splits[split]), dtype=torch.int64) for split in splits
            },
            provenance={
                "source": source,
                "version": version,
                "sha256": _sha256(images),
                "split_sha256": hashlib.sha256(listing.encode()).hexdigest(),
            },
        )

    def to(self, device: torch.device | str) -> "ClassStore":
        """The store with its tensors on `device`: done once, so that an episode is an index into resident memory."""
        splits = {split: ids.to(device) for split, ids in self.splits.items()}
        return dataclasses.replace(self, images=self.images.to(device), counts=self.counts.to(device), splits=splits)

    def verify(self) -> None:
        """Hash all pixels and compare.

        Raises:
            CorruptStoreError: the SHA-256 is not the recorded one.
        """
        found = _sha256(self.images)
        if found != self.provenance["sha256"]:
            raise CorruptStoreError(
                f"pixels of {self.provenance['source']} have SHA-256 {found}, recorded {self.provenance['sha256']}"
            )


def write_store(path: Path, store: ClassStore) -> None:
    """Write the packed file at `path`: to `<path>.partial` first, flushed to the disk, then renamed.

    Raises:
        OSError: the folder cannot be written or is full; nothing is then left under either name.
    """
    pixels = _pixel_bytes(store.images)
    header = json.dumps(
        {
            "shape": list(store.images.shape),
            "counts": store.counts.tolist(),
            "classes": store.classes,
            "splits": {split: ids.tolist() for split, ids in store.splits.items()},
            "provenance": dict(store.provenance),
            "crc32": zlib.crc32(pixels),
        }
    ).encode()
    prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, zlib.crc32(header), len(header))
    padding = bytes(_payload_offset(len(header)) - len(prefix) - len(header))
    partial = path.with_name(path.name + ".partial")
    try:
        try:
            with open(partial, "wb") as file:
                for piece in (prefix, header, padding, pixels):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(path.parent, error, needed=len(pixels)) from error


def open_store(path: Path) -> ClassStore:
    """Map the packed file at `path` into memory and check it.

    Size, format, header and the CRC-32 of the pixels are checked every time (about 0.3 ms per MB: 7 ms for Omniglot at
    28x28, and it brings the file into the page cache); `ClassStore.verify` hashes the pixels as well. The mapping
    is private: writing to `images` never reaches the file.

    Raises:
        OSError: the file does not exist or cannot be read.
        CorruptStoreError: the file is not what `write_store` wrote.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _PREFIX.size:
            raise _corrupt(path, f"{size} bytes, shorter than its {_PREFIX.size}-byte prefix")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    magic, version, header_crc, header_length = _PREFIX.unpack_from(buffer)
    if magic != MAGIC:
        raise _corrupt(path, f"starts with {magic!r}, expected {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise _corrupt(path, f"format version {version}, expected {FORMAT_VERSION}")
    header_bytes = buffer[_PREFIX.size : _PREFIX.size + min(header_length, size)]
    if zlib.crc32(header_bytes) != header_crc:
        raise _corrupt(path, "the header does not have the recorded CRC-32")
    header = json.loads(header_bytes)
    shape = header["shape"]
    offset, count = _payload_offset(header_length), torch.Size(shape).numel()
    if size != offset + count:
        raise _corrupt(path, f"{size} bytes, expected {offset + count}")
    with memoryview(buffer) as view, view[offset:] as pixels:
        if zlib.crc32(pixels) != header["crc32"]:
            raise _corrupt(path, "the pixels do not have the recorded CRC-32")
    return ClassStore(
        images=torch.frombuffer(buffer, dtype=torch.uint8, count=count, offset=offset).view(shape),
        counts=torch.tensor(header["counts"], dtype=torch.int64),
        classes=tuple(header["classes"]),
        splits={split: torch.tensor(ids, dtype=torch.int64) for split, ids in header["splits"].items()},
        provenance=header["provenance"],
    )


def open_or_build(path: Path, build: Callable[[], ClassStore]) -> ClassStore:
    """Open the packed file at `path`, building and writing it first if it is absent or corrupt.

    Of several processes that need the same file one builds it; the others wait at `<path>.lock` and use the result.

    Raises:
        CorruptStoreError: the file is corrupt and `build` did not find the originals.
        FileNotFoundError: there is no file and `build` did not find the originals.
        OSError: the folder cannot be written or is full.
    """
    corruption: CorruptStoreError | None = None
    try:
        return open_store(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the usual first time; what is wrong with the folder is said when it is made
    except CorruptStoreError as error:
        corruption = error
        logger.warning("%s Building it again from the originals.", error)
    with _exclusive(path):
        with contextlib.suppress(FileNotFoundError, CorruptStoreError):
            return open_store(path)  # another process built it while this one waited
        try:
            store = build()
        except FileNotFoundError as missing:
            if corruption is None:
                raise
            raise CorruptStoreError(f"{corruption} It could not be built again: {missing}") from missing
        write_store(path, store)
    return open_store(path)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path`. The kernel drops it when the process ends, so no lock outlives a killed run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(path.name + ".lock"), "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process that is preparing %s", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _payload_offset(header_length: int) -> int:
    return -(-(_PREFIX.size + header_length) // _ALIGNMENT) * _ALIGNMENT


def _pixel_bytes(images: Tensor) -> memoryview:
    return memoryview(images.cpu().contiguous().numpy()).cast("B")


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(_pixel_bytes(images)).hexdigest()


def _corrupt(path: Path, reason: str) -> CorruptStoreError:
    return CorruptStoreError(f"{path} is not a usable packed data set ({reason}). Delete it, and it is built again.")


def _cannot_write(folder: Path, error: OSError, needed: int = 0) -> OSError:
    size = f" ({needed / 2**20:.0f} MiB needed)" if needed else ""
    return type(error)(
        f"cannot write the packed data set to {folder}{size}: {error.strerror}. "
        "Set data.cache or METARUN_CACHE to a folder that can be written."
    )
