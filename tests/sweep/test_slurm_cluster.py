"""A sweep on a real Slurm: signals, requeues and failures lose nothing, and nothing waits for what will not come."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from metarun.run_folder.state import load_state

from ..training.small import ROOT, assert_same_runs, run_here
from . import cluster
from .small_sweeps import SHORT, only_sweep, runs_by_size, status_of, stubborn

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(cluster.why_not() is not None, reason=str(cluster.why_not())),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with cluster.slurm() as environment:
        yield environment


def until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {limit_s} s"
        time.sleep(0.2)


def test_a_sweep_of_four_with_a_signal_a_requeue_and_a_failure(slurm, tmp_path):
    """Three right results, one failure with its name; then the same command, waiting, runs that one alone."""
    words, own = stubborn(tmp_path)
    environment = slurm | own | {"STUBBORN_PAUSE_S": "0.05", "COLUMNS": "200"}
    root = tmp_path / "runs"
    sweep_of_four = (*words, "model.hidden=10,11,12,13", *SHORT, f"run.root={root}")

    def metarun(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "metarun", *arguments]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)

    def slurm_says(*command: str) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    def is_training(size: int) -> bool:
        folder = runs_by_size(root).get(size)
        return folder is not None and (folder / "checkpoints" / "last.pt").exists()

    for flag in ("fail-13", "wait-10", "wait-11"):
        (tmp_path / flag).touch()
    done = metarun("submit", *sweep_of_four)
    assert (done.returncode, done.stderr) == (0, "")
    array = done.stdout.partition("submitted array ")[2].partition(":")[0]
    sweep = only_sweep(root)
    assert f"metarun status {sweep}" in done.stdout

    again = metarun("submit", *sweep_of_four)
    assert again.returncode == 2
    assert f"array {array} of this sweep is still in the queue" in again.stderr

    until(lambda: is_training(10), 400, "training of the first")
    slurm_says("scancel", "--signal=USR2", f"{array}_0")
    time.sleep(1)  # until the signal is there
    (tmp_path / "wait-10").unlink()
    until(lambda: is_training(11), 400, "training of the second")
    slurm_says("scontrol", "requeue", f"{array}_1")
    (tmp_path / "wait-11").unlink()
    until(lambda: not slurm_says("squeue", "--noheader"), 400, "an empty queue")

    status = metarun("status", str(sweep))
    assert "3 done, 1 failed of 4" in status.stdout
    assert "#3 model.hidden=13: " in status.stdout and "the machine is on fire" in status.stdout
    first, second = (sweep / f"job-{index}.log" for index in (0, 1))
    assert "stopped by SIGUSR2 after step" in first.read_text()
    assert f"back into the queue: scontrol requeue {array}_0" in first.read_text()
    for log in (first, second):
        assert log.read_text().count("(going on after step ") == 1
    assert status_of(runs_by_size(root)[13])["job"] == f"{array}_3"

    # What was interrupted ends with the bits of a run that was not.
    for size in (10, 11):
        whole = tmp_path / "whole"
        assert metarun(*words, f"model.hidden={size}", *SHORT, f"run.root={whole}").returncode == 0
        assert_same_runs(runs_by_size(whole)[size], runs_by_size(root)[size])

    waited = metarun("-m", "hydra/launcher=slurm_cpu", *sweep_of_four)
    assert waited.returncode == 1
    assert "4 jobs, 3 of them done already" in waited.stdout
    assert ": 1 job (" in waited.stdout
    assert "3 done, 1 failed of 4" in waited.stdout
    assert waited.stderr.startswith("metarun: error: 1 of 4 jobs gave no result.")
    (tmp_path / "fail-13").unlink()
    waited = metarun("-m", "hydra/launcher=slurm_cpu", *sweep_of_four)
    assert (waited.returncode, waited.stderr) == (0, "")
    assert "4 done of 4" in waited.stdout


def test_a_cancelled_job_is_a_failure_and_nobody_waits_for_it(slurm, tmp_path):
    words, own = stubborn(tmp_path)
    environment = slurm | own | {"STUBBORN_PAUSE_S": "0.05", "COLUMNS": "200"}
    root = tmp_path / "runs"
    arguments = ("-m", "hydra/launcher=slurm_cpu", *words, "model.hidden=10,11", *SHORT, f"run.root={root}")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "metarun", *arguments],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(
        lambda: 10 in runs_by_size(root) and (runs_by_size(root)[10] / "checkpoints/last.pt").exists(), 400, "training"
    )
    job = status_of(runs_by_size(root)[10])["job"]
    subprocess.run(["scancel", job], env=environment, check=True)
    out, err = waiting.communicate(timeout=400)
    assert waiting.returncode == 1, out + err
    assert "1 done, 1 failed of 2" in out
    assert "failed    #0 model.hidden=10" in out
    assert status_of(runs_by_size(root)[10])["state"] == "preempted"


def test_a_preempted_job_goes_on_when_its_place_is_free_again(slurm, tmp_path):
    """A partition of higher priority takes the machine for a while."""
    words, own = stubborn(tmp_path)
    environment = slurm | own | {"STUBBORN_PAUSE_S": "0.05", "COLUMNS": "200"}
    root = tmp_path / "runs"
    arguments = ("submit", *words, "model.hidden=10", *SHORT, f"run.root={root}")
    done = subprocess.run(
        [sys.executable, "-m", "metarun", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    until(
        lambda: 10 in runs_by_size(root) and (runs_by_size(root)[10] / "checkpoints/last.pt").exists(), 400, "training"
    )
    subprocess.run(
        ["sbatch", "--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 5"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    folder = runs_by_size(root)[10]
    until(lambda: status_of(folder)["state"] == "preempted", 400, "preemption")
    until(lambda: (folder / "result.json").exists(), 400, "the result")
    log = (only_sweep(root) / "job-0.log").read_text()
    assert "stopped by SIGTERM after step" in log
    assert log.count("(going on after step ") == 1


@pytest.mark.parametrize("nodes", [1, 2])
def test_two_ranks_end_where_one_does_whatever_happens_on_the_way(nodes, slurm, tmp_path, monkeypatch, capsys):
    """The first run is left alone; the second must give way, to a signal or to a job of more importance.

    5 tasks on 2 ranks, in float64.
    """
    words, own = stubborn(tmp_path)
    root = tmp_path / "runs"
    settings = (*words, *SHORT, "schedule.tasks_per_step=5", "device.dtype=float64")
    with contextlib.ExitStack() as stack:
        if nodes > 1:
            slurm = stack.enter_context(cluster.slurm(cpus=1, nodes=nodes))
        environment = slurm | own | {"STUBBORN_PAUSE_S": "0.05", "COLUMNS": "200"}
        (tmp_path / "wait-11").touch()
        arguments = ("submit", "hydra.launcher.ranks=2", f"hydra.launcher.nodes={nodes}", *settings)
        done = subprocess.run(
            [sys.executable, "-m", "metarun", *arguments, "model.hidden=10,11", f"run.root={root}"],
            env=environment, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")

        def slurm_says(*command: str) -> str:
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=60
            ).stdout

        array = done.stdout.partition("submitted array ")[2].partition(":")[0]
        until(lambda: 11 in runs_by_size(root) and last_step(runs_by_size(root)[11]), 400, "training of the second")
        if nodes == 1:
            slurm_says("scancel", "--signal=USR2", f"{array}_1")
        else:
            slurm_says("sbatch", "--partition=high", "--nodes=2", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 5")
            until(
                lambda: "PreemptTime=None" not in slurm_says("scontrol", "show", "job", f"{array}_1"), 400, "preemption"
            )
        time.sleep(1)  # until the signal is there
        (tmp_path / "wait-11").unlink()
        until(lambda: all((f / "result.json").exists() for f in runs_by_size(root).values()), 400, "the results")
    for index, times in enumerate((0, 1)):
        log = (only_sweep(root) / f"job-{index}.log").read_text()
        assert "2 ranks" in log
        assert log.count(f"stopped by {'SIGUSR2' if nodes == 1 else 'SIGTERM'} after step") == times
        assert log.count(f"back into the queue: scontrol requeue {array}_{index}") == times, "rank 0 alone asks"
        assert log.count("(going on after step ") == times

    for key, value in own.items():
        monkeypatch.setenv(key, value)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert runs_by_size(root).keys() == {10, 11}
    for size, folder in runs_by_size(root).items():
        assert run_here(*settings, f"model.hidden={size}", f"run.root={tmp_path / 'one'}") == 0
        states = (load_state(run / "checkpoints" / "last.pt") for run in (folder, runs_by_size(tmp_path / "one")[size]))
        shared, whole = (torch.cat([leaf.flatten() for leaf in state.theta.values()]) for state in states)
        assert (shared - whole).norm() <= 1e-6 * whole.norm()


def last_step(folder: Path) -> int:
    """Of the checkpoint, 0 where there is none."""
    last = folder / "checkpoints" / "last.pt"
    return load_state(last).step if last.exists() else 0
