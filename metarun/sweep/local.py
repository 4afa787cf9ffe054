"""Jobs as processes of this machine: so many at a time, each with its GPU or its share of the cores."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metarun.files import naming
from metarun.run_folder.status import FAILED, PREEMPTED, RUNNING, mark_failed, stopped_by
from metarun.sweep.manifest import Job
from metarun.sweep.parent import PARENT
from metarun.sweep.state import DONE, LOST, JobState, exit_words, job_state, last_line
from metarun.sweep.view import SweepView, jobs_words
from metarun.training.stopping import STOP_SIGNALS, stop_at_once

_POLL_S = 0.1
_LOOK_S = 0.5  # how often the files of running jobs are read


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What one job at a time may use: a GPU's id as CUDA_VISIBLE_DEVICES has it, or None; CPU threads."""

    gpu: str | None
    threads: int


def slots(jobs: int | None, gpus: Sequence[str], cores: int, threads: int, num_jobs: int) -> list[Slot]:
    """How the machine is shared out.

    Args:
        jobs: how many at a time; None for one a GPU or, without GPUs, as many as the cores hold.
        gpus: ids; several jobs share one where there are more jobs than GPUs.
        cores: that this process may use.
        threads: that a job asks for at least.
        num_jobs: jobs there are to run: no more slots than that.
    """
    count = jobs or (len(gpus) if gpus else max(1, cores // threads))
    count = max(1, min(count, num_jobs))
    share = max(1, cores // count)
    return [Slot(gpu=gpus[i % len(gpus)] if gpus else None, threads=share) for i in range(count)]


def run_locally(jobs: Sequence[Job], sweep: Path, places: Sequence[Slot], view: SweepView) -> dict[int, JobState]:
    """Run each job in a process of its own.

    A job that fails stops no other. Ctrl-C and SIGTERM reach the jobs, which end after their step at hand with a
    checkpoint; a second Ctrl-C kills them. If this process is killed, the jobs stop by themselves in the same way.

    Returns:
        How each job ended, by its number.
    """
    waiting, free = list(jobs), list(places)
    running: dict[int, tuple[Job, Slot, subprocess.Popen[bytes], float]] = {}
    ended: dict[int, JobState] = {}
    looked = 0.0
    is_main = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    before = signal.signal(signal.SIGTERM, stop_at_once) if is_main else None
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop(0)
                running[job.index] = (job, slot, _start(job, sweep, slot), time.time())
                view.show(job, JobState(state=RUNNING))
            time.sleep(_POLL_S)
            for index, (job, slot, process, started) in list(running.items()):
                code = process.poll()
                if code is not None:
                    ended[index] = _outcome(job, code, started)
                    view.show(job, ended[index])
                    free.append(slot)
                    del running[index]
            if time.perf_counter() - looked > _LOOK_S:
                looked = time.perf_counter()
                for job, _, _, started in running.values():
                    view.show(job, _live(job, started))
    except (KeyboardInterrupt, SystemExit) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        _stop([process for _, _, process, _ in running.values()], number, view)
        for job, _, process, started in running.values():
            view.show(job, _outcome(job, process.returncode, started))
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
    return ended


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Ids of the GPUs that this process may use; takes up none of their memory."""
    import torch

    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    named = [word.strip() for word in chosen.split(",")] if chosen is not None else [str(i) for i in range(count)]
    return named[:count]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _start(job: Job, sweep: Path, slot: Slot) -> "subprocess.Popen[bytes]":
    environment = dict(os.environ) | {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("COLUMNS", "120")
    if slot.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, str(slot.threads))
    with naming(job.log), open(job.log, "ab") as log:
        log.write(
            f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} metarun {' '.join(job.overrides)}\n".encode(
                errors="surrogateescape"
            )
        )
        log.flush()
        return subprocess.Popen(
            job_command(sweep, job.index),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C on the terminal is for us to pass on
        )


def job_command(sweep: Path, index: int | str) -> list[str]:
    """The command line of one job's process."""
    return [sys.executable, "-m", "metarun", "_job", str(sweep.absolute()), str(index)]


def _live(job: Job, started: float) -> JobState:
    """What the files of a running job say; those of an earlier attempt say nothing."""
    state = job_state(job)
    if state.state == RUNNING and (state.seconds or 0.0) <= time.time() - started + 1.0:
        return state
    return JobState(state=RUNNING, seconds=time.time() - started)


def _outcome(job: Job, code: int, started: float) -> JobState:
    state = job_state(job)
    if state.state == DONE and code == 0:
        return state
    seconds = time.time() - started
    if code - 128 in STOP_SIGNALS:
        return replace(state, state=PREEMPTED, error=stopped_by(code), seconds=seconds)
    if code < 0:
        mark_failed(job.run.status, exit_words(code))
        return replace(state, state=FAILED, error=exit_words(code), seconds=seconds)
    told = state.error if state.state == FAILED else last_line(job.log)
    if told.startswith("---"):  # it did not say a word
        told = exit_words(code)
    score = "" if state.state in (DONE, LOST) else state.score
    return replace(state, state=FAILED, error=told or exit_words(code), seconds=seconds, score=score)


def _stop(processes: Sequence["subprocess.Popen[bytes]"], number: int, view: SweepView) -> None:
    """Ask the jobs to stop, and wait for them; kill them if asked again."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    if processes:
        view.note(f"stopping {jobs_words(len(processes))} after their step at hand; Ctrl-C kills them")
    try:
        for process in processes:
            process.wait()
    except (KeyboardInterrupt, SystemExit):
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
