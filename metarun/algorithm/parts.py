"""The three axes along which algorithms differ, as protocols, and what passes between them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem
from metarun.maths.ranks import Ranks
from metarun.maths.trees import Params
from metarun.problems.base import Problem, losses_of
from metarun.tasks.types import TaskBatch


@dataclass(frozen=True)
class InnerSolution:
    """`params`, the adapted leaves [B, ...]; `stats` per task, [B], detached.

    `first_norm` [B] is the norm of the objective's gradient at the start, where the solver has taken it.
    """

    params: Params
    stats: dict[str, Tensor]
    first_norm: Tensor | None = None


class InnerSolver(Protocol):
    """From theta to phi.

    Attributes:
        steps: in training.
        eval_steps: evaluation measures after each of these numbers of steps.
        offers: what estimators may need: "graph", a solution that can be differentiated; "iterates", phi after each step;
            "fixed rates", steps of one size `step_size`; "minimum", phi descends the inner objective from theta.
        learns: whether it has meta-parameters of its own.
    """

    steps: int
    eval_steps: Sequence[int]
    offers: frozenset[str]
    learns: ClassVar[bool]

    def check(self, problem: Problem, adapted: Params) -> None:
        """Raise `ValueError` where the solver cannot work on this problem with these leaves (no task axis)."""
        ...

    def meta_parameters(self, adapted: Params) -> Params:
        """What the solver itself would have learned, by name, for theta's adapted leaves (no task axis); mostly nothing."""
        ...

    def solve(self, inner: InnerProblem, learned: Params, steps: int | None = None) -> InnerSolution:
        """Adapt all tasks.

        Args:
            inner: B inner problems.
            learned: the solver's own meta-parameters, leaves [B, ...].
            steps: in place of the solver's own number of steps.
        """
        ...


class IterativeSolver(InnerSolver, Protocol):
    """A solver that offers "iterates"."""

    def iterates(self, inner: InnerProblem, learned: Params, steps: int) -> Iterator[Params]:
        """phi after 1, 2, ... steps."""
        ...


@dataclass(frozen=True)
class Episode:
    """B tasks as an estimator sees them: set up an inner problem, solve it, judge the outcome.

    Attributes:
        set_up: from all meta-parameters, leaves [B, ...], to the inner problems and the solver's own meta-parameters.
        step: the outer step, for what changes in the course of training.
    """

    problem: Problem
    tasks: TaskBatch
    solver: InnerSolver
    set_up: Callable[[Params], tuple[InnerProblem, Params]]
    weight_gradient: Callable[[Params, Params], Params]
    step: int = 0

    def solve(self, theta: Params) -> tuple[InnerProblem, InnerSolution]:
        """Adapt theta, leaves [B, ...], to every task, with a graph where it has one and the solver is differentiable."""
        inner, learned = self.set_up(theta)
        return inner, self.solver.solve(inner, learned)

    def judge(self, params: Params) -> Tensor:
        """Query losses [B] of complete parameters, adapted and frozen leaves together."""
        return losses_of(self.problem, params, self.tasks.query, self.tasks.support)


@dataclass(frozen=True)
class TaskGradients:
    """What an estimator makes of an episode, each task by itself.

    Attributes:
        gradient: d query loss / d theta, leaves [B, ...], detached.
        query_loss: [B].
        params: adapted and frozen leaves [B, ...], detached.
        stats: per task, [B].
    """

    gradient: Params
    query_loss: Tensor
    params: Params
    stats: dict[str, Tensor]


Estimate = Callable[[Params, Problem, TaskBatch, int], TaskGradients]
"""(theta without task axis, problem, tasks, outer step) -> what `Algorithm.estimate` makes of them."""


@dataclass(frozen=True)
class Jacobian:
    """d phi / d theta of B tasks: `push` is its product with vectors [B, D], `pull` that of its transpose."""

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


class MetaGradient(Protocol):
    """From theta and an episode to an estimate of the gradient of the query losses.

    Attributes:
        needs: of the solver (`InnerSolver.offers`) and, as "proximal term", of lambda; `Algorithm` refuses what is not there.
        gives: "gradient", of the query losses and in the model's parameters; "inner" and "proximal_weight", in the solver's
            meta-parameters and in lambda too; "jacobian".
    """

    needs: ClassVar[frozenset[str]]
    gives: ClassVar[frozenset[str]]

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """Of each task; theta's leaves are [B, ...]."""
        ...

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> Jacobian | None:
        """d phi / d theta as this estimator sees it, at phi = `params`; None where it has none."""
        ...

    def advice(self, means: Mapping[str, float]) -> str | None:
        """A warning in words where the means of a run's statistics say that the estimate is not what it claims to be."""
        ...


@dataclass(frozen=True)
class MetaEstimate:
    """What an outer step is given.

    Attributes:
        gradient: for the optimizer, leaves without task axis.
        query_loss: [B].
        stats: per task [B], or of the whole step, scalars.
        state: what the algorithm carries to its next step, to be given back then; empty for most.
    """

    gradient: Params
    query_loss: Tensor
    stats: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Adapted:
    """One chunk of a step's tasks after the estimate, for directions that ask the adapted models again."""

    episode: Episode
    theta: Params
    gradients: TaskGradients


class Direction(Protocol):
    """From the meta-gradient to what the optimizer is given as a gradient.

    Attributes:
        needs_tasks: it asks for `chunks`.
        needs: of the estimator (`MetaGradient.gives`).
    """

    needs_tasks: ClassVar[bool]
    needs: frozenset[str]

    def start(self) -> dict[str, Any]:
        """The state before the first step."""
        ...

    def direction(
        self,
        gradient: Params,
        chunks: Sequence[Adapted],
        meta_gradient: MetaGradient,
        state: dict[str, Any],
        ranks: Ranks,
    ) -> tuple[Params, dict[str, Tensor], dict[str, Any]]:
        """The direction, statistics of it (scalars), and the next state.

        Args:
            gradient: mean meta-gradient, leaves without task axis.
            chunks: this rank's tasks of the step; empty unless `needs_tasks`.
            meta_gradient: the estimator that made the gradient.
            state: what the last step returned.
            ranks: who else works on the step; the gradient is that of all.
        """
        ...
