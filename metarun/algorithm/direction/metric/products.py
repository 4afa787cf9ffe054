"""Fisher matrices by their products with vectors, solved by conjugate gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.direction.adapted_models import Point, fisher, num_tasks
from metarun.algorithm.direction.metric.base import Asked, Solved
from metarun.algorithm.protocols import AdaptedTasks
from metarun.device.ranks import Ranks
from metarun.maths.cg import conjugate_gradient
from metarun.maths.loops import repeat
from metarun.maths.operators import LinearOperator
from metarun.maths.trees import Params, ravel

POINTS: tuple[Point, ...] = get_args(Point)
_MEMORY = 0.99  # of the preconditioner's mean squares
_FLOOR = 1e-4  # what is added to them, in units of their mean over the parameters
_CANCELLED = 0.1
"""Where s'Fs is a smaller share of s'g, the difference of which it is made has lost digits: it is taken by a product."""


@dataclass(frozen=True, kw_only=True)
class _Products:
    """What both metrics below have in common.

    Attributes:
        point: "phi": at the adapted parameters, their Jacobian taken for the identity; "pullback": P' F P with that Jacobian
            P = d phi / d theta as the estimator has it, the Fisher matrix of the adapted predictor as a function of theta
            (several times the cost); "theta": at theta, before adaptation.
        steps: CG steps.
        rtol: CG stops at this residual, relative to the right-hand side.
        preconditioner: CG works in coordinates scaled by M^(1/2), M = (mean square of the tasks' meta-gradients)^preconditioner:
            truncated after few steps it is drawn to M^-1 g and not to g; solved to the end it is the same. null: M = I. The
            mean squares are averaged over steps (0.99) and floored at 1e-4 of their mean. 0.5 is Adam's metric, 0.75 Martens'.
        recompute: make the matrices' graphs anew in each product, which is slower and bounds memory by `device.task_chunk`;
            without it the graphs of all tasks of the matrix are held.
    """

    point: Literal["phi", "pullback", "theta"]
    steps: int
    rtol: float
    preconditioner: float | None
    recompute: bool

    def __post_init__(self) -> None:
        checks.one_of("point", self.point, POINTS)
        checks.integer("steps", self.steps, minimum=1)
        checks.number("rtol", self.rtol, minimum=0, below=1)
        if self.preconditioner is not None:
            checks.number("preconditioner", self.preconditioner, minimum=0, exclusive=True)
        checks.boolean("recompute", self.recompute)

    @property
    def needs_jacobian(self) -> bool:
        """For the pull-back, that of the adaptation."""
        return self.point == "pullback"

    def _of(
        self, tasks: Sequence[AdaptedTasks], asked: Asked, state: dict[str, Any]
    ) -> tuple["ByProducts", dict[str, Any]]:
        """The mean of these tasks' matrices, and the state with the mean squares that the preconditioner is made of."""
        scale, state = self._scale(asked, state)
        product = fisher(tasks, asked.meta_gradient, asked.ranks, point=self.point, recompute=self.recompute)
        return ByProducts(product, self.steps, self.rtol, scale), state

    def _scale(self, asked: Asked, state: dict[str, Any]) -> tuple[Tensor | None, dict[str, Any]]:
        """The square root of the preconditioner's inverse."""
        if self.preconditioner is None:
            return None, state
        squares = mean_squares(asked.like, asked.step, asked.ranks)
        if "squares" in state:
            squares = torch.lerp(state["squares"].to(squares), squares, 1 - _MEMORY)
        floor = (_FLOOR * squares.mean()).clamp(min=torch.finfo(squares.dtype).tiny)
        return (squares + floor) ** (-self.preconditioner / 2), state | {"squares": squares}


@dataclass(frozen=True, kw_only=True)
class StepTasks(_Products):
    """The Fisher matrix of the step's own tasks, on their query inputs; products by automatic differentiation, solved by CG.

    The tasks that made the gradient are in it, with what is noise in it: the better the system of few tasks is solved, the more
    of the direction is drawn to where they know nothing.
    """

    num_fresh_tasks: ClassVar[int] = 0

    def at(self, asked: Asked, state: dict[str, Any]) -> tuple["ByProducts", dict[str, Any]]:
        """The matrix of the step's tasks."""
        return self._of(asked.step, asked, state)


@dataclass(frozen=True, kw_only=True)
class FreshTasks(_Products):
    """As `StepTasks`, of other tasks than the gradient's: adapted, without a meta-gradient, for this matrix alone.

    Attributes:
        num_fresh_tasks: how many in each step, >= 1.
    """

    num_fresh_tasks: int

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("num_fresh_tasks", self.num_fresh_tasks, minimum=1)

    def at(self, asked: Asked, state: dict[str, Any]) -> tuple["ByProducts", dict[str, Any]]:
        """The matrix of the fresh tasks."""
        return self._of(asked.fresh, asked, state)


@dataclass(frozen=True)
class ByProducts:
    """A matrix that is known by its products."""

    product: LinearOperator
    steps: int
    rtol: float
    scale: Tensor | None

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solved:
        """By CG; `direction/cg_residual` is that of its recurrence, true to rounding in so few steps."""
        found = conjugate_gradient(
            self.product.shifted(damping), rhs, max_steps=self.steps, rtol=self.rtol, preconditioner=self.scale
        )
        # No step at all means that the right-hand side itself has no curvature.
        squared = torch.where(found.steps[0] > 0, self._squared(found.solution, rhs, damping), 0)
        stats = {"direction/cg_steps": found.steps[0], "direction/cg_residual": found.residual_norm[0]}
        return Solved(found.solution, squared, stats)

    def _squared(self, solution: Tensor, rhs: Tensor, damping: float | Tensor) -> Tensor:
        """s'Fs. CG's residual is orthogonal to its solution, so it is s'g - damping s's: no product, as long as digits are left."""
        along = (solution * rhs).sum()
        difference = along - damping * (solution * solution).sum()
        is_sound = (difference >= _CANCELLED * along).expand(1)

        def by_product(state: tuple[Tensor, Tensor], _: int | Tensor) -> tuple[Tensor, Tensor]:
            found = (solution * self.product.apply(solution)).sum()
            return torch.where(state[1][0], state[0], found.clamp(min=0)), torch.ones_like(state[1])

        return repeat(by_product, (difference, is_sound), 1, ended=lambda state: state[1], is_dear=True)[0]


def mean_squares(like: Params, chunks: Sequence[AdaptedTasks], ranks: Ranks) -> Tensor:
    """Mean over all tasks of the squares of their meta-gradients, [1, D], in the order of `like`."""
    squares = torch.zeros_like(ravel(like))
    for chunk in chunks:
        gradients = ravel({name: chunk.gradients.gradient[name] for name in like})
        squares = squares + gradients.square().sum(0, keepdim=True)
    return ranks.sum(squares) / num_tasks(chunks, ranks)
