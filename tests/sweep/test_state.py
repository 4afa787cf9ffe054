"""How a job stands, read from its files alone, and how its status file is kept."""

import json
import math
import os
import socket
import time

import pytest

from metarun.errors import ConfigurationError
from metarun.run_folder.status import RunStatus, mark_failed, read_status, slurm_job
from metarun.sweep.manifest import Job
from metarun.sweep.state import SILENT_S, exit_words, job_state, last_line
from metarun.sweep.view import counts

from ..report.made import write_run
from ..training.small import python, run_here
from .small_sweeps import SHORT


@pytest.fixture
def job(tmp_path) -> Job:
    folder = tmp_path / "run"
    folder.mkdir()
    log = tmp_path / "job-0.log"
    return Job(index=0, overrides=(), varied=("seed=1",), config={}, fingerprint="f1", folder=folder, log=log)


def write(job: Job, **changes: object) -> None:
    usual = {
        "state": "running", "pid": os.getpid(), "host": socket.gethostname(), "job": None, "started": time.time() - 5,
        "updated": time.time(), "step": 30, "steps": 40, "error": None,
    }  # fmt: skip
    (job.folder / "status.json").write_text(json.dumps(usual | changes))


def test_without_files_it_is_pending(job):
    assert job_state(job).state == "pending"


def test_a_run_is_running_while_it_gives_signs_of_life(job):
    metrics = job.folder / "metrics.jsonl"
    metrics.write_text('{"step": 20, "val/mse": 0.5, "val/mse_ci95": 0.25}\n{"step": 30, "train/loss": 1}\n{"st')
    write(job)
    state = job_state(job)
    assert (state.state, state.step, state.steps, state.score) == ("running", 30, 40, "val mse 0.500 ± 0.250")
    assert state.seconds == pytest.approx(5, abs=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 + 1},  # larger than any pid: gone, on this host
        {"host": "another", "updated": time.time() - SILENT_S - 60},
    ],
    ids=["its process is gone", "silent on another host"],
)
def test_a_run_that_was_killed_is_lost(job, changes):
    job.log.write_text("step 30/40\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    write(job, **changes)
    state = job_state(job)
    assert (state.state, state.error) == ("lost", "slurmstepd: error: Detected 1 oom_kill event")


def test_where_a_run_goes_on_and_how_far_its_test_is(job):
    write(job)
    assert (job_state(job).start_step, job_state(job).tested) == (0, None)  # of an earlier version
    write(job, start_step=20, tested=0.5)
    assert (job_state(job).start_step, job_state(job).tested) == (20, 0.5)


def test_another_host_is_believed_while_it_writes(job):
    write(job, host="another", pid=2**22 + 1)
    assert job_state(job).state == "running"


def test_a_result_counts_if_it_is_of_this_configuration(job):
    folder = write_run(job.folder.parent, {5: [0.9, 0.968]}, name="finished")
    result = json.loads((folder / "result.json").read_text())
    result |= {"fingerprint": "f1", "train_s": 60.0, "test_s": 1.0}
    result["validation"]["best_score"] = 0.95
    result["results"][0]["accuracy"] |= {"ci95": 0.005}
    (job.folder / "result.json").write_text(json.dumps(result))
    state = job_state(job)
    assert (state.state, state.score, state.value, state.seconds) == ("done", "accuracy 93.4 ± 0.5 %", 0.95, 61.0)
    result["results"][0]["accuracy"] |= {"num_tasks": 600, "num_diverged": 12}
    (job.folder / "result.json").write_text(json.dumps(result))
    assert job_state(job).score == "accuracy 93.4 ± 0.5 %, 12 of 600 tasks diverged"
    (job.folder / "result.json").write_text(json.dumps(result | {"fingerprint": "f2"}))
    assert job_state(job).state == "pending"
    write(job, state="failed", error="no more coffee")
    assert (job_state(job).state, job_state(job).error) == ("failed", "no more coffee")
    (job.folder / "result.json").write_text(json.dumps(result)[:40])
    assert job_state(job).state == "failed"
    assert job_state(job).error.startswith(f"{job.folder / 'result.json'} is damaged (Unterminated string")
    result["results"][0]["accuracy"] |= {"mean": math.nan}  # what earlier versions took for a result
    (job.folder / "result.json").write_text(json.dumps(result))
    assert job_state(job).error == "no more coffee"


def test_a_status_of_another_version_is_told_and_not_guessed(job):
    (job.folder / "status.json").write_text('{"state": "running"}')
    assert job_state(job).state == "lost"
    assert "cannot be understood" in job_state(job).error


def test_words(job):
    assert exit_words(-9) == "killed by SIGKILL (out of memory, or kill -9)"
    assert exit_words(-11) == "killed by SIGSEGV"
    assert exit_words(1) == "ended with status 1"
    job.log.write_text("metarun: error: seed: no\n\n")
    assert last_line(job.log) == "seed: no"
    assert last_line(job.folder / "none") == ""
    assert counts([job_state(job)] * 2) == "2 pending of 2"


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "finished", None),
        (RuntimeError("the\nmachine"), "failed", "RuntimeError: the machine"),
        (ConfigurationError("seed: no"), "failed", "seed: no"),
        (SystemExit(143), "preempted", "stopped by SIGTERM"),
        (SystemExit(140), "preempted", "stopped by SIGUSR2"),
        (KeyboardInterrupt(), "preempted", "stopped by SIGINT"),
    ],
)
def test_how_a_run_ends_is_in_its_status(error, state, words, tmp_path):
    path = tmp_path / "status.json"
    try:
        with RunStatus(path, steps=7) as status:
            status.start(2)
            status.at(3)
            status.testing(0.25)
            before = read_status(path)
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    after = read_status(path)
    assert (before["state"], before["step"], before["steps"]) == ("running", 0, 7)
    assert (after["state"], after["start_step"], after["step"], after["error"]) == (state, 2, 3, words)
    assert (before["tested"], after["tested"]) == (None, 0.25)  # what is told is written with the next heartbeat
    assert set(after) == {
        "state",
        "pid",
        "host",
        "job",
        "started",
        "updated",
        "start_step",
        "step",
        "steps",
        "tested",
        "error",
    }
    assert (after["pid"], after["host"]) == (os.getpid(), socket.gethostname())
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_a_live_run_renews_its_status(tmp_path, monkeypatch):
    monkeypatch.setattr("metarun.run_folder.status.HEARTBEAT_S", 0.01)
    path = tmp_path / "status.json"
    with RunStatus(path, steps=7) as status:
        status.at(5)
        deadline = time.monotonic() + 10
        while read_status(path)["step"] != 5:
            assert time.monotonic() < deadline
    mark_failed(path, "too late")
    assert read_status(path)["state"] == "finished"


