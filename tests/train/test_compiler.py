"""metarun.train.program with PyTorch's compiler itself: right, taken up to the bit, and kept apart in its cache."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from metarun.run_folder.state import load_state

from .small import QUICK, assert_same_runs, metrics_of, only_folder, python

pytestmark = pytest.mark.scenario

SMALL = (
    *QUICK,
    "schedule.tasks_per_step=3",
    "schedule.eval_every=20",
    "schedule.checkpoint_every=10",
    "schedule.log_every=10",
    "evaluation.val_tasks=4",
    "model.hidden=[6]",
    "device.program=compiled",
)
# The command line in a process that kills itself when its record has reached a given step.
KILLED = """
import os, signal, sys
last = int(sys.argv.pop(1))
from metarun.command_line.main import main
from metarun.train.trainer import Trainer
log = Trainer._log
def logged(trainer, state, rate):
    found = log(trainer, state, rate)
    if state.step >= last:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Trainer._log = logged
sys.exit(main())
"""
RUN = "import sys; from metarun.command_line.main import main; sys.exit(main())"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    """The compiler's cache for all of these."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("inductor")), "OMP_NUM_THREADS": "1"}


def ran(root: Path, cache: dict[str, str], *overrides: str) -> Path:
    child = python("-c", RUN, *overrides, f"run.root={root}", **cache)
    _, err = child.communicate()
    assert child.returncode == 0, err
    return only_folder(root)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, cache):
    command = (*SMALL, "schedule.steps=40")
    whole = ran(tmp_path / "whole", cache, *command)
    child = python("-c", KILLED, "20", *command, f"run.root={tmp_path / 'killed'}", **cache)
    _, err = child.communicate()
    assert child.returncode == -signal.SIGKILL, err
    killed = only_folder(tmp_path / "killed")
    assert load_state(killed / "checkpoints" / "last.pt").step == 10
    assert ran(tmp_path / "killed", cache, *command) == killed
    assert json.loads((killed / "result.json").read_text())["environment"]["program"] == "compiled"
    assert_same_runs(whole, killed)


def implicit(root: Path, cache: dict[str, str], program: str, step_size: float) -> Path:
    return ran(
        root / f"{program}{step_size}",
        cache,
        *SMALL[:-1],
        f"device.program={program}",
        "device.dtype=float64",
        "schedule.steps=10",
        "algorithm=imaml",
        "algorithm.inner.steps=3",
        "algorithm.meta_gradient.solver.steps=3",
        f"algorithm.inner.step_size={step_size}",
    )


def test_loops_of_a_program_are_right_and_kept_apart_by_the_numbers_in_their_bodies(tmp_path, cache):
    """Inner steps are a rolled loop, and 0.02 and 0.01 are numbers of its body: the second run finds the first one's cache."""
    found = {}
    for step_size in (0.02, 0.01):
        eager, compiled = (implicit(tmp_path, cache, program, step_size) for program in ("eager", "compiled"))
        states = [load_state(folder / "checkpoints" / "last.pt") for folder in (eager, compiled)]
        assert [state.program for state in states] == ["eager", "compiled"]
        for name, leaf in states[0].theta.items():
            torch.testing.assert_close(states[1].theta[name], leaf, rtol=1e-8, atol=1e-10)
        for one, other in zip(metrics_of(eager), metrics_of(compiled), strict=True):
            assert other == pytest.approx(one, rel=1e-8, abs=1e-10)
        found[step_size] = states[1].theta
    one, other = (torch.cat([leaf.detach().flatten() for leaf in theta.values()]) for theta in found.values())
    assert (one - other).norm() > 1e-6 * one.norm()
    assert any(os.scandir(cache["TORCHINDUCTOR_CACHE_DIR"]))
