"""An algorithm: one inner solver, one meta-gradient, one direction, and lambda."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import Direction, Episode, InnerSolution, InnerSolver, MetaEstimate, MetaGradient
from metarun.maths.trees import Params, axpy, detached, expand
from metarun.problems.base import Problem
from metarun.tasks.types import Examples, TaskBatch


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A composition of parts; pairs that make no sense are refused here.

    Attributes:
        proximal_weight: lambda of the inner objective, >= 0; the implicit meta-gradient needs > 0.
    """

    inner: InnerSolver
    meta_gradient: MetaGradient
    direction: Direction
    proximal_weight: float

    def __post_init__(self) -> None:
        checks.number("proximal_weight", self.proximal_weight, minimum=0)
        if self.meta_gradient.needs_proximal_term and self.proximal_weight == 0:
            raise ValueError(
                "proximal_weight must be > 0 for the implicit meta-gradient, got 0. "
                "Set algorithm.proximal_weight (iMAML's paper uses 2.0) or choose algorithm/meta_gradient=first_order."
            )
        if self.meta_gradient.needs_differentiable_solver and not self.inner.differentiable:
            raise ValueError(
                f"the unrolled meta-gradient must differentiate through the inner solver, and {type(self.inner).__name__} "
                "cannot be differentiated. Choose algorithm/meta_gradient=implicit or algorithm/inner=gradient_descent."
            )

    def adapt(self, theta: Params, problem: Problem, support: Examples, steps: int | None = None) -> InnerSolution:
        """phi for every task, without graph; all that evaluation needs.

        Args:
            theta: leaves without task axis.
            support: [B, S, ...].
            steps: inner steps, in place of the solver's own number; 0 leaves theta as it is.
        """
        anchor = expand(detached(theta), len(support.inputs))
        return self.inner.solve(InnerProblem(problem, support, anchor, self.proximal_weight), steps)

    def meta_step(
        self, theta: Params, problem: Problem, tasks: TaskBatch, task_chunk: int | None = None
    ) -> MetaEstimate:
        """What the optimizer is to be given for this batch of tasks.

        Args:
            theta: leaves without task axis.
            tasks: B tasks, on the device.
            task_chunk: work on at most so many tasks at once; bounds memory, and changes the result by rounding alone.
        Returns:
            MetaEstimate: `gradient` is the direction; losses and statistics are per task, [B].
        """
        pieces = tasks.chunks(task_chunk or len(tasks))
        gradient: Params | None = None
        losses: list[Tensor] = []
        stats: list[dict[str, Tensor]] = []
        for piece in pieces:
            estimate = self.meta_gradient.estimate(theta, Episode(problem, piece, self.inner, self.proximal_weight))
            share = len(piece) / len(tasks)
            if gradient is None:
                gradient = {name: share * leaf for name, leaf in estimate.gradient.items()}
            else:
                gradient = axpy(share, estimate.gradient, gradient)
            losses.append(estimate.query_loss)
            stats.append(estimate.stats)
        direction, direction_stats = self.direction.direction(gradient)
        joined = {name: torch.cat([piece[name] for piece in stats]) for name in stats[0]}
        return MetaEstimate(direction, torch.cat(losses), joined | dict(direction_stats))
