"""A run that is killed and started again ends with the bits of a run that nobody disturbed."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metarun.algorithm import Algorithm

from .small import GLYPHS, NAVIGATION, QUICK, assert_same_runs, metrics_of, only_folder, python, run_here

FORTY = (
    *QUICK,
    "schedule.steps=40",
    "schedule.checkpoint_every=10",
    "schedule.eval_every=10",
    "schedule.log_every=4",
)
SIXTEEN = ("schedule.steps=16", "schedule.checkpoint_every=4", "schedule.eval_every=4", "schedule.log_every=2")
SINUSOID = (*FORTY, "lr_schedule=cosine")
IMAML = (
    *FORTY,
    *GLYPHS,
    "algorithm=imaml",
    "algorithm.inner.steps=3",
    "schedule.tasks_per_step=2",
    "evaluation.inner_steps=[1]",
    "optimizer.lr=0.01",
)
# A direction that carries tensors from step to step.
NATURAL = (
    *IMAML,
    "algorithm/direction=natural_gradient",
    "algorithm.direction.momentum=0.9",
    "optimizer=sgd_unit",
    "optimizer.lr=1.0",
)
FRESH_TASKS = (
    *NATURAL,
    "algorithm/direction/metric=fresh_tasks",
    "algorithm.direction.metric.num_fresh_tasks=3",
    "algorithm.direction.metric.steps=2",
)

# Episodes, of which a run counts the steps; one direction carries nothing from step to step, the other one Adam's averages.
TRUST_REGION = (*FORTY, *NAVIGATION)
CLIPPED = (*FORTY, *NAVIGATION, "algorithm/direction=clipped_steps", "algorithm.direction.steps=3")

# A schedule that remembers scores: every validation but the first halves the rate.
PLATEAU = (*FORTY, "lr_schedule=plateau", "lr_schedule.patience=0", "lr_schedule.threshold=0.9")

# The command line in a process that, while it works on a given outer step, sends itself a given signal.
SIGNALLED = """
import os, sys
number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))
from metarun.algorithm import Algorithm
from metarun.command_line.main import main
meta_step, calls = Algorithm.meta_step, []
def signalled(*arguments, **named):
    calls.append(None)
    if len(calls) == step:
        os.kill(os.getpid(), number)
    return meta_step(*arguments, **named)
