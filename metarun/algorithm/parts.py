"""The three axes along which algorithms differ, as protocols, and what passes between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem
from metarun.maths.trees import Params, expand
from metarun.problems.base import Problem, losses_of
from metarun.tasks.types import TaskBatch


@dataclass(frozen=True)
class InnerSolution:
    """`params`, leaves [B, ...]; `stats` per task, [B], detached."""

    params: Params
    stats: dict[str, Tensor]


@dataclass(frozen=True)
class MetaEstimate:
    """A meta-gradient (leaves without task axis), the query losses [B] that it descends, and statistics per task [B]."""

    gradient: Params
    query_loss: Tensor
    stats: dict[str, Tensor]


class InnerSolver(Protocol):
    """From theta to phi. `differentiable` says whether a graph through the solution exists."""

    differentiable: ClassVar[bool]

    def solve(self, inner: InnerProblem, steps: int | None = None) -> InnerSolution:
        """Adapt all tasks; `steps` replaces the solver's own number of steps (evaluation measures at several)."""
        ...


@dataclass(frozen=True)
class Episode:
    """B tasks as an estimator sees them: set up an inner problem, solve it, judge the outcome."""

    problem: Problem
    tasks: TaskBatch
    solver: InnerSolver
    proximal_weight: float

    def inner(self, theta: Params) -> InnerProblem:
        """The inner problems anchored at theta (leaves without task axis)."""
        return InnerProblem(self.problem, self.tasks.support, expand(theta, len(self.tasks)), self.proximal_weight)

    def solve(self, theta: Params) -> InnerSolution:
        """Adapt theta to every task, with a graph where theta has one and the solver is differentiable."""
        return self.solver.solve(self.inner(theta))

    def judge(self, phi: Params) -> Tensor:
        """Query losses [B]."""
        return losses_of(self.problem, phi, self.tasks.query, self.tasks.support)


class MetaGradient(Protocol):
    """From theta and an episode to an estimate of the gradient of the mean query loss."""

    needs_differentiable_solver: ClassVar[bool]
    needs_proximal_term: ClassVar[bool]

    def estimate(self, theta: Params, episode: Episode) -> MetaEstimate:
        """The mean over the episode's tasks."""
        ...


class Direction(Protocol):
    """From the meta-gradient to what the optimizer is given as a gradient."""

    def direction(self, gradient: Params) -> tuple[Params, Mapping[str, Tensor]]:
        """The direction, and statistics of it (scalars)."""
        ...
