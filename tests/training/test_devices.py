"""A GPU trains to what a CPU trains to, goes on to the bit where it was killed, and shares steps with others.

Each test is run on the CPU too, where it says that the test itself works.
"""

from pathlib import Path

import pytest
import torch

from metarun.configuration.config_folder import config_folder, groups
from metarun.run_folder.state import load_state

from .small import GLYPHS, assert_same_runs, configuration, only_folder, run_and_kill, run_here, trainer_of
from .test_ranks import DRIVER, torchrun

FEW = (
    "device.threads=1",
    "tracker=none",
    "evaluation.tasks=4",
    "evaluation.val_tasks=4",
    "schedule.steps=5",
    "schedule.tasks_per_step=3",
    "schedule.eval_every=5",
    "schedule.checkpoint_every=2",
    "schedule.log_every=5",
)
IMAGES = (*GLYPHS, "model.width=4", "schedule.queries=2")
CURVES = ("model.hidden=[6]", "model.activation=tanh")
TASKS = {"protonet": IMAGES, "r2d2": IMAGES, "cavia": ("model=context_mlp",)}
RUNS = {name: (f"algorithm={name}", *TASKS.get(name, CURVES)) for name in groups(config_folder())["algorithm"]} | {
    f"{name}, images": (f"algorithm={name}", *IMAGES) for name in ("maml", "imaml", "anil")
}


def on(device: torch.device, *overrides: str) -> tuple[str, ...]:
    return *FEW, f"device={device.type}", *overrides


@pytest.mark.parametrize("which", RUNS)
def test_every_algorithm_trains_to_the_same_parameters(which, device, tmp_path):
    """Five steps in float64; a GPU adds in another order, so equal to rounding, as a whole: Adam makes a gradient that is
    nothing but rounding (of a bias ahead of a batch norm) as large as any other, so it is plain gradient descent."""
    found = {}
    for where in (torch.device("cpu"), device):
        words = on(where, *RUNS[which], "device.dtype=float64", "optimizer=sgd", "optimizer.lr=0.01")
        trainer, parts = trainer_of(configuration(*words), tmp_path / f"{len(found)}")
        assert parts.device.type == where.type
        start = torch.cat([leaf.flatten() for leaf in parts.theta.values()]).cpu()
        state = trainer.run(trainer.start("f"))
        found[len(found)] = torch.cat([leaf.detach().cpu().flatten() for leaf in state.theta.values()])
    assert (found[1] - found[0]).norm() <= 1e-8 * found[0].norm()
    assert (found[0] - start).norm() > 1e-5 * start.norm() or which == "scratch"  # which learns nothing


@pytest.mark.parametrize("which", ["maml, images", "imaml_ng"])
def test_a_killed_run_goes_on_to_the_same_bits(which, device, tmp_path):
    words = on(device, *RUNS[which])
    assert run_here(*words, f"run.root={tmp_path / 'whole'}") == 0
    run_and_kill(4, *words, f"run.root={tmp_path / 'killed'}")
    assert load_state(only_folder(tmp_path / "killed") / "checkpoints/last.pt").step == 2
    assert run_here(*words, f"run.root={tmp_path / 'killed'}") == 0
    assert_same_runs(only_folder(tmp_path / "whole"), only_folder(tmp_path / "killed"))


@pytest.mark.parametrize("residence", ["device", "host"])
def test_where_images_lie_moves_no_bit_of_a_run(residence, device, tmp_path):
    found = []
    for kind in ("auto", residence):
        words = on(device, *RUNS["maml, images"], f"data.residence={kind}")
        trainer, _ = trainer_of(configuration(*words), tmp_path / kind)
        found.append(trainer.run(trainer.start("f")).theta)
    assert all(torch.equal(found[1][name], leaf) for name, leaf in found[0].items())


@pytest.mark.scenario
def test_ranks_train_to_what_one_trains_to(device, tmp_path):
    """By gloo on a CPU; by NCCL on GPUs, one for each rank, where there are several."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs: NCCL gives each rank one of its own")
    words = [word.replace(" ", "") for word in on(device, *RUNS["maml, images"], "device.dtype=float64")]
    (driver := tmp_path / "driver.py").write_text(DRIVER)
    child = torchrun(2, driver, *words, f"run.root={tmp_path / 'two'}")
    _, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert run_here(*words, f"run.root={tmp_path / 'one'}") == 0
    one, two = (_theta(only_folder(tmp_path / which)) for which in ("one", "two"))
    assert (two - one).norm() <= 1e-6 * one.norm()


@pytest.mark.scenario
def test_one_rank_alone_is_a_run_without_ranks(device, tmp_path):
    words = [word.replace(" ", "") for word in on(device, *RUNS["imaml"])]
    (driver := tmp_path / "driver.py").write_text(DRIVER)
    child = torchrun(1, driver, *words, f"run.root={tmp_path / 'ranked'}")
    _, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert run_here(*words, f"run.root={tmp_path / 'alone'}") == 0
    assert_same_runs(only_folder(tmp_path / "ranked"), only_folder(tmp_path / "alone"))


def _theta(folder: Path) -> torch.Tensor:
    leaves = load_state(folder / "checkpoints/last.pt").theta.values()
    return torch.cat([leaf.flatten() for leaf in leaves])


def test_each_rank_of_a_node_opens_a_gpu_of_its_own(monkeypatch):
    """Before anything is put there: what is made on another rank's GPU stays there."""
    from metarun.device.settings import Device

    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    device = Device(kind="cuda", dtype="float32", threads=None, task_chunk="auto")
    device.open()
    for words in ({"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}):
        for name, value in words.items():
            monkeypatch.setenv(name, value)
        device.open()
    assert chosen == [3]