Algorithm.meta_step = signalled
sys.exit(main())
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an undisturbed run of SINUSOID."""
    root = tmp_path_factory.mktemp("whole")
    assert run_here(*SINUSOID, f"run.root={root}") == 0
    return only_folder(root)


class Killed(BaseException):
    """Ends a run in this process as a kill would: nothing of ours catches it."""


@pytest.fixture
def in_step(monkeypatch) -> Callable[[Callable[[int], None]], None]:
    """Have a function called with the number of each step that this process works on, counted from 1 over all runs."""

    def arrange(act: Callable[[int], None]) -> None:
        steps = itertools.count(1)
        meta_step = Algorithm.meta_step

        def acting(*arguments, **named):
            act(next(steps))
            return meta_step(*arguments, **named)

        monkeypatch.setattr(Algorithm, "meta_step", acting)

    return arrange


def killing(step: int) -> Callable[[int], None]:
    def act(now: int) -> None:
        if now == step:
            raise Killed

    return act


@pytest.mark.scenario
@pytest.mark.parametrize("settings", [SINUSOID, IMAML], ids=["maml on sinusoids", "imaml on glyphs"])
def test_kill_and_the_same_command_again_equals_an_undisturbed_run(settings, tmp_path, in_step, capsys):
    assert run_here(*settings, f"run.root={tmp_path / 'whole'}") == 0
    undisturbed = only_folder(tmp_path / "whole")

    command = (*settings, f"run.root={tmp_path / 'killed'}")
    # In step 16 the process stands still, so that what another process is told can be seen; then it is killed.
    child = python("-c", SIGNALLED, str(int(signal.SIGSTOP)), "16", *command)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), child.communicate()[1]
    capsys.readouterr()
    assert run_here(*command) == 2
    err = capsys.readouterr().err
    assert err.startswith("metarun: error: another process is running this configuration in ")
    assert len(err.splitlines()) == 1
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL

    killed = only_folder(tmp_path / "killed")
    assert torch.load(killed / "checkpoints" / "last.pt", weights_only=True)["step"] == 10
    assert [row["step"] for row in metrics_of(killed)] == [4, 8, 10, 12]  # what lies after the checkpoint is dropped
    assert not (killed / "result.json").exists()

    steps = []
    in_step(steps.append)
    assert run_here(*command) == 0
    assert len(steps) == 30
    assert_same_runs(undisturbed, killed)


@pytest.mark.parametrize(
    "settings",
    [IMAML, NATURAL, FRESH_TASKS, PLATEAU, TRUST_REGION, CLIPPED],
    ids=[
        "imaml",
        "natural gradient",
        "natural gradient of other tasks",
        "plateau",
        "policies by a trust region",
        "policies by clipped steps",
    ],
)
def test_what_is_carried_from_step_to_step_resumes_to_the_same_bits(settings, tmp_path, in_step):
    """In this process; the kill of another one is above."""
    settings = (*settings, *SIXTEEN)
    assert run_here(*settings, f"run.root={tmp_path / 'whole'}") == 0
    in_step(killing(7))
    with pytest.raises(Killed):
        run_here(*settings, f"run.root={tmp_path / 'killed'}")
    killed = only_folder(tmp_path / "killed")
    assert torch.load(killed / "checkpoints" / "last.pt", weights_only=True)["step"] == 4
    assert run_here(*settings, f"run.root={tmp_path / 'killed'}") == 0
    assert_same_runs(only_folder(tmp_path / "whole"), killed)


def test_a_kill_before_the_first_checkpoint_starts_from_the_beginning(whole, tmp_path, in_step):
    command = (*SINUSOID, f"run.root={tmp_path}")
    in_step(killing(7))
    with pytest.raises(Killed):
        run_here(*command)
    killed = only_folder(tmp_path)
    assert not list((killed / "checkpoints").iterdir())
    assert [row["step"] for row in metrics_of(killed)] == [4]
    assert run_here(*command) == 0
    assert_same_runs(whole, killed)


def test_what_a_kill_in_the_middle_of_a_write_leaves_is_no_obstacle(whole, tmp_path, in_step):
    command = (*SINUSOID, f"run.root={tmp_path}")
    in_step(killing(16))
    with pytest.raises(Killed):
        run_here(*command)
    killed = only_folder(tmp_path)
    checkpoint = (killed / "checkpoints" / "last.pt").read_bytes()
    (killed / "checkpoints" / ".last.pt.1.tmp").write_bytes(checkpoint[:100])
    with (killed / "metrics.jsonl").open("ab") as record:
        record.write(b'{"step": 14, "train/lo')
    assert run_here(*command) == 0
    assert_same_runs(whole, killed)


@pytest.mark.scenario
def test_sigterm_ends_another_process_with_status_143(tmp_path):
    command = (*SINUSOID, f"run.root={tmp_path}")
    child = python("-c", SIGNALLED, str(int(signal.SIGTERM)), "15", *command)
    out, err = child.communicate()
    assert (child.returncode, err) == (143, "")
    assert "stopped by SIGTERM after step 15. A checkpoint is written" in out


def test_sigterm_ends_the_step_writes_a_checkpoint_and_says_so(whole, tmp_path, in_step, capsys):
    command = (*SINUSOID, f"run.root={tmp_path}")
    in_step(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 15 else None)
    with pytest.raises(SystemExit) as stopped:
        run_here(*command)
    assert stopped.value.code == 143
    assert "stopped by SIGTERM after step 15. A checkpoint is written" in capsys.readouterr().out

    folder = only_folder(tmp_path)
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert (last["step"], last["count"]) == (15, 3)  # steps 13 to 15 wait for the line of step 16
    assert not (folder / "result.json").exists()
    assert run_here(*command) == 0
    assert_same_runs(whole, folder)


def test_ctrl_c_does_the_same_with_its_own_status(whole, tmp_path, in_step, capsys):
    command = (*SINUSOID, f"run.root={tmp_path}")
    in_step(lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 15 else None)
    assert run_here(*command) == 130
    out, err = capsys.readouterr()
    assert "stopped by SIGINT after step 15. A checkpoint is written" in out
    assert err == "metarun: interrupted\n"
    assert run_here(*command) == 0
    assert_same_runs(whole, only_folder(tmp_path))


def test_stopping_again_and_again_changes_nothing(whole, tmp_path, in_step):
    steps = []

    def act(step: int) -> None:
        steps.append(step)
        if step % 5 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    in_step(act)
    command = (*SINUSOID, f"run.root={tmp_path}")
    for _ in range(7):
        with pytest.raises(SystemExit) as stopped:
            run_here(*command)
        assert stopped.value.code == 143
    # The signal in step 40 finds nothing left to stop: the run is tested and ends well.
    assert run_here(*command) == 0
    assert steps == list(range(1, 41))
    assert_same_runs(whole, only_folder(tmp_path))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_killed_while_it_tests_only_tests_again(tmp_path, in_step):
    """All 40 steps are in last.pt: the same command trains nothing and gives the same result."""
    command = (*SINUSOID, f"run.root={tmp_path}")
    assert run_here(*command) == 0
    folder = only_folder(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    in_step(killing(1))
    assert run_here(*command) == 0
    again = json.loads((folder / "result.json").read_text())
    assert again["results"] == result["results"]
    assert again["train_s"] == result["train_s"]
