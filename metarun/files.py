"""Files that are always whole, read by what they must hold, and whose trouble is told with their path and a way out.

Imports nothing heavy: what reads files alone answers at once.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from metarun.errors import DamagedFile, FileError

NUMBER = (float, None)
"""The shape of a number that need not be finite: JSON has no word for one that is not, and null is written."""
_DEEPEST = 50
_WORDS = {
    dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number", bool: "true or false",
    None: "null",
}  # fmt: skip
_FULL = "Free some space there and give the same command again, or set run.root (METARUN_OUTPUTS) to another disk."
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f) and give the same command again.",
    errno.ENOLCK: "Its file system has no locks: set run.root (METARUN_OUTPUTS, data.cache) to a folder on another, such as "
    "a local disk.",
    errno.EACCES: "Set run.root (METARUN_OUTPUTS) to a folder of yours.",
    errno.EPERM: "Set run.root (METARUN_OUTPUTS) to a folder of yours.",
    errno.EROFS: "Set run.root (METARUN_OUTPUTS) to a folder that can be written.",
    errno.ENOENT: "Its folder is there no more: give the same command again, and leave the folder in place.",
    errno.EIO: "Look at the disk, and give the same command again.",
    errno.ESTALE: "Look at the network file system, and give the same command again.",
}
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def naming(path: Path, doing: str = "written") -> Iterator[None]:
    """Turn an `OSError` inside the block into one that names the file and says what to do.

    Args:
        doing: what cannot be done to it.
    Raises:
        FileError: in place of it.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Give the same command again when it can be.")
        raise FileError(f"{path} cannot be {doing}: {error.strerror or error}. {remedy}", error.errno) from error


def write_atomically(path: Path, data: bytes, *, kept: Path | None = None, is_durable: bool = True) -> None:
    """Write beside `path`, flush to the disk, then rename over it.

    Args:
        kept: where the file that was there goes, if one was; a process that is killed in between leaves that one alone.
        is_durable: whether to wait for the disk; without, a crash of the machine may leave an empty file.
    Raises:
        FileError: the file could not be written; nothing is left of it, and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            if kept is not None and path.exists():
                os.replace(path, kept)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if is_durable:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def clear_leftovers(folder: Path) -> None:
    """Take away what writers that were killed have left in a folder; nobody else may be writing there."""
    for path in folder.glob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def lock(file: IO[Any], path: Path, *, waits: bool) -> bool:
    """Take the lock of an open file; the kernel frees it however the process ends.

    Args:
        path: the file's, for the words.
        waits: whether to wait for another process that holds it.
    Returns:
        Whether it was taken: not where another process holds it and nobody waits.
    Raises:
        FileError: the file system has no locks.
    """
    with naming(path, "locked"):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
    return True


def read_bytes(path: Path) -> bytes:
    """What a file holds.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        FileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError:
        with naming(path, "read"):
            raise


def read_json(
    path: Path,
    shape: Mapping[str, Any] | Callable[[Any], str] | type = dict,
    way_out: str = "Delete it and run again.",
) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        shape: what it must hold (`mismatch`), or a function that says what keeps it from being that; any object without.
        way_out: what to do about a damaged file.
    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        DamagedFile: it is not JSON, or not of that shape.
        FileError: it cannot be read.
    """
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DamagedFile(path, str(error) or "it is nested too deeply", way_out) from error
    if _is_deep(content):
        reason = f"its values are nested more than {_DEEPEST} deep"
    elif isinstance(shape, Mapping | type):
        reason = mismatch(content, shape)
    else:
        reason = shape(content)
    if reason:
        raise DamagedFile(path, reason, way_out)
    return content


def mismatch(content: Any, shape: Any, where: str = "") -> str:
    """What keeps a JSON value from being of a shape, in words; "" if nothing does.

    A shape is a type (`float` takes integers too; `int` takes no true or false), None for null, a tuple of shapes of which
    one must fit, `[shape]` for a list of such, or a mapping from the keys that an object must have to their shapes.
    """
    if isinstance(shape, tuple):
        if any(not mismatch(content, each, where) for each in shape):
            return ""
        return _found(content, " or ".join(_WORDS[each] for each in shape), where)
    if isinstance(shape, list):
        if not isinstance(content, list):
            return _found(content, _WORDS[list], where)
        return next(filter(None, (mismatch(each, shape[0], f"{where}[{i}]") for i, each in enumerate(content))), "")
    if isinstance(shape, Mapping):
        if not isinstance(content, dict):
            return _found(content, _WORDS[dict], where)
        lacking = next((key for key in shape if key not in content), None)
        if lacking is not None:
            return f"{where or 'it'} has no {lacking}"
        dotted = f"{where}." if where else ""
        return next(filter(None, (mismatch(content[key], shape[key], f"{dotted}{key}") for key in shape)), "")
    if shape is None:
        fits = content is None
    else:
        fits = isinstance(content, (int, float) if shape is float else shape)
        fits = fits and (shape is bool or not isinstance(content, bool))
    return "" if fits else _found(content, _WORDS[shape], where)


def _found(content: Any, wanted: str, where: str) -> str:
    found = json.dumps(content) if not isinstance(content, dict | list) else _WORDS[type(content)]
    return f"{where or 'it'} must be {wanted}, and is {found[:60]}"


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(_DEEPEST):
        nodes = [node for node in level if isinstance(node, dict | list)]
        level = [each for node in nodes for each in (node.values() if isinstance(node, dict) else node)]
    return bool(level)
