"""Jobs as tasks of a Slurm array: the batch script, its submission, and waiting for it without hanging."""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metarun import checks
from metarun.errors import ConfigurationError, DamagedFile
from metarun.files import read_json, write_atomically
from metarun.json_text import json_text
from metarun.run_folder.status import FAILED
from metarun.sweep.local import job_command
from metarun.sweep.manifest import Job
from metarun.sweep.state import DONE, LOST, PENDING, JobState, job_state, last_line
from metarun.sweep.view import SweepView, jobs_words

SUBMITTED = "slurm.json"
_POLL_S = 2.0
_ABSENT_TIMES = 3
"""Looks at the queue in a row that must miss a job before it counts as gone: a requeued one may be missing for one."""

# srun and not torchrun: SIGUSR2 must reach the ranks, and it ends torchrun without a word to them. A rank that has ended
# ends no other: those that wait for it find out by themselves, and the first has the test ahead of it when the rest are done.
_RANK = (
    "--kill-on-bad-exit=0 --wait=0 "
    "bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec \"$@\"' rank"
)


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """What is asked of Slurm (conf/hydra/launcher/slurm_*.yaml); None leaves it to the cluster.

    Attributes:
        partition, account, qos, constraint: as in sbatch.
        time: limit of one attempt, as sbatch has it ("4:00:00"); a run that needs longer goes on in the next.
        ranks: processes that share each step's tasks of a run. nodes: that they are spread over.
        cpus: of one rank. memory, gpus: of one job on each of its nodes, as in --mem and --gres=gpu:N.
        at_once: tasks of the array that run at the same time.
        warn_s: seconds before the time limit at which a job writes its checkpoint and goes back into the queue.
        extra: further options of sbatch, each as one text.
        setup: lines of shell run before the job, such as "module load cuda".
        wait: stay until all jobs have ended and show how they stand, or return when they are in the queue.
        dry_run: print the script; neither write nor submit anything.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    time: str | None
    ranks: int
    nodes: int
    cpus: int | None
    memory: str | None
    gpus: int | str | None
    at_once: int | None
    warn_s: int
    extra: Sequence[str]
    setup: Sequence[str]
    wait: bool
    dry_run: bool

    def __post_init__(self) -> None:
        for name in ("cpus", "at_once"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), minimum=1)
        if self.time is not None and not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", str(self.time)):
            raise ValueError(f"time must be minutes, H:MM:SS or D-HH:MM:SS, got {self.time!r}")
        for name in ("ranks", "nodes", "warn_s"):
            checks.integer(name, getattr(self, name), minimum=1)
        if self.nodes > self.ranks:
            raise ValueError(
                f"nodes must be at most ranks (each node needs one), got nodes={self.nodes} ranks={self.ranks}"
            )
        if isinstance(self.gpus, int) and self.ranks > self.gpus * self.nodes > 0:
            raise ValueError(
                f"every rank needs a GPU, and {self.ranks} ranks would share {self.gpus * self.nodes}. "
                f"Set gpus={-(-self.ranks // self.nodes)} (of each node), or fewer ranks."
            )
        for name in ("extra", "setup"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ValueError(f"{name} must be a list of texts, got {getattr(self, name)!r}")
        for name in ("wait", "dry_run"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")


def script(settings: SlurmSettings, jobs: Sequence[Job], sweep: Path) -> str:
    """The batch script of an array in which task k is job k of the sweep's manifest."""
    limit = f"%{settings.at_once}" if settings.at_once else ""
    options = {
        "job-name": sweep.name[:40],
        "array": ",".join(str(job.index) for job in jobs) + limit,
        "output": f"{sweep.absolute()}/job-%a.log",
        "open-mode": "append",
        "chdir": os.getcwd(),
        "nodes": settings.nodes if settings.ranks > 1 else None,
        "ntasks": settings.ranks,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time,
        "cpus-per-task": settings.cpus,
        "mem": settings.memory,
        "gres": None if settings.gpus is None else f"gpu:{settings.gpus}",
        "signal": f"USR2@{settings.warn_s}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in settings.extra)]
    command = shlex.join(job_command(sweep, "TASK")).replace("TASK", '"$SLURM_ARRAY_TASK_ID"')
    together = []
    if settings.ranks > 1:
        command = f"{_RANK} {command}"
        meeting = "localhost" if settings.nodes == 1 else '"$(hostname)"'
        together = [
            "# The ranks meet at the first node, where this script runs, at a port below those that the system gives out itself.",
            f"export MASTER_ADDR={meeting} MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))",
        ]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# {jobs_words(len(jobs))} of {sweep.absolute()}, whose manifest.json holds their whole configuration.",
            *lines,
            *settings.setup,
            "# bash must live until the run has ended. Slurm sends TERM to the run too; USR2 may come to bash alone.",
            "trap : TERM; trap 'kill -USR2 $run' USR2",
            'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" MKL_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
            'export PYTHONUNBUFFERED=1 COLUMNS="${COLUMNS:-120}"',
            *together,
            f'srun --ntasks={settings.ranks} --cpus-per-task="${{SLURM_CPUS_PER_TASK:-1}}" {command} & run=$!',
            "wait $run; code=$?",
            "while kill -0 $run 2>/dev/null; do wait $run; code=$?; done  # a signal ends the wait and not the run",
            "exit $code",
            "",
        ]
    )


