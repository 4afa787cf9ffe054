"""What a job of a Slurm array does when it is told to stop: back into the queue, or an end with a name."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from metarun.commands import job
from metarun.errors import TrainingError
from metarun.run_folder.status import RunStatus, read_status
from metarun.sweep.manifest import Job, Manifest
from metarun.training.stopping import STOP_SIGNALS


@pytest.fixture
def sweep(tmp_path) -> Path:
    folder = tmp_path / "sweep"
    folder.mkdir()
    one = Job(
        index=0, overrides=(), varied=(), config={}, fingerprint="f", folder=tmp_path / "run", log=folder / "job-0.log"
    )
    Manifest(folder=folder, command="metarun submit", config_dirs=(), jobs=(one,), git=None).write()
    return folder


@pytest.fixture
def attempt(monkeypatch, sweep):
    """`attempt.stop(code, start, end)`: a job in which the run goes on after one step, ends after another and stops with `code`.

    Its `requeued` says whether Slurm was asked to; its `restarts` and `is_preempted` are what Slurm says.
    """
    asked = SimpleNamespace(requeued=False, restarts=0, is_preempted=False, rank=0)

    def scontrol(words, **_):
        asked.requeued |= words[1] == "requeue"
        said = f"JobState=RUNNING PreemptTime={'2026-01-01T00:00:00' if asked.is_preempted else 'None'}"
        return SimpleNamespace(stdout=said)

    def stop(code: int, start: int | None, end: int = 0) -> BaseException:
        def run(*_):
            if start is not None:
                with RunStatus(sweep.parent / "run" / "status.json", steps=40) as status:
                    status.start(start)
                    status.at(end)
                    raise SystemExit(code)
            raise SystemExit(code)

        monkeypatch.setattr("metarun.commands.run.run_resolved", run)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(asked.restarts))
        monkeypatch.setenv("RANK", str(asked.rank))
        with pytest.raises((SystemExit, TrainingError)) as raised:
            job.run_job(sweep, 0)
        return raised.value

    monkeypatch.setattr(job.subprocess, "run", scontrol)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    (sweep.parent / "run").mkdir()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    asked.stop = stop
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


USR2, TERM = 128 + signal.SIGUSR2, 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("code", "restarts", "is_preempted", "start", "end"),
    [
        (USR2, 0, False, 0, 10),
        (USR2, 3, False, 10, 11),
        (USR2, 0, False, None, 0),  # the first attempt prepared data
        (USR2, 0, False, 0, 0),
        (USR2, 2, True, 10, 10),  # others came first, perhaps at once
        (TERM, 2, True, 10, 10),
    ],
)
def test_a_run_that_must_give_way_goes_back_into_the_queue(code, restarts, is_preempted, start, end, attempt):
    attempt.restarts, attempt.is_preempted = restarts, is_preempted
    stopped = attempt.stop(code, start, end)
    assert (type(stopped), stopped.code, attempt.requeued) == (SystemExit, code, True)


def test_what_was_cancelled_ends(attempt):
    assert attempt.stop(TERM, 0, 10).code == TERM
    assert not attempt.requeued


def test_of_several_ranks_only_the_first_asks(attempt, sweep):
    attempt.rank, attempt.restarts = 1, 1
    assert attempt.stop(USR2, None).code == USR2
    assert not attempt.requeued
    assert not (sweep.parent / "run" / "status.json").exists()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (None, "no step since the last time: what comes before the first step needs more than one attempt has"),
        (10, "no step since the last time: what comes before the first step needs more than one attempt has"),
        (40, "no result since the last time: the test after the last step needs more than one attempt has"),
    ],
    ids=["before it had a status", "before a step", "in the test"],
)
def test_a_requeue_that_brought_nothing_is_the_last(start, words, attempt, sweep):
    attempt.restarts = 1
    error = attempt.stop(USR2, start, start or 0)
    assert isinstance(error, TrainingError)
    assert not attempt.requeued
    assert str(error).startswith(f"stopped by the time limit again, and {words}. Raise hydra.launcher.time, or lower ")
    status = read_status(sweep.parent / "run" / "status.json")
    assert (status["state"], status["step"], status["error"]) == ("failed", start or 0, str(error))
    assert status["pid"] == os.getpid()
