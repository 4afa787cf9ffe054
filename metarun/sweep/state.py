"""How a job stands, from its files alone: the same on any host that sees them."""

import json
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.console.words import interval, summary_words
from metarun.errors import DamagedFile
from metarun.maths.stats import has_score
from metarun.run_folder.status import FAILED, HEARTBEAT_S, PREEMPTED, RUNNING, read_status
from metarun.sweep.manifest import Job

PENDING, DONE, LOST = "pending", "done", "lost"
SILENT_S = 12 * HEARTBEAT_S
"""A run that has not renewed its status for so long is gone; network file systems show a change up to a minute late."""
_TAIL_BYTES = 16384


@dataclass(frozen=True, kw_only=True)
class JobState:
    """One row of a sweep's table.

    Attributes:
        state: "pending", "running", "preempted" (it will go on), "done", "failed", or "lost" (it says it is running, and
            gave no sign of life for a minute).
        step, steps: outer steps done, and in all; 0 where nothing is known.
        start_step: those that were done when the run was last taken up.
        tested: the share of the test that is done, from 0 to 1; None before it.
        score: test score of a finished run, last validation of a running one, in words.
        value: the best validation score of a finished run: the objective of a search.
        seconds: since it started, or that it trained.
        error: why there is no result, in one line.
    """

    state: str
    step: int = 0
    steps: int = 0
    start_step: int = 0
    tested: float | None = None
    score: str = ""
    value: float | None = None
    seconds: float | None = None
    error: str = ""


def job_state(job: Job) -> JobState:
    """How a job stands."""
    try:
        result = job.run.read_result()
    except (OSError, DamagedFile) as error:
        return JobState(state=FAILED, error=str(error))
    if (
        result is not None
        and result["fingerprint"] == job.fingerprint
        and has_score(result["results"][-1][result["score"]])  # earlier versions took NaN for one
    ):
        return _done(result)
    status = read_status(job.run.status)
    if status is not None:
        return _unfinished(job, status)
    if job.run.status.exists():
        return JobState(state=LOST, error=f"{job.run.status} cannot be understood")
    return JobState(state=PENDING)


def last_line(log: Path) -> str:
    """The last line of a file that says anything, without the prefix of our own errors; "" if there is none."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    return lines[-1].removeprefix("metarun: error: ") if lines else ""


def exit_words(code: int) -> str:
    """Why a process ended, from what `Popen` says of it."""
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"killed by {name}" + (" (out of memory, or kill -9)" if -code == signal.SIGKILL else "")


def _done(result: dict[str, Any]) -> JobState:
    score = result["score"]
    return JobState(
        state=DONE,
        score=summary_words(score, result["results"][-1][score]),
        value=result["validation"]["best_score"],
        seconds=result["train_s"] + result["test_s"],
    )


def _unfinished(job: Job, status: dict[str, Any]) -> JobState:
    state, error = status["state"], status["error"] or ""
    silent_s = time.time() - status["updated"]
    if state == RUNNING:
        is_here = status["host"] == socket.gethostname()
        # Here the process itself can be asked; it may be slow to write, and its number may be another's by now.
        is_gone = not _is_alive(status["pid"]) or silent_s > 10 * SILENT_S if is_here else silent_s > SILENT_S
        if is_gone:
            state, error = LOST, last_line(job.log)
    elif state not in (FAILED, PREEMPTED):
        state, error = LOST, f"{job.run.result} is missing or of another configuration"
    return JobState(
        state=state,
        step=status["step"],
        steps=status["steps"],
        start_step=status.get("start_step", 0),
        tested=status.get("tested"),
        score=_validation(job.run.metrics),
        seconds=(time.time() if state == RUNNING else status["updated"]) - status["started"],
        error=error,
    )


def _validation(metrics: Path) -> str:
    """The last validation in a metrics.jsonl, in words."""
    for line in reversed(_tail(metrics).splitlines()):
        try:
            row = json.loads(line)
            names = [key.removesuffix("_ci95") for key in row if key.startswith("val/") and key.endswith("_ci95")]
            if names:
                score = names[0].removeprefix("val/")
                return f"val {score} {interval(row[names[0]], row[f'{names[0]}_ci95'], score == 'accuracy')}"
        except (ValueError, TypeError, KeyError, RecursionError):  # a torn line, a null
            continue
    return ""


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
