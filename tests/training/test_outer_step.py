"""metarun.training.outer_step and drawing: a whole step as a function of tensors is the step that the trainer takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun.maths.structures import tensors_of, with_tensors
from metarun.run_folder.state import TrainState
from metarun.tasks.types import TaskBatch
from metarun.tracking.base import NullTracker
from metarun.training.drawing import Drawing
from metarun.training.optimizer_rule import OptimizerRule, memory_of
from metarun.training.outer_step import NO_STEP, OuterStep, StepState, numbers_of, without_sums
from metarun.training.program import compiled
from metarun.training.program_steps import is_drawn_in_a_program
from metarun.training.trainer import Trainer

from .small import GLYPHS, QUICK, configuration, trainer_of

SMALL = (
    *QUICK,
    "device.dtype=float64",
    "device.program=eager",
    "schedule.tasks_per_step=3",
    "model.hidden=[5]",
    "model.activation=tanh",
)
NEVER = 1000
FEW = ("algorithm.inner.steps=3", "algorithm.meta_gradient.solver.steps=3")
ALGORITHMS = {
    "maml": (),
    "meta_sgd": (),
    "anil": (),
    "maml_plus_plus": (),
    "imaml": FEW,
    "imaml, learned lambda": ("algorithm.learn_proximal_weight=layer", *FEW),
    "imaml_ng": (*FEW, "optimizer=sgd", "algorithm.direction.momentum=0.9"),
}
LR = 0.02


def made(folder: Path, which: str, *overrides: str) -> Trainer:
    words = (f"algorithm={which.partition(',')[0]}", *ALGORITHMS[which])
    trainer, _ = trainer_of(configuration(*SMALL, *words, f"optimizer.lr={LR}", *overrides), folder)
    return trainer


def trained(trainer: Trainer, steps: int) -> TrainState:
    """The trainer's own steps, one operation at a time, with nothing but the last one's checkpoint between them."""
    often = dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), NEVER)
    whole = replace(trainer, schedule=replace(trainer.schedule, steps=steps, **often), tracker=NullTracker())
    return whole.run(whole.start("f"))


def step_of(trainer: Trainer, state: TrainState, task_chunk: int = 3) -> tuple[OuterStep, StepState]:
    """The step, and what it begins with after `state`."""
    theta = trainer.theta.updated(state.theta).detached()
    optimizer = trainer.optimizer([leaf.clone().requires_grad_() for leaf in theta.values()])
    optimizer.load_state_dict(state.optimizer)
    estimate = trainer.algorithm.meta_step(
        theta=theta,
        problem=trainer.problem,
        tasks=trainer._drawing.of_step(state.step),
        task_chunk=task_chunk,
        state=state.algorithm,
        step=state.step,
    )
    names = tuple(numbers_of(estimate))
    step = OuterStep(
        algorithm=trainer.algorithm,
        problem=trainer.problem,
        theta=theta,
        drawing=trainer._drawing,
        task_chunk=task_chunk,
        optimizer=OptimizerRule(trainer.optimizer),
        names=names,
    )
    begin = StepState(
        theta=dict(theta),
        memory=[{name: value.clone() for name, value in each.items()} for each in memory_of(optimizer)],
        algorithm=dict(state.algorithm),
        step=torch.tensor(state.step),
        sums=torch.zeros(len(names), dtype=torch.float64),
        failed=torch.tensor(NO_STEP),
    )
    return step, begin


def assert_close(found: Any, expected: Any) -> None:
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def rate(value: float = LR) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("which", ALGORITHMS)
def test_five_traced_steps_are_the_trainers(which, tmp_path):
    """Traced after three steps, from the draw of the tasks to the optimizer; once in chunks of two of the three tasks, too."""
    trainer = made(tmp_path, which)
    begun, expected = trained(trainer, 3), trained(trainer, 8)
    numbers = []
    for task_chunk in (3, 2) if which in ("maml", "imaml") else (3,):
        step, begin = step_of(trainer, begun, task_chunk)
        program = compiled(step, begin, rate(0.5), backend="eager")
        after = begin
        for _ in range(5):
            after = with_tensors(after, program(tensors_of(after), rate()))
        assert (int(after.step), int(after.failed)) == (8, NO_STEP)
        assert_close(after.theta, {name: leaf.detach() for name, leaf in expected.theta.items()})
        optimizer = trainer.optimizer([leaf.detach().clone().requires_grad_() for leaf in expected.theta.values()])
        optimizer.load_state_dict(expected.optimizer)
        assert_close(after.memory, memory_of(optimizer))
        assert_close(after.algorithm, {name: expected.algorithm[name] for name in after.algorithm})
        numbers.append(after.sums)
        assert not without_sums(after).sums.any()
    assert_close(numbers[-1], numbers[0])
    # The sums are those of the numbers of each step by itself.
    total = torch.zeros(len(step.names), dtype=torch.float64)
    for each in range(3, 8):
        single = step_of(trainer, trained(trainer, each))
        total += single[0](single[1], rate()).sums
    assert_close(numbers[0], total)


@pytest.mark.parametrize("spoilt", ["rate", "tasks"])
def test_from_a_step_that_is_not_finite_nothing_moves(spoilt, tmp_path):
    trainer = made(tmp_path, "maml")
    step, begin = step_of(trainer, trained(trainer, 3))
    tasks = [trainer._drawing.of_step(number) for number in range(3, 7)]
    if spoilt == "tasks":
        inputs = tasks[1].query_set.targets
        tasks[1] = replace(tasks[1], query=replace(tasks[1].query_set, targets=torch.full_like(inputs, torch.inf)))
    program = compiled(step, begin, rate(), tasks[0], backend="eager")
    states = [begin]
    for each in tasks:
        # After a step of 1e200 the loss is infinite, and so it is the next one that is not finite.
        given = rate(1e200 if spoilt == "rate" else LR)
        states.append(with_tensors(begin, program(tensors_of(states[-1]), given, *tensors_of(each))))
    assert [int(state.failed) for state in states] == [NO_STEP, NO_STEP, 4, 4, 4]
    assert [int(state.step) for state in states] == [3, 4, 4, 4, 4]
    for later in states[2:]:
        for one, other in zip(tensors_of(replace(later, failed=begin.failed)), tensors_of(states[1]), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(states[1].theta[(name := next(iter(begin.theta)))], begin.theta[name])


@pytest.mark.parametrize("settings", [(), GLYPHS], ids=["sinusoid", "glyphs"])
def test_tasks_drawn_one_step_at_a_time_are_those_drawn_for_several(settings, tmp_path):
    words = (*SMALL[:-2], *settings)
    drawing = trainer_of(configuration(*words), tmp_path)[0]._drawing
    for first in (0, 3):
        for number, several in zip(range(first, first + 5), drawing.from_step(first), strict=False):
            for step in (number, torch.tensor(number)):
                for one, other in zip(tensors_of(drawing.of_step(step)), tensors_of(several), strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert is_drawn_in_a_program(drawing, 4)


class Through:
    """A source whose every task is what another source draws, by way of the host."""

    def __init__(self, source: Any, way: str) -> None:
        self.source, self.way = source, way

    def sample(self, seed: int, split: str, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """As `TaskSource` says."""
        if self.way == "tolist":
            indices = torch.tensor(indices.tolist())
        elif self.way == "numpy":
            indices = torch.from_numpy(indices.numpy().copy())
        elif self.way == "item":
            indices = torch.stack([torch.tensor(int(index)) for index in indices])
        return self.source.sample(seed, split, indices, shots, queries)


@pytest.mark.parametrize("way", ["none", "tolist", "numpy", "item"])
def test_a_source_that_reads_indices_is_not_drawn_in_a_program(way, tmp_path):
    trainer = made(tmp_path, "maml")
    drawing: Drawing = replace(trainer._drawing, source=Through(trainer.source, way))
    assert is_drawn_in_a_program(drawing, 4) == (way == "none")