def test_slurms_name_for_a_job():
    assert slurm_job({}) is None
    assert slurm_job({"SLURM_JOB_ID": "17"}) == "17"
    assert slurm_job({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}) == "17_3"


def test_status_of_a_sweep_and_of_a_folder_of_sweeps(tmp_path, monkeypatch, capsys):
    """From any working folder, and without running anything."""
    from metarun.sweep.state import JobState

    monkeypatch.setattr(
        "metarun.sweep.launch.run_locally", lambda jobs, *_: {j.index: JobState(state="failed") for j in jobs}
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_here(*SHORT) == 0
    assert run_here("-m", *SHORT, "seed=0,1") == 1
    sweeps = tmp_path / "here" / "outputs" / "sweeps"
    (sweep,) = sweeps.iterdir()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run_here("status", str(sweep)) == 0
    out = capsys.readouterr().out
    assert out.startswith("metarun -m ")
    assert "1 done, 1 pending of 2" in out
    assert run_here("status", str(sweeps)) == 0
    assert capsys.readouterr().out == f"{sweep}  1 done, 1 pending of 2\n"
    code = (
        "import sys; from metarun.command_line.main import main; status = main(['status', sys.argv[1]]); "
        "slow = {'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules); sys.exit(status or ' '.join(slow) or 0)"
    )
    for place, words in ((sweep, "1 done, 1 pending of 2"), (sweeps, f"{sweep}  1 done, 1 pending of 2")):
        done, err = (child := python("-c", code, str(place))).communicate()
        assert (child.returncode, err) == (0, "")
        assert words in done
