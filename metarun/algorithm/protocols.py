"""The three axes along which algorithms differ, as protocols: inner solver, meta-gradient, direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.proximal import ProximalTerm
from metarun.device.ranks import Ranks
from metarun.maths.trees import Params
from metarun.problems.base import Problem

if TYPE_CHECKING:
    from metarun.algorithm.bilevel import Bilevel, TaskGradients


# ---- from theta to phi -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InnerSolution:
    """`params`, the adapted leaves [B, ...]; `stats` per task, [B], detached.

    `first_norm` [B] is the norm of the objective's gradient at the start, where the solver has taken it.
    """

    params: Params
    stats: dict[str, Tensor]
    first_norm: Tensor | None = None


class State(Protocol):
    """What an inner solver remembers from step to step: a nest of tensors (`maths.structures`)."""

    @property
    def params(self) -> Params:
        """phi, leaves [B, ...]."""
        ...


S = TypeVar("S", bound=State)


class InnerSolver(Protocol[S]):
    """From theta to phi, step by step (`inner.loop` is the loop).

    Attributes:
        steps: in training.
        is_differentiable: phi carries a graph where theta does.
        descends: phi descends the inner objective from theta; else it is found in another way.
    """

    @property
    def steps(self) -> int: ...  # noqa: D102

    is_differentiable: ClassVar[bool]
    descends: ClassVar[bool]

    def start(self, inner: InnerProblem, phi: Params) -> S:
        """The state before the first step, at phi: `inner.start`, or where steps are computed again."""
        ...

    def step(self, inner: InnerProblem, state: S, number: int | Tensor) -> S:
        """The state after step `number`, from 0: of the same structure and shapes, so that steps may be a loop of a program."""
        ...

    def solution(self, inner: InnerProblem, state: S, steps: int) -> InnerSolution:
        """phi and its statistics after `steps` steps."""
        ...


@runtime_checkable
class LearnsParameters(Protocol):
    """A solver with meta-parameters of its own."""

    def meta_parameters(self, start: Params) -> Params:
        """They, by name, for theta's adapted leaves (no task axis)."""
        ...


@runtime_checkable
class ChecksProblem(Protocol):
    """A part that does not fit every problem."""

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` where the part cannot work on this problem with these adapted leaves (no task axis)."""
        ...


@runtime_checkable
class EqualSteps(Protocol):
    """A solver whose steps may be phi <- phi - alpha * gradient of the objective, always with the same alpha."""

    @property
    def fixed_step_size(self) -> float | None:
        """alpha; None where its settings make it another kind of step."""
        ...


@runtime_checkable
class ChangesInEvaluation(Protocol):
    """A solver that has other settings in evaluation."""

    def in_evaluation(self) -> InnerSolver:
        """The solver there."""
        ...


# ---- from theta and phi to a gradient --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jacobian:
    """d phi / d theta of B tasks: `push` is its product with vectors [B, D], `pull` that of its transpose.

    Both are linear and each is the other's transpose to rounding, whatever the Jacobian leaves out.
    """

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


class MetaGradient(Protocol):
    """From B tasks at theta to an estimate of the gradient of their query losses.

    Attributes:
        is_gradient: it estimates a gradient at all, in the model's parameters.
        learns_solver: it gives the inner solver's own meta-parameters a gradient.
        learns_regulariser: it gives lambda a gradient.
    """

    is_gradient: ClassVar[bool]
    learns_solver: ClassVar[bool]
    learns_regulariser: ClassVar[bool]

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` where the solver or the regulariser lacks what the estimator needs."""
        ...

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """Of each task."""
        ...


@runtime_checkable
class HasJacobian(Protocol):
    """A meta-gradient that knows d phi / d theta, of all meta-learned parameters.

    Attributes:
        jacobian_has_fixed: also where some of them are not adapted, which phi depends on and which stay as they are.
        jacobian_is_linear: with these settings.
    """

    jacobian_has_fixed: ClassVar[bool]

    @property
    def jacobian_is_linear(self) -> bool: ...  # noqa: D102

    def jacobian(self, bilevel: Bilevel, phi: Params) -> Jacobian:
        """As this estimator sees it, at phi: of the parameters after adaptation, those that are not adapted among them."""
        ...


@runtime_checkable
class HasDiagnosis(Protocol):
    """A meta-gradient that may not be what it claims to be."""

    def diagnosis(self, means: Mapping[str, float]) -> str | None:
        """A warning in words, where the means of a run's statistics say so."""
        ...


# ---- from a gradient to a direction ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdaptedTasks:
    """One chunk of tasks after the estimate, for directions that ask the adapted models again."""

    bilevel: Bilevel
    gradients: TaskGradients


class Direction(Protocol):
    """From the meta-gradient to what the optimizer is given as a gradient.

    Attributes:
        transforms_gradient: it makes something else of the gradient, and so needs one of the model's parameters alone.
        needs_jacobian: it asks the estimator for d phi / d theta.
        without_jacobian: the setting with which it does without, KEY=VALUE; None: there is none.
        needs_tasks: it asks for `chunks`.
        num_fresh_tasks: how many other tasks than the step's it asks for, adapted.
        is_step: what it gives is a step, of which an optimizer should make no other: plain SGD of rate 1 takes it.
    """

    transforms_gradient: ClassVar[bool]
    is_step: ClassVar[bool]

    @property
    def needs_jacobian(self) -> bool: ...  # noqa: D102

    without_jacobian: ClassVar[str | None]

    needs_tasks: ClassVar[bool]

    @property
    def num_fresh_tasks(self) -> int: ...  # noqa: D102

    def start(self) -> dict[str, Any]:
        """The state before the first step."""
        ...

    def direction(
        self,
        gradient: Params,
        chunks: Sequence[AdaptedTasks],
        meta_gradient: MetaGradient,
        state: dict[str, Any],
        ranks: Ranks,
        fresh: Sequence[AdaptedTasks] = (),
    ) -> tuple[Params, dict[str, Tensor], dict[str, Any]]:
        """The direction, statistics of it (scalars), and the next state.

        Args:
            gradient: mean meta-gradient, leaves without task axis.
            chunks: this rank's tasks of the step; empty unless `needs_tasks`.
            meta_gradient: the estimator that made the gradient.
            state: what the last step returned.
            ranks: who else works on the step; the gradient is that of all.
            fresh: this rank's part of `num_fresh_tasks` other tasks; what they have beside adapted parameters is empty.
        """
        ...


# ---- what an outer step is given -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetaEstimate:
    """For the optimizer.

    Attributes:
        gradient: by the names of theta, leaves without task axis.
        query_loss: [B].
        stats: per task [B], or of the whole step, scalars.
        state: what the algorithm carries to its next step, to be given back then; empty for most.
    """

    gradient: Params
    query_loss: Tensor
    stats: dict[str, Tensor]
    state: dict[str, Any]
