"""Opening zips and tars that others made: what is wrong with one is said in words, and no member fills the memory."""

import contextlib
import csv
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

LARGEST_IMAGE = 2**24
"""Bytes of an image's file in any of the named sets, generously: theirs have less than 1 MB."""

_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
_REFUSED = (
    ValueError,
    RuntimeError,
    csv.Error,
)  # RuntimeError: HDF5, and a zip that is encrypted or compressed unusually
_OTHER_FORM = (TypeError, AttributeError, IndexError)


def damaged(path: Path, what: str, reason: str) -> ValueError:
    """The error for an original that is not what its name says."""
    page = is_web_page(path)
    size = f"{path.stat().st_size:,} bytes" if path.is_file() else "a folder"
    if page:
        reason = f"it is an HTML page of {kilobytes(path)}: the download was refused"
    return ValueError(
        f"{path} ({size}) is not {what}: {reason}. Take it away and run: metarun data prepare {what.split()[0]}"
    )


def is_web_page(path: Path) -> bool:
    """Whether a file that should be an archive starts as a web page does."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def kilobytes(path: Path) -> str:
    """A file's size, as a person would say it."""
    return f"{max(1, round(path.stat().st_size / 1000)):,} kB"


def md5_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """A file's MD5, as those who published these sets give it."""
    digest, done, size = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
    with open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Errors of a damaged file inside the block become one `ValueError` with its name.

    An error that was already put into words passes.
    """
    try:
        yield
    except Worded:
        raise
    except PermissionError as error:
        raise Worded(f"{path} cannot be read: {error.strerror}.") from error
    except (*_BROKEN, *_REFUSED, *_OTHER_FORM, KeyError) as error:
        words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, KeyError):
            words = f"{words} is missing in it"
        elif isinstance(error, _BROKEN):
            words = f"truncated, or not such a file ({words})"
        elif isinstance(error, _OTHER_FORM):
            words = f"what it holds has another form ({words})"
        raise Worded(str(damaged(path, what, words))) from error


class Worded(ValueError):
    """A `ValueError` whose words are already for the user."""


def zip_members(path: Path, what: str, largest: int = LARGEST_IMAGE) -> list[str]:
    """Names of the files in a zip, none of which may unpack to more than `largest` bytes."""
    with reading(path, what), zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        for info in files:
            _check_size(info.filename, info.file_size, largest)
        return [info.filename for info in files]


def read_zip(path: Path, what: str, members: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Members of a zip in the order asked for; each one's CRC is checked, and it gives no more than the size it states."""
    with reading(path, what), zipfile.ZipFile(path) as archive:
        for member in members:
            yield member, archive.read(member)


def read_tar(
    path: Path, what: str, is_wanted: Callable[[str], bool], largest: int = LARGEST_IMAGE
) -> Iterator[tuple[str, IO[bytes]]]:
    """The files wanted of a tar, compressed or not, in its own order; each must be read before the next is asked for.

    Args:
        is_wanted: whether a file of this name is.
        largest: bytes that one of them may have, at most.
    """
    with reading(path, what), tarfile.open(path, "r:*") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and is_wanted(name):
                _check_size(name, member.size, largest)
                file = archive.extractfile(member)
                assert file is not None
                yield name, file


def _check_size(name: str, size: int, largest: int) -> None:
    if size > largest:
        raise ValueError(f"{name} in it unpacks to {size:,} bytes, and no file of the set has more than {largest:,}")


def value_of(mapping: dict[Any, Any], key: str) -> Any:
    """A value under a text key, which Python 2 may have left as bytes."""
    return mapping[key] if key in mapping else mapping[key.encode()]
