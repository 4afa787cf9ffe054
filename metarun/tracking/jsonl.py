"""metrics.jsonl, the record of a run: one JSON object per line, `{"step": t, "<metric>": value, ...}`."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.files import naming, read_bytes, write_atomically
from metarun.json_text import NOT_FINITE, as_written, json_text

_CHANGED = ", and they are not as they were"


@dataclass(frozen=True)
class Reach:
    """How far a record reaches: its lines, its bytes, and their SHA-256."""

    lines: int
    bytes: int
    sha256: str


class MetricsFile:
    """Appends one line per `log` to the record, each handed to the operating system before `log` returns.

    A NaN or an infinity is written as null, and the line says which of them it was (`metarun.json_text`). An error of
    the file system (disk full, quota) is raised, not swallowed: unlike another tracker, this file is the record.
    """

    def __init__(self, path: Path, last_step: int, reach: Reach | None = None):
        """Opens the record and drops what lies after the checkpoint: resuming then gives an uninterrupted run's file.

        Args:
            path: the file; created where absent, in a folder that exists.
            last_step: outer steps done in the state that the run goes on from. Lines with a later step and a torn last
                line are removed (one atomic replacement). -1 starts an empty file.
            reach: how far the file reached when that state was saved, where that is known: what is there no more, or is
                not as it was, is said in `lost`.

        Raises:
            ValueError: a line other than a torn last one is not a JSON object with an integer "step" and numbers.
            FileError: the file cannot be read or written.
        """
        self._path = Path(path)
        self.lost = ""
        before = read_bytes(self._path) if self._path.exists() else b""
        kept = before[: reach.bytes] if reach is not None else b""
        if reach is None or _reach(kept) != reach:
            kept = b"".join(line for line, row in _rows(self._path, before) if row["step"] <= last_step)
            if reach is not None:
                self.lost = (
                    f"{path} is not what it was at step {last_step}, when the checkpoint was written: "
                    f"{_reach(kept).lines} of {reach.lines} lines are there{_CHANGED if len(kept) >= reach.bytes else ''}"
                )
        if kept != before:
            write_atomically(self._path, kept)
        self._written = hashlib.sha256(kept)
        self._lines, self._bytes = kept.count(b"\n"), len(kept)
        # Unbuffered: a buffer that met a full disk would try again at close, after the error had been reported.
        with naming(self._path):
            self._file = self._path.open("ab", buffering=0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line.

        Raises:
            ValueError: a metric is named "step".
            FileError: the line could not be written, or not completely.
        """
        if "step" in metrics:
            raise ValueError('a metric must not be named "step": that key holds the outer step. Rename the metric.')
        line = json_text({"step": step, **metrics}).encode() + b"\n"
        with naming(self._path):
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written.update(line)
        self._lines, self._bytes = self._lines + 1, self._bytes + len(line)

    def summarize(self, results: Mapping[str, float]) -> None:
        """Does nothing: final results have their own file, result.json."""

    def sync(self) -> Reach:
        """Forces the lines to the disk, and says how far they reach; to be called before a checkpoint.

        A checkpoint must not know more than they do.

        Raises:
            FileError: the disk refuses.
        """
        with naming(self._path):
            os.fsync(self._file.fileno())
        return Reach(self._lines, self._bytes, self._written.hexdigest())

    def close(self, exit_code: int) -> None:
        """Forces the lines to the disk and closes the file. Safe to call twice."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()


class MetricsReader:
    """Reads a record while its run writes it: each line once, as the numbers that were logged."""

    def __init__(self, path: Path):
        self._path = Path(path)
        self._bytes = 0

    def new(self) -> list[tuple[int, dict[str, float]]]:
        """Steps and metrics of the complete lines that were not read before.

        Raises:
            ValueError: a line is not a JSON object with an integer "step" and numbers.
            FileError: the file cannot be read.
        """
        if not self._path.exists():
            return []
        with naming(self._path, "read"), open(self._path, "rb") as file:
            file.seek(self._bytes)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # what follows is being written
        rows = [as_written(row) for _, row in _rows(self._path, whole)]
        self._bytes += len(whole)
        return [(row.pop("step"), row) for row in rows]


def read_metrics(path: Path, reach: Reach | None = None) -> list[dict[str, Any]]:
    """The lines of a record in file order: the integer "step", and numbers; None stands for a NaN or an infinity.

    Args:
        reach: how far the run that has ended says that it reaches.
    Returns:
        One dict per line, without a torn last line (that of a live or killed run).

    Raises:
        FileNotFoundError: no such file.
        ValueError: another line is not a JSON object with an integer "step", or the file is not as the run left it.
    """
    data = read_bytes(Path(path))
    if reach is not None and _reach(data) != reach:
        raise ValueError(f"{path} is not as its run left it: {_reach(data).lines} of {reach.lines} lines")
    return [row for _, row in _rows(Path(path), data)]


def _reach(data: bytes) -> Reach:
    return Reach(data.count(b"\n"), len(data), hashlib.sha256(data).hexdigest())


def _rows(path: Path, data: bytes) -> list[tuple[bytes, dict]]:
    """Each complete line, newline included, with what it says."""
    rows = []
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        is_last_and_unfinished = not line.endswith(b"\n")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            if is_last_and_unfinished:
                break
            row = None
        if not _is_row(row):
            raise ValueError(  # the content of a file, not an argument's type
                f'{path}, line {number}: expected a JSON object with an integer "step" and numbers, found {line[:60]!r}. '
                "The file was changed from outside; restore it, or delete it: the run goes on without its lines, and says so."
            )
        rows.append((line.rstrip(b"\n") + b"\n", row))
    return rows


def _is_row(row: Any) -> bool:
    """Whether it is an object of numbers or null with an integer "step"; hundreds of thousands are asked in one report."""
    return (
        isinstance(row, dict)
        and type(row.get("step")) is int
        and all(value is None or type(value) in (int, float) for key, value in row.items() if key != NOT_FINITE)
    )
