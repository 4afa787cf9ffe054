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
from metarun.train.stopping import STOP_SIGNALS


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
def sitting(monkeypatch, sweep):
    """`sitting(code, start, end)`: a job in which the run goes on after one step, ends after another and stops with `code`.

    Its `requeued` says whether Slurm was asked to; its `restarts` and `is_preempted` are what Slurm says.
    """
    asked = SimpleNamespace(requeued=False, restarts=0, is_preempted=False, rank=0)

    def scontrol(words, **_):
        asked.requeued |= words[1] == "requeue"
        said = f"JobState=RUNNING PreemptTime={'2026-01-01T00:00:00' if asked.is_preempted else 'None'}"
        return SimpleNamespace(stdout=said)

    def sit(code: int, start: int | None, end: int = 0) -> BaseException:
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
    asked.sit = sit
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


USR2, TERM = 128 + signal.SIGUSR2, 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("code", "restarts", "is_preempted", "start", "end"),
    [
        (USR2, 0, False, 0, 10),
        (USR2, 3, False, 10, 11),
        (USR2, 0, False, None, 0),  # the first sitting prepared data
        (USR2, 0, False, 0, 0),
        (USR2, 2, True, 10, 10),  # others came first, perhaps at once
        (TERM, 2, True, 10, 10),
    ],
)
def test_a_run_that_must_give_way_goes_back_into_the_queue(code, restarts, is_preempted, start, end, sitting):
    sitting.restarts, sitting.is_preempted = restarts, is_preempted
    stopped = sitting.sit(code, start, end)
    assert (type(stopped), stopped.code, sitting.requeued) == (SystemExit, code, True)


def test_what_was_cancelled_ends(sitting):
    assert sitting.sit(TERM, 0, 10).code == TERM
    assert not sitting.requeued


def test_of_several_ranks_only_the_first_asks(sitting, sweep):
    sitting.rank, sitting.restarts = 1, 1
    assert sitting.sit(USR2, None).code == USR2
    assert not sitting.requeued
    assert not (sweep.parent / "run" / "status.json").exists()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (None, "no step since the last time: what comes before the first step needs more than one sitting has"),
        (10, "no step since the last time: what comes before the first step needs more than one sitting has"),
        (40, "no result since the last time: the test after the last step needs more than one sitting has"),
    ],
    ids=["before it had a status", "before a step", "in the test"],
)
def test_a_requeue_that_brought_nothing_is_the_last(start, words, sitting, sweep):
    sitting.restarts = 1
    error = sitting.sit(USR2, start, start or 0)
    assert isinstance(error, TrainingError)
    assert not sitting.requeued
    assert str(error).startswith(f"stopped by the time limit again, and {words}. Raise hydra.launcher.time, or lower ")
    status = read_status(sweep.parent / "run" / "status.json")
    assert (status["state"], status["step"], status["error"]) == ("failed", start or 0, str(error))
    assert status["pid"] == os.getpid()
