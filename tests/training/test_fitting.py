"""metarun.training.fitting: a device's chunk, from few tasks, is what its memory holds; and how a run is told of it."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from metarun.build import make_parts
from metarun.commands.header import header_of
from metarun.device.memory import available_bytes
from metarun.device.ranks import Ranks
from metarun.device.settings import Device
from metarun.run_folder.folder import RunFolder
from metarun.run_folder.state import TrainState, load_state
from metarun.training import fitting as module
from metarun.training.fitting import Fitting

from .small import GLYPHS, QUICK, assert_same_checkpoints, configuration, only_folder, run_and_kill, run_here

ALGORITHMS = {
    "maml": ("algorithm=maml",),
    "imaml": ("algorithm=imaml", "algorithm.inner.steps=2"),
    "imaml_ng": ("algorithm=imaml_ng", "algorithm.inner.steps=2"),
}


def fitting_of(*overrides: str) -> Fitting:
    parts = make_parts(configuration(*QUICK, *overrides))

    def work(tasks) -> object:
        return parts.algorithm.meta_step(theta=parts.theta, problem=parts.problem, tasks=tasks)

    return Fitting(
        source=parts.source,
        theta=dict(parts.theta),
        device=parts.device,
        dtype=parts.dtype,
        split="train",
        shots=parts.schedule.shots,
        queries=parts.schedule.queries,
        work=work,
    )


@pytest.mark.parametrize("data", [(), (*GLYPHS, "schedule.queries=3")], ids=["curves", "images"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_line_through_few_tasks_is_what_many_take(name, data):
    """Well within the margin of 10 % that is left alone; 24 tasks, from what 2 and 4 take."""
    fitting = fitting_of(*ALGORITHMS[name], *data)
    fitting.peak(2)  # what is made once
    two, four = fitting.peak(2), fitting.peak(4)
    assert two + (four - two) * 11 == pytest.approx(fitting.peak(24), rel=0.05)


@pytest.mark.parametrize("share", [1.2, 0.7, 0.3])
def test_what_is_chosen_fits_and_one_chunk_fewer_does_not(share, monkeypatch):
    fitting = fitting_of("algorithm=maml")
    whole = fitting.peak(24)
    kept = 24 * fitting._sample(1).num_bytes + 4 * sum(leaf.nbytes for leaf in fitting.theta.values())
    there = int(share * whole) + kept
    monkeypatch.setattr(module, "available_bytes", lambda device: there)
    chunk = fitting.chunk(24)
    assert fitting.peak(chunk) + kept <= there
    chunks = -(-24 // chunk)
    assert chunks == {1.2: 1, 0.7: 2, 0.3: 4}[share]
    if chunks > 1:
        assert fitting.peak(-(-24 // (chunks - 1))) > 0.87 * (there - kept)


@pytest.fixture
def measuring(monkeypatch) -> Callable[[int], None]:
    """A CPU on which chunks are measured as on a GPU, with so many bytes."""

    def of_size(size: int) -> None:
        monkeypatch.setattr(module, "available_bytes", lambda device: size)

    monkeypatch.setattr(Device, "measures_chunk", property(lambda self: self.task_chunk == "auto"))
    return of_size


FEW = (*QUICK, "schedule.tasks_per_step=12", "schedule.steps=4", "schedule.checkpoint_every=1", "schedule.eval_every=4")


def test_a_run_takes_what_fits_and_goes_on_with_it_elsewhere(measuring, tmp_path):
    """A machine with another memory would choose other chunks, and round otherwise: the state holds the number."""
    measuring(2**40)
    assert make_parts(configuration(*FEW)).task_chunk == 12
    measuring(180_000)
    parts = make_parts(configuration(*FEW))
    assert 1 < parts.task_chunk < 12 and parts.evaluator.chunk <= 20
    assert run_here(*FEW, f"run.root={tmp_path / 'whole'}") == 0
    run_and_kill(3, *FEW, f"run.root={tmp_path / 'killed'}")
    measuring(2**40)
    killed = only_folder(tmp_path / "killed")
    assert load_state(killed / "checkpoints/last.pt").task_chunk == parts.task_chunk
    assert run_here(*FEW, f"run.root={tmp_path / 'killed'}") == 0
    assert_same_checkpoints(only_folder(tmp_path / "whole") / "checkpoints", killed / "checkpoints")


def test_a_given_number_is_taken_unmeasured(measuring):
    measuring(1)
    assert make_parts(configuration(*FEW, "device.task_chunk=5")).task_chunk == 5
    assert make_parts(configuration(*FEW, "device.task_chunk=null")).task_chunk == 12


def test_the_header_says_that_memory_chose(monkeypatch, tmp_path):
    """And the number that a resumed run goes on with; of a rank, by its share of the tasks."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    config = configuration(*FEW)
    parts = dataclasses.replace(make_parts(config), device=torch.device("cuda"), task_chunk=4)
    state = TrainState(2, {}, {}, {}, "f", task_chunk=3)

    def words(parts, resumed=None, size=1) -> str:
        rows = header_of(RunFolder(tmp_path), config, parts, resumed, Ranks(0, size))
        return dict(rows)["device"]

    assert words(parts) == "cuda (GPU), float32, 4 tasks at once, as many as its memory holds"
    assert ", 3 tasks at once, as many as its memory holds" in words(parts, state)
    assert words(parts, size=3) == "cuda (GPU), float32, 4 tasks at once, 3 ranks"
    assert words(dataclasses.replace(parts, task_chunk=12)) == "cuda (GPU), float32, 12 tasks at once"
    assert "4 tasks at once, TF32 but for curvature products" in words(dataclasses.replace(parts, tf32=True), size=3)


def test_available_memory_of_a_gpu_counts_what_the_allocator_keeps_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert available_bytes(torch.device("cuda")) == 140
