"""A class store as one file: written in one pass, whole or not at all; memory-mapped when opened.

Little endian: 16 bytes of magic; format version (u32); CRC-32 of the header (u32); its offset and length (u64 each); zeros up
to byte 4096; the items; the header as JSON. The header has a CRC-32 for each MiB of items and the SHA-256 of all.

What is checked when: everything, once, before a new file gets its name, and by `metarun data check`; at every opening the
format, the size, the header and at most 32 MiB of items in blocks spread evenly over the file, so that a file of any size opens
in milliseconds and one of up to 32 MiB is still checked whole.

Why it is not safetensors: measured side by side on 24 MiB and 1.9 GiB, that opens and draws no faster and takes no fewer lines.
`save_file` wants every tensor at once, so the items are written twice; a full disk is an error without a number; its mapping
cannot give pages back (`madvise`), and the header and the items would need these checksums all the same.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.files import lock, mismatch
from metarun.json_text import json_text
from metarun.tasks.class_store import ClassStore, CorruptStoreError, bytes_of, check_splits, ids_of, split_sha256
from metarun.tasks.types import Split

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

MAGIC = b"metarun classes\n"
FORMAT_VERSION = 2
_PREFIX = struct.Struct("<16sIIQQ")
_FIRST = 4096  # a page, so that the items start on one
_BLOCK = 2**20
_CHECKED_BLOCKS = 32
_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
_HEADER = {
    "shape": [int],
    "dtype": str,
    "counts": [int],
    "classes": [str],
    "splits": {"train": [int], "val": [int], "test": [int]},
    "provenance": {"source": str, "version": str, "sha256": str, "split_sha256": str},
    "crc32": [int],
}


@dataclass(frozen=True, kw_only=True)
class Originals:
    """What a data set's original files hold, listed before anything is decoded.

    Attributes:
        classes: sorted names.
        counts: examples of each class.
        splits: names of the classes of train, val and test.
        shape: of one item.
        dtype: of the items, uint8 or float32.
        items: gives every item once, in blocks [n, *shape], class after class.
        source, version: of the data set, and of the preparation, which changes whenever the items do.
        notes: whatever else is worth keeping about what was read.
    """

    classes: Sequence[str]
    counts: Sequence[int]
    splits: Mapping[Split, Sequence[str]]
    shape: tuple[int, ...]
    items: Callable[[], Iterator[Tensor]]
    source: str
    version: str
    dtype: torch.dtype = torch.uint8
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.classes) != sorted(set(self.classes)):
            raise ValueError(f"the classes of {self.source} must be sorted, distinct names")
        if len(self.counts) != len(self.classes) or min(self.counts, default=0) < 1:
            raise ValueError(f"every class of {self.source} must have an example")
        check_splits(self.classes, ids_of(self.classes, self.splits))

    @property
    def num_bytes(self) -> int:
        """Of all items, packed."""
        return sum(self.counts) * torch.Size(self.shape).numel() * self.dtype.itemsize


def write_store(path: Path, originals: Originals, progress: Progress | None = None) -> None:
    """Write the packed file at `path`: to `<path>.partial` first, checked, flushed to the disk, then renamed.

    Args:
        originals: what to write; one block of items is in memory at a time.
        progress: called with (items written, items in all).
    Raises:
        OSError: the folder cannot be written or is full; nothing is then left under either name.
        ValueError: an original is damaged, or does not hold what was listed; nothing is left either.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        free = shutil.disk_usage(path.parent).free
        if free < originals.num_bytes:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {free / 2**20:.0f} MiB free")
        try:
            with open(partial, "w+b") as file:
                _write(file, originals, progress)
                file.flush()
                os.fsync(file.fileno())
            _open(partial, is_whole=True)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except _Undecodable as error:
        raise error.error from error.error.__cause__
    except OSError as error:
        raise _cannot_write(path.parent, error, originals.num_bytes) from error


