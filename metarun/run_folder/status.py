"""status.json: what a run is doing, for whoever looks at its folder from another process or another machine."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from metarun.errors import ConfigurationError, DamagedFile, FileError, TrainingError
from metarun.files import read_json, write_atomically
from metarun.json_text import json_text
from metarun.run_folder.shapes import STATUS

RUNNING, FINISHED, FAILED, PREEMPTED = "running", "finished", "failed", "preempted"
HEARTBEAT_S = 5.0
"""The interval of the heartbeat: a run that has not written its status for much longer is gone, wherever it ran."""


class _Observer(Protocol):
    def stepped(self, step: int, value: float, amount: float) -> None: ...

    def evaluating(self, split: str, share: float) -> None: ...

    def validated(self, step: int, score: Any, is_best: bool) -> None: ...

    def doing(self, words: str) -> None: ...


class RunStatus:
    """Keeps a run's status.json up to date; use it as a context around the run, inside the lock of its folder.

    One JSON object, replaced as a whole:

    - `state`: "running", "finished", "failed" or "preempted" (a signal stopped it; the same command goes on from there);
    - `pid`, `host`: of the process; `job`: Slurm's id ("17_3" for task 3 of array 17), or null;
    - `started`, `updated`: seconds since 1970. A live run writes every five seconds, so that a killed one is told by
      its age;
    - `step`, `steps`: outer steps done, and in all; `start_step`: those that were done when this process began;
    - `tested`: the share of the test that is done, from 0 to 1, or null before it;
    - `error`: the line that ended the run, or null.

    The file says what happens now. What has happened is in result.json and metrics.jsonl, so it is not forced to the
    disk, and an error of the file system costs no run.
    """

    def __init__(self, path: Path, *, steps: int) -> None:
        self._path, self._lock, self._ended = path, threading.Lock(), threading.Event()
        self._status: dict[str, Any] = {
            "state": RUNNING,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "job": slurm_job(os.environ),
            "started": time.time(),
            "updated": time.time(),
            "step": 0,
            "start_step": 0,
            "steps": steps,
            "tested": None,
            "error": None,
        }
        self._thread = threading.Thread(target=self._write_heartbeats, name="metarun-status", daemon=True)

    def __enter__(self) -> "RunStatus":
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Say how it ended; without having been entered, that it never began."""
        if error is None:
            self._status["state"] = FINISHED
        elif isinstance(error, Exception):
            words = (
                "" if isinstance(error, ConfigurationError | FileError | TrainingError) else f"{type(error).__name__}: "
            )
            self._status |= {"state": FAILED, "error": " ".join(f"{words}{error}".split())}
        else:  # KeyboardInterrupt and SystemExit: a signal
            stopped = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "code", None)
            self._status |= {"state": PREEMPTED, "error": stopped_by(stopped)}
        self._write()

    def start(self, step: int) -> None:
        """The run goes on from here."""
        self._status |= {"step": step, "start_step": step}

    def at(self, step: int) -> None:
        """So many outer steps are done."""
        self._status["step"] = step

    def testing(self, share: float) -> None:
        """So much of the test is done, from 0 to 1."""
        self._status["tested"] = share

    def beside(self, observer: _Observer) -> "_Observing":
        """The trainer's observer: `observer`, and this status beside it."""
        return _Observing(self, observer)

    def _write_heartbeats(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._status["updated"] = time.time()
            _replace(self._path, self._status)


class _Observing:
    def __init__(self, status: RunStatus, observer: _Observer) -> None:
        self._status, self._observer = status, observer

    def stepped(self, step: int, value: float, amount: float) -> None:
        self._status.at(step)
        with contextlib.suppress(OSError):  # a terminal or a pipe that is gone costs no run
            self._observer.stepped(step, value, amount)

    def evaluating(self, split: str, share: float) -> None:
        with contextlib.suppress(OSError):
            self._observer.evaluating(split, share)

    def validated(self, step: int, score: Any, is_best: bool) -> None:
        with contextlib.suppress(OSError):
            self._observer.validated(step, score, is_best)

    def doing(self, words: str) -> None:
        with contextlib.suppress(OSError):
            self._observer.doing(words)


def _replace(path: Path, status: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a full disk: the record will say so, at the next line that must not be lost
        write_atomically(path, (json_text(status) + "\n").encode(), is_durable=False)


def read_status(path: Path) -> dict[str, Any] | None:
    """What a status.json says; None where there is none, or none that can be read."""
    try:
        return read_json(path, STATUS)
    except (OSError, DamagedFile):
        return None


def mark_failed(path: Path, error: str, instead_of: str = RUNNING) -> None:
    """Say in a status.json that still reads "running" that its process is gone; for whoever saw it end.

    Args:
        instead_of: the state that is replaced, any other is left.
    """
    status = read_status(path)
    if status is not None and status.get("state") == instead_of:
        _replace(path, status | {"state": FAILED, "error": error, "updated": time.time()})


def slurm_job(environment: Mapping[str, str]) -> str | None:
    """Slurm's id for the job that a process belongs to: "17", or "17_3" for a task of an array; None outside Slurm."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")


def stopped_by(code: object) -> str:
    """An exit status of 128 and more in words: `stopped by SIGTERM`."""
    try:
        return f"stopped by {signal.Signals(int(str(code)) - 128).name}"
    except ValueError:
        return f"stopped with status {code}"
