"""A sweep on this machine: every job in its own process, failures told at once, nothing run twice, nothing lost."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from metarun.sweep import local
from metarun.sweep.local import Slot, slots

from ..training.small import assert_same_runs, python, run_here
from .small_sweeps import SHORT, attempts, only_sweep, runs_by_size, status_of, stubborn


def wait_until(condition, limit_s=200.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.scenario
@pytest.mark.timeout(600)  # on a busy machine; half a minute on a quiet one
def test_six_jobs_two_at_a_time_one_crashes_and_one_is_killed(tmp_path):
    """Four results, two failures with their names as they happen, status 1; the same command then runs exactly two."""
    words, environment = stubborn(tmp_path)
    root = tmp_path / "runs"
    command = ("-m", *words, "model.hidden=10,11,12,13,14,15", *SHORT, "hydra.launcher.jobs=2", f"run.root={root}")
    (tmp_path / "fail-13").touch()
    (tmp_path / "wait-11").touch()
    sweeping = python("-m", "metarun", *command, **environment)

    def training() -> bool:
        folder = runs_by_size(root).get(11)
        return folder is not None and (folder / "checkpoints" / "last.pt").exists()

    wait_until(training)
    os.kill(status_of(runs_by_size(root)[11])["pid"], signal.SIGKILL)
    out, err = sweeping.communicate(timeout=250)
    assert sweeping.returncode == 1
    assert err == ("metarun: error: 2 of 6 jobs gave no result. The same command runs those again, and no others.\n")
    sweep = only_sweep(root)
    lines = out.splitlines()
    crashed = [line for line in lines if line.startswith("failed    #3 model.hidden=13  ")]
    killed = [line for line in lines if line.startswith("failed    #1 model.hidden=11  ")]
    assert crashed[0].endswith(f"the machine is on fire  log: {sweep / 'job-3.log'}")
    assert killed[0].endswith(f"killed by SIGKILL (out of memory, or kill -9)  log: {sweep / 'job-1.log'}")
    last_start = max(i for i, line in enumerate(lines) if line.startswith("starting  "))
    assert lines.index(killed[0]) < last_start, "told when it happened, not at the end"
    assert "4 done, 2 failed of 6" in lines
    assert "the machine is on fire" in (sweep / "job-3.log").read_text()

    folders = runs_by_size(root)
    assert {size for size, folder in folders.items() if (folder / "result.json").exists()} == {10, 12, 14, 15}
    assert {size: status_of(folder)["state"] for size, folder in folders.items()} == {
        10: "finished", 11: "failed", 12: "finished", 13: "failed", 14: "finished", 15: "finished",
    }  # fmt: skip
    written = {size: (folder / "result.json").stat().st_mtime_ns for size, folder in folders.items() if size % 2 == 0}

    for flag in ("fail-13", "wait-11"):
        (tmp_path / flag).unlink()
    again = python("-m", "metarun", *command, **environment)
    out, err = again.communicate(timeout=250)
    assert (again.returncode, err) == (0, "")
    assert "6 jobs, 4 of them done already" in out
    assert "6 done of 6" in out
    assert [attempts(sweep, index) for index in range(6)] == [1, 2, 1, 2, 1, 1]
    assert {s: (f / "result.json").stat().st_mtime_ns for s, f in folders.items() if s % 2 == 0} == written
    assert (sweep / "job-1.log").read_text().count("(going on after step ") == 1


def test_the_manifest_is_whole_before_the_first_job_and_wins_over_files_edited_later(tmp_path, monkeypatch):
    words, environment = stubborn(tmp_path)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    seen = []

    def ran(jobs, sweep, places, view):
        manifest = json.loads((sweep / "manifest.json").read_text())
        seen.append(manifest)
        return {job.index: local.JobState(state="failed", error="not run") for job in jobs}

    monkeypatch.setattr("metarun.sweep.launch.run_locally", ran)
    command = ("-m", *words, "seed=3,4", "model.hidden=12", *SHORT, f"run.root={tmp_path / 'runs'}")
    assert run_here(*command) == 1
    (manifest,) = seen
    assert [job["config"]["seed"] for job in manifest["jobs"]] == [3, 4]
    assert [job["varied"] for job in manifest["jobs"]] == [["seed=3"], ["seed=4"]]
    assert all(job["config"]["model"] == {"_target_": "stubborn.Net", "hidden": 12} for job in manifest["jobs"])
    assert manifest["command"].startswith(f"metarun -m --config-dir {tmp_path / 'conf'} model=stubborn seed=3,4 ")
    assert manifest["git"] is None or len(manifest["git"]["commit"]) == 40

    # The same command is the same sweep; a file that says something else is noticed, and the old manifest kept.
    file = tmp_path / "conf" / "model" / "stubborn.yaml"
    file.write_text(file.read_text() + "# only a comment\n")
    assert run_here(*command) == 1
    sweep = only_sweep(tmp_path / "runs")
    assert not (sweep / "manifest-1.json").exists()
    (tmp_path / "conf" / "model" / "stubborn.yaml").write_text("_target_: torch.nn.Linear\nin_features: 1\n")
    assert run_here(*command, "+model.out_features=1") == 2  # another command, and no such key
    assert only_sweep(tmp_path / "runs") == sweep


@pytest.mark.scenario
def test_ctrl_c_stops_the_jobs_with_a_checkpoint_and_the_same_command_goes_on(tmp_path, capsys):
    words, environment = stubborn(tmp_path)
    root = tmp_path / "runs"
    command = ("-m", *words, "model.hidden=10", *SHORT, f"run.root={root}")
    (tmp_path / "wait-10").touch()
    sweeping = python("-m", "metarun", *command, **environment)
    wait_until(lambda: 10 in runs_by_size(root) and (runs_by_size(root)[10] / "checkpoints" / "last.pt").exists())
    sweeping.send_signal(signal.SIGINT)
    time.sleep(0.3)
    (tmp_path / "wait-10").unlink()
    out, err = sweeping.communicate(timeout=250)
    assert (sweeping.returncode, err) == (130, "metarun: interrupted\n")
    assert "stopping 1 job after their step at hand; Ctrl-C kills them" in out
    assert "preempted #0" in out and "stopped by SIGINT" in out
    assert status_of(runs_by_size(root)[10])["state"] == "preempted"


@pytest.mark.scenario
def test_jobs_do_not_outlive_the_sweep_and_go_on_to_the_same_bits(tmp_path):
    """SIGKILL to the sweep: its job stops by itself, with a checkpoint, and frees the folder."""
    words, environment = stubborn(tmp_path)
    root = tmp_path / "runs"
    command = ("-m", *words, "model.hidden=10,11", "hydra.launcher.jobs=1", *SHORT, f"run.root={root}")
    (tmp_path / "wait-10").touch()
    sweeping = python("-m", "metarun", *command, **environment)
    wait_until(lambda: 10 in runs_by_size(root) and (runs_by_size(root)[10] / "checkpoints" / "last.pt").exists())
    sweeping.kill()
    sweeping.communicate()
    (tmp_path / "wait-10").unlink()
    wait_until(lambda: status_of(runs_by_size(root)[10])["state"] == "preempted")
    assert set(runs_by_size(root)) == {10}
    again = python("-m", "metarun", *command, **environment)
    out, err = again.communicate(timeout=250)
    assert (again.returncode, err) == (0, ""), out
    # In a process of its own: the record of the model's source names the files beside it that were imported, too.
    whole = python("-m", "metarun", *words, "model.hidden=10", *SHORT, f"run.root={tmp_path / 'whole'}", **environment)
    _, err = whole.communicate(timeout=250)
    assert (whole.returncode, err) == (0, "")
    assert_same_runs(runs_by_size(tmp_path / "whole")[10], runs_by_size(root)[10])


@pytest.mark.parametrize(
    ("asked", "shared_out"),
    [
        # without GPUs: as many as the cores hold, and what is left over is shared
        ((None, [], 8, 1, 100), [Slot(gpu=None, threads=1)] * 8),
        ((None, [], 8, 1, 3), [Slot(gpu=None, threads=2)] * 3),
        ((None, [], 8, 3, 100), [Slot(gpu=None, threads=4)] * 2),
        ((None, [], 1, 4, 100), [Slot(gpu=None, threads=1)]),
        ((3, [], 8, 1, 100), [Slot(gpu=None, threads=2)] * 3),
        # with GPUs: one each, or as many as asked for, in turn
        ((None, ["0", "1"], 8, 1, 100), [Slot(gpu="0", threads=4), Slot(gpu="1", threads=4)]),
        ((4, ["0", "1"], 8, 1, 100), [Slot(gpu=gpu, threads=2) for gpu in ("0", "1", "0", "1")]),
        ((1, ["GPU-7a", "GPU-7b"], 8, 1, 100), [Slot(gpu="GPU-7a", threads=8)]),
    ],
)
def test_how_a_machine_is_shared_out(asked, shared_out):
    assert slots(*asked) == shared_out


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert local.visible_gpus({}) == ["0", "1"]
    assert local.visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-5e"}) == ["3", "GPU-5e"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert local.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_a_job_sees_its_own_gpu_and_its_share_of_the_cores(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, **how: given.append((command, how)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    job = local.Job(
        index=4, overrides=(), varied=(), config={}, fingerprint="", folder=tmp_path, log=tmp_path / "job-4.log"
    )
    local._start(job, tmp_path, Slot(gpu="1", threads=3))
    ((command, how),) = given
    assert command[1:] == ["-m", "metarun", "_job", str(tmp_path), "4"]
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    assert [how["env"][name] for name in names] == ["1", "3", "3"]