class _Undecodable(Exception):
    """Carries an `OSError` of the originals past the handler of those of the cache."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _write(file: Any, originals: Originals, progress: Progress | None) -> None:
    total, written = sum(originals.counts), 0
    file.write(bytes(_FIRST))
    checksums = _Checksums()
    for block in _decoded(originals):
        if block.dtype != originals.dtype or tuple(block.shape[1:]) != tuple(originals.shape):
            raise ValueError(f"{originals.source} gave {block.dtype} {tuple(block.shape[1:])}, not {originals.shape}")
        data = bytes_of(block)
        file.write(data)
        checksums.add(data)
        written += len(block)
        if progress is not None:
            progress(written, total)
    if written != total:
        raise ValueError(f"{originals.source} gave {written:,} items, and {total:,} were listed")
    provenance = {"source": originals.source, "version": originals.version} | dict(originals.notes)
    provenance |= {"sha256": checksums.sha256(), "split_sha256": split_sha256(originals.splits)}
    header = json_text(
        {
            "shape": [total, *originals.shape],
            "dtype": str(originals.dtype).removeprefix("torch."),
            "counts": list(originals.counts),
            "classes": list(originals.classes),
            "splits": ids_of(originals.classes, originals.splits),
            "provenance": provenance,
            "crc32": checksums.crcs(),
        }
    ).encode()
    offset = file.tell()
    file.write(header)
    file.seek(0)
    file.write(_PREFIX.pack(MAGIC, FORMAT_VERSION, zlib.crc32(header), offset, len(header)))


def _decoded(originals: Originals) -> Iterator[Tensor]:
    """The items; an `OSError` while reading them is the originals' and not the cache's."""
    iterator = originals.items()
    while True:
        try:
            block = next(iterator, None)
        except OSError as error:
            raise _Undecodable(error) from error
        if block is None:
            return
        yield block


class _Checksums:
    """SHA-256 of a stream, and the CRC-32 of each of its blocks."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._crcs: list[int] = []
        self._crc, self._filled = 0, 0

    def add(self, data: memoryview) -> None:
        self._sha256.update(data)
        while len(data):
            piece = data[: _BLOCK - self._filled]
            self._crc = zlib.crc32(piece, self._crc)
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == _BLOCK:
                self._crcs.append(self._crc)
                self._crc, self._filled = 0, 0

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def crcs(self) -> list[int]:
        return [*self._crcs, self._crc] if self._filled else self._crcs


def open_store(path: Path, *, is_whole: bool = False) -> ClassStore:
    """Map the packed file at `path` into memory and check it (what is checked: the module's docstring).

    The mapping is private: writing to `items` never reaches the file.

    Args:
        is_whole: check every byte (about 0.3 s per GB, and as long as the disk takes).
    Raises:
        OSError: the file does not exist or cannot be read.
        CorruptStoreError: the file is not what `write_store` wrote.
    """
    return _open(path, is_whole=is_whole)


