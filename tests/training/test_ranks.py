"""Several processes share the tasks of each step: the result is that of one, and a lost rank costs no checkpoint."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metarun.device.ranks import Ranks
from metarun.run_folder.state import load_state

from .small import GLYPHS, NAVIGATION, QUICK, ROOT, only_folder, run_here

EIGHT = (
    *QUICK,
    "device.dtype=float64",
    "schedule.steps=8",
    "schedule.tasks_per_step=5",
    "schedule.eval_every=2",
    "schedule.checkpoint_every=4",
    "schedule.log_every=2",
)
IMAGES = (*GLYPHS, "schedule.queries=2", "optimizer.lr=0.01")
RUNS = {
    # The rate falls after steps 4 and 6, by scores that the first rank alone knows.
    "maml": ("algorithm=maml", "lr_schedule=plateau", "lr_schedule.patience=0", "lr_schedule.threshold=0.9", *IMAGES),
    "imaml": ("algorithm=imaml", "algorithm.inner.steps=3", *IMAGES),
    "imaml_ng": (
        "algorithm=imaml_ng",
        "algorithm.inner.steps=3",
        "algorithm.direction.adapt_damping=true",
        "algorithm.direction.momentum=0.9",
        "algorithm.direction.metric.num_tasks=2",  # of five, all of them the first rank's
        *IMAGES,
    ),
    "imaml_ng_fresh": (
        "algorithm=imaml_ng",
        "algorithm.inner.steps=3",
        "algorithm/direction/metric=fresh_tasks",
        "algorithm.direction.metric.num_fresh_tasks=3",
        "algorithm.direction.metric.steps=3",
        *IMAGES,
    ),
    "imaml_hf": ("algorithm=imaml_hf", "algorithm.inner.steps=2", *IMAGES),
    # Four eigenvalues of this Fisher matrix are far above the others: from the seventh step on, CG multiplies rounding by hundreds
    # (NumPy's in float64 and in long double differ by 2e-4 after ten).
    "trust_region": (*NAVIGATION, "algorithm.direction.steps=4"),
    "clipped_steps": (*NAVIGATION, "algorithm/direction=clipped_steps", "algorithm.direction.steps=3"),
}

# Runs several command lines, separated by "--", in the process of one rank.
DRIVER = """
import sys
from metarun.command_line.main import main
words = " ".join(sys.argv[1:]).split(" -- ")
for line in words:
    status = main(line.split(" "))
    if status:
        sys.exit(status)
"""


def torchrun(size: int, script: Path, *words: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("METARUN_", "HYDRA_", "WANDB_", "RANK", "WORLD_"))}
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    return subprocess.Popen(
        [sys.executable, *launch, str(script), *words],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def driver(tmp_path) -> Path:
    path = tmp_path / "driver.py"
    path.write_text(DRIVER)
    return path


def test_the_parts_of_the_ranks_are_the_whole():
    for count in (3, 4, 7, 32):
        for size in (1, 2, 3):
            parts = [list(range(count))[Ranks(rank, size).share(count)] for rank in range(size)]
            assert list(itertools.chain(*parts)) == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.scenario
def test_two_ranks_train_to_what_one_trains_to(tmp_path, driver):
    """Five tasks on two ranks, an uneven split; float64, so that 8 steps of Adam keep rounding at rounding."""
    lines = {name: [word.replace(" ", "") for word in (*words, *EIGHT)] for name, words in RUNS.items()}
    together = " -- ".join(" ".join([*line, f"run.root={tmp_path / 'two' / name}"]) for name, line in lines.items())
    child = torchrun(2, driver, *together.split(" "))
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert out.count(", 2 ranks") == len(RUNS), "one header for each run: rank 0 alone speaks"
    for name, line in lines.items():
        assert run_here(*line, f"run.root={tmp_path / 'one' / name}") == 0
        one, two = (only_folder(tmp_path / size / name) for size in ("one", "two"))
        assert one.name == two.name
        a, b = (load_state(folder / "checkpoints" / "last.pt") for folder in (one, two))
        assert (a.step, a.algorithm.keys()) == (8, b.algorithm.keys())
        # As a whole: a bias ahead of a batch norm has no gradient but rounding, which Adam makes as large as any other.
        whole, shared = (torch.cat([leaf.flatten() for leaf in state.theta.values()]) for state in (a, b))
        assert (shared - whole).norm() <= 1e-6 * whole.norm(), name
        # The record is that of all tasks, to rounding.
        rows = [[json.loads(text) for text in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, two)]
        for mine, theirs in zip(*rows, strict=True):
            kept = [key for key in mine if not key.startswith("time/")]
            assert kept == [key for key in theirs if not key.startswith("time/")]
            assert [theirs[key] for key in kept] == pytest.approx([mine[key] for key in kept], rel=1e-5, abs=1e-9)


@pytest.mark.scenario
def test_a_lost_rank_ends_the_run_and_leaves_the_checkpoint(tmp_path, driver):
    settings = (*QUICK, "schedule.steps=3000", "schedule.tasks_per_step=4", "schedule.eval_every=3000")
    command = (*settings, "schedule.checkpoint_every=20", f"run.root={tmp_path / 'runs'}")
    child = torchrun(2, driver, *command)
    last = None
    deadline = time.monotonic() + 120
    while last is None and time.monotonic() < deadline:
        time.sleep(0.1)
        found = list((tmp_path / "runs").glob("*/checkpoints/last.pt"))
        last = found[0] if found else None
    assert last is not None, "no checkpoint"
    workers = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True).stdout.split()
    ranks = {Path(f"/proc/{pid}/environ").read_bytes().partition(b"\0RANK=")[2][:1]: int(pid) for pid in workers}
    os.kill(ranks[b"1"], signal.SIGKILL)
    _, err = child.communicate(timeout=120)
    assert child.returncode != 0
    state = load_state(last)
    assert state.step >= 20
    assert all(torch.isfinite(leaf).all() for leaf in state.theta.values())
    assert "lost another rank" in err or "SIGTERM" in err


@pytest.mark.scenario
def test_more_ranks_than_tasks_are_refused(tmp_path, driver):
    child = torchrun(2, driver, *QUICK, "schedule.tasks_per_step=1", f"run.root={tmp_path / 'runs'}")
    _, err = child.communicate(timeout=120)
    assert child.returncode != 0
    message = (
        "every rank needs a task of each step, and 2 ranks share schedule.tasks_per_step=1. "
        "Start fewer, or raise schedule.tasks_per_step."
    )
    lines = [line.removeprefix("metarun: error: ") for line in err.splitlines() if line.startswith("metarun: error: ")]
    assert sorted(lines) == [message, f"rank 1: {message}"]
    assert not (tmp_path / "runs").exists()
