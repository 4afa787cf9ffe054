"""One outer step, from drawing the tasks to the optimizer, as a function of tensors that asks for no value."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import MetaEstimate
from metarun.maths.structures import mapped, tensors_of, with_tensors
from metarun.maths.trees import Params, norm
from metarun.problems.base import Problem
from metarun.tasks.types import TaskBatch
from metarun.training.drawing import Drawing
from metarun.training.optimizer_rule import Memory, OptimizerRule

NO_STEP = -1


@dataclass(frozen=True)
class StepState:
    """What one outer step hands to the next.

    Attributes:
        theta: learned meta-parameters, by name, without task axis.
        memory: of the optimizer, for each of them.
        algorithm: what the algorithm carries from step to step.
        step: outer steps done, a scalar in int64.
        sums: of the numbers of each step, [n] in float64, since they were last taken.
        failed: the step whose numbers were not finite, or -1; from there on nothing moves.
    """

    theta: Params
    memory: Memory
    algorithm: dict[str, Any]
    step: Tensor
    sums: Tensor
    failed: Tensor


@dataclass(frozen=True, kw_only=True)
class OuterStep:
    """The step; every rank by itself, with all tasks.

    Attributes:
        theta: for the leaves that are not learned.
        drawing: of the training tasks.
        task_chunk: tasks worked on at once.
        optimizer: of the learned leaves.
        names: of the numbers that `StepState.sums` adds up, in its order.
    """

    algorithm: Algorithm
    problem: Problem
    theta: MetaParameters
    drawing: Drawing
    task_chunk: int
    optimizer: OptimizerRule
    names: tuple[str, ...]

    def __call__(self, state: StepState, rate: Tensor, tasks: TaskBatch | None = None) -> StepState:
        """The state after one step.

        Args:
            rate: the learning rate, a scalar in float64.
            tasks: None: drawn here.
        """
        tasks = self.drawing.of_step(state.step) if tasks is None else tasks
        estimate = self.algorithm.meta_step(
            theta=self.theta.updated(state.theta),
            problem=self.problem,
            tasks=tasks,
            fresh=self.drawing.fresh_of_step(state.step),
            task_chunk=self.task_chunk,
            state=state.algorithm,
            step=state.step,
        )
        numbers = numbers_of(estimate)
        finite = numbers["loss"].isfinite() & numbers["gradient_norm"].isfinite()
        failed = torch.where((state.failed == NO_STEP) & ~finite, state.step, state.failed)
        moves = failed == NO_STEP
        learned = list(state.theta)
        leaves, memory = self.optimizer(
            list(state.theta.values()), [estimate.gradient[name] for name in learned], state.memory, rate
        )
        after = StepState(
            theta=dict(zip(learned, leaves, strict=True)),
            memory=memory,
            algorithm={name: mapped(estimate.state[name], torch.Tensor.detach) for name in state.algorithm},
            step=state.step + 1,
            sums=state.sums + torch.stack([numbers[name].double() for name in self.names]),
            failed=failed,
        )
        # In a step that is not finite, and after it, nothing moves.
        kept = [
            now if now is failed else torch.where(moves, now.to(before.dtype), before)
            for now, before in zip(tensors_of(after), tensors_of(state), strict=True)
        ]
        return with_tensors(after, kept)


def numbers_of(estimate: MetaEstimate) -> dict[str, Tensor]:
    """What is recorded of a step, by name: means over its tasks, and numbers of the whole step."""
    dtype = estimate.query_loss.dtype
    per_task = {"loss": estimate.query_loss} | {n: value for n, value in estimate.stats.items() if value.dim()}
    whole = {"gradient_norm": norm(estimate.gradient)} | {n: v for n, v in estimate.stats.items() if not v.dim()}
    means = {name: value.to(dtype).mean() for name, value in per_task.items()}
    return means | {name: value.to(dtype) for name, value in whole.items()}


def without_sums(state: StepState) -> StepState:
    """The same, with nothing added up."""
    return replace(state, sums=torch.zeros_like(state.sums))
