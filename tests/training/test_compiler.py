"""metarun.training.program with PyTorch's compiler itself: right, taken up to the bit, and kept apart in its cache."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from metarun.maths.loops import repeat
from metarun.run_folder.state import load_state
from metarun.training.program import compiled

from .small import QUICK, assert_same_runs, only_folder, python

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
from metarun.training.trainer import Trainer
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


def halvings(start: torch.Tensor, factor: float) -> torch.Tensor:
    """`start` times `factor`, until it is below 1 or ten times."""

    def step(state: torch.Tensor, number: int | torch.Tensor) -> torch.Tensor:
        return torch.where(state >= 1, factor * state, state)

    return repeat(step, start, 10, ended=lambda state: state < 1)


def test_loops_of_a_program_are_right_and_kept_apart_by_the_numbers_in_their_bodies(cache, monkeypatch):
    """The programs differ in a number of the loop's body alone, and the second finds the first one's cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", cache["TORCHINDUCTOR_CACHE_DIR"])
    start = torch.tensor([0.5, 3.0, 100.0, 2.0**20], dtype=torch.float64)
    for factor in (0.5, 0.25, 0.5):
        program = compiled(partial(halvings, factor=factor), start)
        for given in (start, 7 * start):
            assert torch.equal(program([given])[0], halvings(given, factor))
    assert any(os.scandir(cache["TORCHINDUCTOR_CACHE_DIR"]))
