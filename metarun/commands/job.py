"""One job of a sweep in a process of its own, started by `metarun -m` or by Slurm's batch script.

What is heavy is imported once the handlers of signals stand: a signal may come at any time.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.errors import ConfigurationError, TrainingError
from metarun.run_folder.status import PREEMPTED, RunStatus, mark_failed, read_status, slurm_job
from metarun.sweep.parent import end_with_parent
from metarun.training.stopping import STOP_SIGNALS, stop_at_once

if TYPE_CHECKING:
    from metarun.run_folder.folder import RunFolder


def run_job(sweep: Path, index: int) -> None:
    """Run job `index` of the sweep in a folder, as its manifest has it.

    Under Slurm, SIGUSR2 (the time is nearly up) and a SIGTERM for preemption end the run with a checkpoint and put the
    job back into the queue, where it goes on: Slurm itself requeues only what it had to kill. What was cancelled ends.
    Of several ranks the first does so, for all of them. An attempt after a requeue that had
    its whole time and did no step would do none in the next: the run fails.

    Raises:
        TrainingError: there is not time enough for one step.
        SystemExit: 128 + the signal's number.
        Exception: as `metarun.commands.run.run_resolved`.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, stop_at_once)
    end_with_parent()
    from metarun.sweep.manifest import read

    manifest = read(sweep)
    job = next(job for job in manifest.jobs if job.index == index)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        from metarun.commands.run import run_resolved

        run_resolved(dict(job.config), job.overrides, manifest.name, manifest.config_dirs)
    except Exception as error:
        if is_first:
            _record(job.run, error)
        raise
    except SystemExit as stopped:
        slurm = slurm_job(os.environ)
        if slurm is not None and is_first:
            for number in STOP_SIGNALS:  # requeueing sends us SIGTERM
                signal.signal(number, signal.SIG_IGN)
            is_preempted = _is_preempted(slurm)  # the attempt may have been short
            if stopped.code == 128 + signal.SIGUSR2 and not is_preempted:
                _require_progress(job.run, os.environ)
            if stopped.code == 128 + signal.SIGUSR2 or is_preempted:
                print(f"back into the queue: scontrol requeue {slurm}", flush=True)
                subprocess.run(["scontrol", "requeue", slurm], check=True)
        raise


def _record(run: "RunFolder", error: Exception) -> None:
    """Write the error into status.json if the run did not come so far as to do it itself (a GPU or data missing here)."""
    status = read_status(run.status)
    if status is None or status.get("pid") != os.getpid():
        run.make()
        with contextlib.suppress(ConfigurationError), run.locked():  # not where another process is running it
            RunStatus(run.status, steps=0).end(error)


def _require_progress(run: "RunFolder", environment: Mapping[str, str]) -> None:
    """Refuse to go on where an attempt has done nothing; the first may have prepared data, which the next finds ready."""
    status = read_status(run.status) or {}
    is_ours = status.get("pid") == os.getpid()
    if environment.get("SLURM_RESTART_COUNT", "0") == "0" or (is_ours and status["step"] > status["start_step"]):
        return
    is_trained = is_ours and status["step"] == status["steps"]
    error = TrainingError(
        f"stopped by the time limit again, and no {'result' if is_trained else 'step'} since the last time: "
        + ("the test after the last step" if is_trained else "what comes before the first step")
        + " needs more than one attempt has. Raise hydra.launcher.time"
        + f", or lower {'evaluation.tasks' if is_trained else 'hydra.launcher.warn_s'}. The last checkpoint stands."
    )
    if is_ours:
        mark_failed(run.status, str(error), instead_of=PREEMPTED)
    else:
        _record(run, error)
    raise error


def _is_preempted(slurm: str) -> bool:
    """Whether Slurm wants the place of a job for another one; False where it does not say."""
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", slurm], capture_output=True, text=True)
    said = dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)
    return said.get("JobState") == "RUNNING" and said.get("PreemptTime", "None") not in ("None", "Unknown")