def _open(path: Path, *, is_whole: bool) -> ClassStore:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _FIRST:
            raise _corrupt(path, f"{size} bytes, shorter than its first page")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    magic, version, header_crc, offset, length = _PREFIX.unpack_from(buffer)
    if magic != MAGIC:
        raise _corrupt(path, f"starts with {magic!r}, expected {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise _corrupt(path, f"format version {version}, expected {FORMAT_VERSION}")
    if offset + length != size:
        raise _corrupt(path, f"{size} bytes, expected {offset + length}")
    header_bytes = buffer[offset:]
    if zlib.crc32(header_bytes) != header_crc:
        raise _corrupt(path, "the header does not have the recorded CRC-32")
    header = _header(path, header_bytes, offset - _FIRST)
    shape, dtype = header["shape"], _DTYPES[header["dtype"]]
    count = torch.Size(shape).numel()
    _check_blocks(path, buffer, count * dtype.itemsize, header["crc32"], len(header["crc32"]) if is_whole else None)
    try:
        return ClassStore(
            items=torch.frombuffer(buffer, dtype=dtype, count=count, offset=_FIRST).view(shape),
            counts=torch.tensor(header["counts"], dtype=torch.int64),
            classes=tuple(header["classes"]),
            splits={split: torch.tensor(ids, dtype=torch.int64) for split, ids in header["splits"].items()},
            provenance=header["provenance"],
            mapping=buffer,
        )
    except (ValueError, RuntimeError, OverflowError) as error:
        raise _corrupt(path, f"its header cannot be: {error}") from error


def _header(path: Path, data: bytes, num_bytes: int) -> dict[str, Any]:
    """The header of a file with so many bytes of items, if it is one."""
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"its header is no JSON: {error}") from error
    reason = mismatch(header, _HEADER)
    if not reason and (min(header["shape"], default=0) < 1 or header["dtype"] not in _DTYPES):
        reason = f"it states items of {header['dtype']} {header['shape']}"
    if not reason:
        stated = math.prod(header["shape"]) * _DTYPES[header["dtype"]].itemsize
        if stated != num_bytes or len(header["crc32"]) != -(-num_bytes // _BLOCK):
            reason = (
                f"it states {stated} bytes of items in {len(header['crc32'])} blocks, and there are {num_bytes} bytes"
            )
    if reason:
        raise _corrupt(path, f"its header cannot be: {reason}")
    return header


def _check_blocks(path: Path, buffer: mmap.mmap, num_bytes: int, crcs: Sequence[int], limit: int | None) -> None:
    """Compare at most `limit` blocks with their CRC-32, the first and the last among them."""
    chosen = min(len(crcs), limit or _CHECKED_BLOCKS)
    with memoryview(buffer) as view:
        for i in range(chosen):
            block = i * (len(crcs) - 1) // max(1, chosen - 1)
            start = _FIRST + block * _BLOCK
            with view[start : min(start + _BLOCK, _FIRST + num_bytes)] as piece:
                if zlib.crc32(piece) != crcs[block]:
                    raise _corrupt(path, f"MiB {block} of its items does not have the recorded CRC-32")


def open_or_pack(path: Path, find: Callable[[], Originals], progress: Progress | None = None) -> ClassStore:
    """Open the packed file at `path`, packing the originals first if it is absent or corrupt.

    Of several processes that need the same file one packs it; the others wait at `<path>.lock` and use the result.

    Raises:
        CorruptStoreError: the file is corrupt and `find` did not find the originals.
        FileNotFoundError: there is no file and `find` did not find the originals.
        OSError: the folder cannot be written or is full.
    """
    corruption: CorruptStoreError | None = None
    try:
        return open_store(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the usual first time; what is wrong with the folder is said when it is made
    except CorruptStoreError as error:
        corruption = error
        logger.warning("%s Packing it again from the originals.", error)
    except OSError as error:
        raise OSError(
            f"the packed data set {path} cannot be read: {error.strerror}. Mend that, or take it away and it is packed again, "
            "or set data.cache or METARUN_CACHE to another folder."
        ) from error
    with exclusive(path):
        with contextlib.suppress(FileNotFoundError, CorruptStoreError):
            return open_store(path)  # another process packed it while this one waited
        try:
            originals = find()
        except FileNotFoundError as missing:
            if corruption is None:
                raise
            raise CorruptStoreError(f"{corruption} It could not be packed again: {missing}") from missing
        write_store(path, originals, progress)
    return open_store(path)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path`. The kernel drops it when the process ends, so no lock outlives a killed run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(path.name + ".lock"), "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    with file:
        if not lock(file, path, waits=False):
            logger.info("Waiting for another process that is preparing %s", path)
            lock(file, path, waits=True)
        yield


def _corrupt(path: Path, reason: str) -> CorruptStoreError:
    return CorruptStoreError(f"{path} is not a usable packed data set ({reason}). Delete it, and it is packed again.")


def _cannot_write(folder: Path, error: OSError, needed: int = 0) -> OSError:
    size = f" ({needed / 2**20:.0f} MiB needed)" if needed else ""
    return type(error)(
        f"cannot write the packed data set to {folder}{size}: {error.strerror}. "
        "Set data.cache or METARUN_CACHE to a folder that can be written."
    )
