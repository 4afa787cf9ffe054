"""One job of a sweep in a process of its own, started by `metarun -m` or by Slurm's batch script.

What is heavy is imported once the handlers of signals stand: a signal may come at any time.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from metarun.train.status import slurm_job
from metarun.train.stopping import STOP_SIGNALS, stop_at_once

PARENT = "METARUN_PARENT"
"""Environment variable that tells a job which process started it."""
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def run_job(sweep: Path, index: int) -> None:
    """Run job `index` of the sweep in a folder, as its manifest has it.

    SIGUSR2 under Slurm means that the time is nearly up, or that another job wants the place: the job is put back into
    the queue by itself, and goes on from its checkpoint. After SIGTERM it is left to Slurm, which requeues a preempted
    job and does not requeue one that was cancelled.

    Raises:
        SystemExit: 128 + the signal's number.
        Exception: as `metarun.run.run_resolved`.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, stop_at_once)
    _end_with_parent()
    try:
        from metarun.run import run_resolved
        from metarun.sweep.manifest import read

        manifest = read(sweep)
        job = next(job for job in manifest.jobs if job.index == index)
        run_resolved(dict(job.config), job.overrides, manifest.name)
    except SystemExit as stopped:
        if stopped.code == 128 + signal.SIGUSR2:
            _requeue()
        raise


def _end_with_parent() -> None:
    """Stop with a checkpoint when the process that runs the sweep is killed: nobody would be left to report to."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was gone before we asked
        raise SystemExit(128 + signal.SIGTERM)


def _requeue() -> None:
    job = slurm_job(os.environ)
    if job is None:
        return
    for number in STOP_SIGNALS:  # requeueing sends us SIGTERM
        signal.signal(number, signal.SIG_IGN)
    print(f"back into the queue: scontrol requeue {job}", flush=True)
    subprocess.run(["scontrol", "requeue", job], check=True)
