"""One job of a sweep in a process of its own, started by `metarun -m` or by Slurm's batch script.

What is heavy is imported once the handlers of signals stand: a signal may come at any time.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.errors import ConfigurationError
from metarun.train.status import RunStatus, read_status, slurm_job
from metarun.train.stopping import STOP_SIGNALS, stop_at_once

if TYPE_CHECKING:
    from metarun.train.folder import RunFolder

PARENT = "METARUN_PARENT"
"""Environment variable that tells a job which process started it."""
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def run_job(sweep: Path, index: int) -> None:
    """Run job `index` of the sweep in a folder, as its manifest has it.

    Under Slurm, SIGUSR2 (the time is nearly up) and a SIGTERM for preemption end the run with a checkpoint and put the
    job back into the queue, where it goes on: Slurm itself requeues only what it had to kill. What was cancelled ends.
    Of several ranks the first does so, for all of them.

    Raises:
        SystemExit: 128 + the signal's number.
        Exception: as `metarun.run.run_resolved`.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, stop_at_once)
    _end_with_parent()
    from metarun.sweep.manifest import read

    manifest = read(sweep)
    job = next(job for job in manifest.jobs if job.index == index)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        from metarun.run import run_resolved

        run_resolved(dict(job.config), job.overrides, manifest.name)
    except Exception as error:
        if is_first:
            _record(job.run, error)
        raise
    except SystemExit as stopped:
        slurm = slurm_job(os.environ)
        if slurm is not None and is_first:
            for number in STOP_SIGNALS:  # requeueing sends us SIGTERM
                signal.signal(number, signal.SIG_IGN)
            if stopped.code == 128 + signal.SIGUSR2 or _is_preempted(slurm):
                print(f"back into the queue: scontrol requeue {slurm}", flush=True)
                subprocess.run(["scontrol", "requeue", slurm], check=True)
        raise


def _end_with_parent() -> None:
    """Stop with a checkpoint when the process that runs the sweep is killed: nobody would be left to report to."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was gone before we asked
        raise SystemExit(128 + signal.SIGTERM)


def _record(run: "RunFolder", error: Exception) -> None:
    """Write the error into status.json if the run did not come so far as to do it itself (a GPU or data missing here)."""
    status = read_status(run.status)
    if status is None or status.get("pid") != os.getpid():
        run.make()
        with contextlib.suppress(ConfigurationError), run.locked():  # not where another process is running it
            RunStatus(run.status, steps=0).end(error)


def _is_preempted(slurm: str) -> bool:
    """Whether Slurm wants the place of a job for another one; False where it does not say."""
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", slurm], capture_output=True, text=True)
    said = dict(word.partition("=")[::2] for word in done.stdout.split())
    return said.get("JobState") == "RUNNING" and said.get("PreemptTime", "None") not in ("None", "Unknown")
