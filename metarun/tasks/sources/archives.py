"""Opening zip, tar and pickle files that others made: what is wrong with one is said in words, and nothing in it is run."""

import contextlib
import hashlib
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, KeyError)


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
    except _DAMAGE as error:
        truncated = "truncated, or not such a file" if not isinstance(error, KeyError) else f"{error} is missing in it"
        words = " ".join(str(error).split())
        raise Worded(str(damaged(path, what, f"{truncated} ({words})" if words else truncated))) from error


class Worded(ValueError):
    """A `ValueError` whose words are already for the user."""


def zip_members(path: Path, what: str) -> list[str]:
    """Names of the files in a zip."""
    with reading(path, what), zipfile.ZipFile(path) as archive:
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def read_zip(path: Path, what: str, members: Iterator[str] | list[str]) -> Iterator[tuple[str, bytes]]:
    """Members of a zip in the order asked for; each one's CRC is checked."""
    with reading(path, what), zipfile.ZipFile(path) as archive:
        for member in members:
            yield member, archive.read(member)


def read_tar(path: Path, what: str) -> Iterator[tuple[str, BinaryIO]]:
    """The files in a tar, compressed or not, in its own order; each must be read before the next is asked for."""
    with reading(path, what), tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                yield member.name.removeprefix("./"), file


def unpickled(file: BinaryIO | bytes, where: Path, what: str) -> Any:
    """What a pickle of Python 2 or 3 holds, if that is plain containers and NumPy arrays.

    Anything else in it is refused, as loading it could run whatever its maker wished.

    Raises:
        ValueError: the pickle is damaged or holds something else.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    with reading(where, what):
        try:
            return _PlainUnpickler(stream, encoding="latin1").load()
        except (pickle.UnpicklingError, AttributeError, TypeError, IndexError, MemoryError) as error:
            raise ValueError(str(error)) from error


_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    ),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which no data file needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def value_of(mapping: dict[Any, Any], key: str) -> Any:
    """A value under a text key, which Python 2 may have left as bytes."""
    return mapping[key] if key in mapping else mapping[key.encode()]
