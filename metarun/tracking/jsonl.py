"""metrics.jsonl, the record of a run: one JSON object per line, `{"step": t, "<metric>": value, ...}`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from metarun.json_text import json_text


class MetricsFile:
    """Appends one line per `log` to the record, each handed to the operating system before `log` returns.

    A NaN or an infinity is written as null, and the line says which of them it was (`metarun.json_text`). An error of
    the file system (disk full, quota) is raised, not swallowed: unlike a mirror, this file is the record.
    """

    def __init__(self, path: Path, last_step: int):
        """Opens the record and drops what lies after the checkpoint: resuming then gives an uninterrupted run's file.

        Args:
            path: the file; created where absent, in a folder that exists.
            last_step: outer steps done in the state that the run goes on from. Lines with a later step and a torn last
                line are removed (one atomic replacement). -1 starts an empty file.

        Raises:
            ValueError: a line other than a torn last one is not a JSON object with an integer "step".
        """
        self._path = Path(path)
        if self._path.exists():
            kept = b"".join(line for line, row in _rows(self._path) if row["step"] <= last_step)
            if kept != self._path.read_bytes():
                _replace(self._path, kept)
        # Unbuffered: a buffer that met a full disk would try again at close, after the error had been reported.
        self._file = self._path.open("ab", buffering=0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line.

        Raises:
            ValueError: a metric is named "step".
            OSError: the line could not be written, or not completely.
        """
        if "step" in metrics:
            raise ValueError('a metric must not be named "step": that key holds the outer step. Rename the metric.')
        line = json_text({"step": step, **metrics}).encode() + b"\n"
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"{self._path}: wrote {written} of {len(line)} bytes. Free some disk space and start again.")

    def summarize(self, results: Mapping[str, float]) -> None:
        """Does nothing: final results have their own file, result.json."""

    def sync(self) -> None:
        """Forces the lines to the disk; to be called before a checkpoint, which must not know more than they do."""
        os.fsync(self._file.fileno())

    def close(self, exit_code: int) -> None:
        """Forces the lines to the disk and closes the file. Safe to call twice."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a record in file order; None stands for a NaN or an infinity.

    Returns:
        One dict per line, without a torn last line (that of a live or killed run).

    Raises:
        FileNotFoundError: no such file.
        ValueError: another line is not a JSON object with an integer "step".
    """
    return [row for _, row in _rows(Path(path))]


def _rows(path: Path) -> list[tuple[bytes, dict]]:
    """Each complete line, newline included, with what it says."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        is_last_and_unfinished = not line.endswith(b"\n")
        try:
            row = json.loads(line)
        except ValueError:  # JSONDecodeError and UnicodeDecodeError
            if is_last_and_unfinished:
                break
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise ValueError(  # the content of a file, not an argument's type
                f'{path}, line {number}: expected a JSON object with an integer "step", found {line[:60]!r}. '
                "The file was changed from outside; restore it, or start the run again in a new folder."
            )
        rows.append((line.rstrip(b"\n") + b"\n", row))
    return rows


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
