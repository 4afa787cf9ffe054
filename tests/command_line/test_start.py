"""How a run starts: what it does not wait for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED = ("matplotlib", "wandb", "sympy", "torch._dynamo", "torch._inductor", "sklearn", "pandas", "optuna", "h5py")
SECOND_STEP = """
import os, sys
from metarun.console.progress import RunConsole
def stepped(self, step, loss, tasks):
    if step == 2:
        print("imported:", *sorted(sys.modules), flush=True)
        os._exit(0)
RunConsole.stepped = stepped
from metarun.command_line.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile"])
def test_training_begins_without_what_it_does_not_use(algorithm, tmp_path):
    """By its second step a run has made, stepped and scheduled its optimizer; each of these takes 0.4 to 2 s to import."""
    words = ("tracker=none", f"algorithm={algorithm}", "schedule.steps=3", f"run.root={tmp_path}")
    done = subprocess.run([sys.executable, "-c", SECOND_STEP, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("imported:")]
    modules = line.split()
    assert "metarun.training.trainer" in modules
    found = [name for name in modules if f"{name}.".startswith(tuple(f"{each}." for each in NOT_NEEDED))]
    # The name of torch's compiler is taken by what imports it on demand.
    assert [name for name in found if name != "torch._dynamo"] == []