def submit(settings: SlurmSettings, jobs: Sequence[Job], sweep: Path) -> str:
    """Submit the array.

    Returns:
        Slurm's id of it.
    Raises:
        ConfigurationError: Slurm refuses.
    """
    for job in jobs:  # what an earlier attempt left would be taken for news
        job.run.status.unlink(missing_ok=True)
    path = sweep / "sbatch.sh"
    write_atomically(path, script(settings, jobs, sweep).encode(errors="surrogateescape"))
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ConfigurationError(f"Slurm refused the jobs: {' '.join(done.stderr.split())} The script is {path}.")
    array = done.stdout.strip().partition(";")[0]
    content = {"array": array, "tasks": [job.index for job in jobs], "submitted": time.time()}
    write_atomically(sweep / SUBMITTED, (json_text(content) + "\n").encode())
    return array


@dataclass(frozen=True)
class Submitted:
    """An array as it was submitted: its id, and when (seconds since 1970)."""

    id: str
    time: float


def submitted(sweep: Path) -> Submitted | None:
    """The array submitted last for this sweep, or None."""
    try:
        content = read_json(sweep / SUBMITTED, {"array": str, "submitted": float})
    except (OSError, DamagedFile):
        return None
    return Submitted(content["array"], content["submitted"])


def require_slurm() -> None:
    """Raise `ConfigurationError` where sbatch is not to be found."""
    if shutil.which("sbatch") is None:
        raise ConfigurationError(
            "hydra/launcher=slurm_* and metarun submit need Slurm, and there is no sbatch here. "
            "Log in to the cluster, or leave the launcher out to run on this machine."
        )


def require_idle(sweep: Path) -> None:
    """Raise `ConfigurationError` while an array of this sweep is in the queue."""
    array = submitted(sweep)
    if array is not None and queued(array.id):
        raise ConfigurationError(
            f"array {array.id} of this sweep is still in the queue. Wait for it ({shlex.join(['metarun', 'status', str(sweep)])}), "
            f"or cancel it first: scancel {array.id}."
        )


def queued(array: str) -> set[int] | None:
    """Numbers of the tasks of an array that Slurm still has in its queue; None when Slurm does not answer."""
    words = ["squeue", "--noheader", "--array", "--format=%K", f"--jobs={array}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:  # an id that Slurm has forgotten is an error of its own
        return set() if "Invalid job id" in done.stderr else None
    return {int(word) for word in done.stdout.split() if word.isdigit()}


def wait_for(jobs: Sequence[Job], array: str, view: SweepView) -> dict[int, JobState]:
    """Show how the jobs stand until each has ended, by their files; one that left the queue without a result has failed.

    Returns:
        How each job ended, by its number.
    """
    ended: dict[int, JobState] = {}
    absent = dict.fromkeys((job.index for job in jobs), 0)
    while len(ended) < len(jobs):
        time.sleep(_POLL_S)
        inside = queued(array)
        for job in jobs:
            if job.index in ended:
                continue
            state = job_state(job)
            if inside is not None:
                absent[job.index] = 0 if job.index in inside else absent[job.index] + 1
            is_gone = absent[job.index] >= _ABSENT_TIMES
            if state.state in (DONE, FAILED) and (is_gone or absent[job.index] > 0 or state.state == DONE):
                ended[job.index] = state
            elif is_gone:
                error = f"{state.error or last_line(job.log) or 'not a word'}; it is in Slurm's queue no more"
                ended[job.index] = state = replace(state, state=FAILED, error=error)
            elif state.state == LOST:  # Slurm has it still: killed, and about to be requeued
                state = replace(state, state=PENDING)
            view.show(job, state)
    return ended


def settings_from(values: Mapping[str, Any]) -> SlurmSettings:
    """The settings in a launcher's configuration.

    Raises:
        ConfigurationError: one of them cannot be.
    """
    known = {field.name for field in fields(SlurmSettings)}
    try:
        return SlurmSettings(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"hydra.launcher: {error}") from error
