"""The meta-gradient in the geometry of the models' predictions (natural gradient)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.direction.adapted_models import change_of_loss, fisher, num_tasks
from metarun.algorithm.protocols import AdaptedTasks, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.cg import conjugate_gradient
from metarun.maths.trees import Params, ravel, unravel

POINTS = ("phi", "pullback", "theta", "task_empirical")
_MEMORY = 0.99  # of the preconditioner's mean squares
_FLOOR = 1e-4  # what is added to them, in units of their mean over the parameters


@dataclass(frozen=True, kw_only=True)
class NaturalGradient:
    """Solve (F + damping I) s = meta-gradient by conjugate gradients and step along it no further than a divergence allows.

    F is the mean over the step's tasks of a Fisher (Gauss-Newton) matrix on the query inputs. The optimizer must be plain
    SGD: Adam would rescale the coordinates and destroy the invariance.

    Attributes:
        point: "phi": at the adapted parameters, their Jacobian taken for the identity; "pullback": P' F P with that Jacobian
            P = d phi / d theta, the Fisher matrix of the adapted predictor as a function of theta (exact, several times the
            cost); "theta": at theta, before adaptation; "task_empirical": the mean of g g' over the tasks' meta-gradients,
            which is no Fisher matrix, solved in the span of the g.
        step_size: eta > 0; the optimizer's learning rate multiplies the step once more (1 by default).
        damping: > 0 unless F is known to be regular; at the start, where it is adapted.
        steps: CG steps.
        rtol: CG stops at this residual, relative to the meta-gradient.
        max_divergence: the step is shortened until its predicted divergence, s' F s / 2 in the loss's units, is no larger;
            null: never.
        adapt_damping: Levenberg and Marquardt: after each step the tasks are adapted once more, and the damping is raised by
            3/2 where a quarter of the predicted decrease came, lowered by 2/3 where three quarters did.
        momentum: g is replaced by momentum * (the last step's) + (1 - momentum) * g before the system is solved. A gradient of
            few tasks is mostly noise that their own F fits; an average over steps is not. The optimizer's momentum would
            average the solutions instead, and let the steps exceed `max_divergence`.
        preconditioner: CG works in coordinates scaled by M^(1/2), M = (mean square of the tasks' meta-gradients)^preconditioner:
            truncated after few steps it is drawn to M^-1 g and not to g; solved to the end it is the same. null: M = I. The
            mean squares are averaged over steps (0.99) and floored at 1e-4 of their mean. 0.5 is Adam's metric, 0.75 Martens'.
        recompute: make the matrices' graphs anew in each product, which is slower and bounds memory by `device.task_chunk`;
            without it the graphs of all tasks of the step are held.
    Source: Amari 1998; Martens 2020; the trust region as in Schulman et al. 2015, section 6 and appendix C; the
        preconditioner as in Martens 2010, section 4.7. No published
        algorithm is called I-MAML-NG; this is the definition used here.
    """

    point: Literal["phi", "pullback", "theta", "task_empirical"]
    step_size: float
    damping: float
    steps: int
    rtol: float
    max_divergence: float | None
    adapt_damping: bool
    momentum: float
    preconditioner: float | None
    recompute: bool
    transforms_gradient: ClassVar[bool] = True
    without_jacobian: ClassVar[str | None] = "algorithm.direction.point=phi"
    is_step: ClassVar[bool] = True
    needs_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.one_of("point", self.point, POINTS)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.number("damping", self.damping, minimum=0, exclusive=self.point == "task_empirical")
        checks.integer("steps", self.steps, minimum=1)
        checks.number("rtol", self.rtol, minimum=0, below=1)
        if self.max_divergence is not None:
            checks.number("max_divergence", self.max_divergence, minimum=0, exclusive=True)
        checks.number("momentum", self.momentum, minimum=0, below=1)
        if self.preconditioner is not None:
            checks.number("preconditioner", self.preconditioner, minimum=0, exclusive=True)
        for name in ("adapt_damping", "recompute"):
            checks.boolean(name, getattr(self, name))

    @property
    def needs_jacobian(self) -> bool:
        """For the pull-back, that of the adaptation."""
        return self.point == "pullback"

    def start(self) -> dict[str, Any]:
        """The damping, where it is adapted; the averages begin with the first step."""
        return {"damping": torch.tensor(self.damping, dtype=torch.float64)} if self.adapt_damping else {}

    def direction(
        self,
        gradient: Params,
        chunks: Sequence[AdaptedTasks],
        meta_gradient: MetaGradient,
        state: dict[str, Any],
        ranks: Ranks,
    ) -> tuple[Params, dict[str, Tensor], dict[str, Any]]:
        """The natural direction; `direction/divergence` is that predicted for the step, `direction/shortened` its cut.

        `direction/cg_residual` is that of CG's recurrence, true to rounding in so few steps: another product would cost as
        much as one of them. A system that is not finite gives a direction of NaN.
        """
        damping = state.get("damping", self.damping)
        row = {name: leaf[None] for name, leaf in gradient.items()}
        now = ravel(row)
        rhs = torch.lerp(state["mean"].to(now), now, 1 - self.momentum) if "mean" in state else now
        if self.momentum:
            state = state | {"mean": rhs}
        if self.point == "task_empirical":
            # In theta's order: an estimator may name frozen leaves last.
            own = [ravel({name: chunk.gradients.gradient[name] for name in row}) for chunk in chunks]
            gradients = ranks.rows(torch.cat(own))
            solution, stats = _by_woodbury(gradients, rhs, damping), {}
            squared = (solution @ gradients.T).square().sum() / len(gradients)
        else:
            scale, state = self._scale(row, chunks, state, ranks)
            system = fisher(chunks, meta_gradient, ranks, point=self.point, recompute=self.recompute).shifted(damping)
            result = conjugate_gradient(system, rhs, max_steps=self.steps, rtol=self.rtol, preconditioner=scale)
            solution = result.solution
            stats = {"direction/cg_steps": result.steps[0], "direction/cg_residual": result.residual_norm[0]}
            # s'Fs without one more product: CG's residual is orthogonal to its solution. No step at all means that the
            # right-hand side itself has no curvature.
            curved = (solution * rhs).sum() - damping * (solution * solution).sum()
            squared = torch.where(result.steps[0] > 0, curved.clamp(min=0), 0)
        step = self.step_size * solution
        squared = self.step_size**2 * squared
        divergence, cut = squared / 2, torch.ones_like(squared)
        if self.max_divergence is not None:
            allowed = torch.full_like(divergence, self.max_divergence)
            cut = torch.where(divergence > allowed, (allowed / divergence).sqrt(), cut)
        step = cut * step
        stats |= {"direction/divergence": cut**2 * divergence, "direction/shortened": cut}
        direction = {name: leaf[0] for name, leaf in unravel(step, row).items()}
        if not self.adapt_damping:
            return direction, stats, state
        predicted = -(now * step).sum() + 0.5 * (cut**2 * squared + damping * (step * step).sum())
        stats |= {"direction/damping": _scalar(damping, rhs)}
        adapted = {"damping": _adapted(damping, change_of_loss(direction, chunks, ranks) / predicted)}
        return direction, stats, state | adapted

    def _scale(
        self, row: Params, chunks: Sequence[AdaptedTasks], state: dict[str, Any], ranks: Ranks
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """The square root of the preconditioner's inverse, and the state with the mean squares it is made of."""
        if self.preconditioner is None:
            return None, state
        squares = torch.zeros_like(ravel(row))
        for chunk in chunks:
            gradients = ravel({name: chunk.gradients.gradient[name] for name in row})
            squares = squares + gradients.square().sum(0, keepdim=True)
        squares = ranks.sum(squares) / num_tasks(chunks, ranks)
        if "squares" in state:
            squares = torch.lerp(state["squares"].to(squares), squares, 1 - _MEMORY)
        floor = (_FLOOR * squares.mean()).clamp(min=torch.finfo(squares.dtype).tiny)
        return (squares + floor) ** (-self.preconditioner / 2), state | {"squares": squares}


def _by_woodbury(gradients: Tensor, rhs: Tensor, damping: float | Tensor) -> Tensor:
    """(damping I + U U')^-1 rhs with U' = gradients / sqrt(B), by a B x B system."""
    rows = gradients / len(gradients) ** 0.5
    inner = damping * torch.eye(len(rows), dtype=rows.dtype, device=rows.device) + rows @ rows.T
    return (rhs - torch.linalg.solve_ex(inner, rows @ rhs.T).result.T @ rows) / damping


def _adapted(damping: float | Tensor, ratio: Tensor) -> Tensor:
    """The next damping, a number in float64, from the decrease that came over that predicted."""
    now = _scalar(damping, ratio.double())
    return torch.where(ratio < 0.25, 1.5 * now, torch.where(ratio > 0.75, now / 1.5, now))


def _scalar(number: float | Tensor, like: Tensor) -> Tensor:
    """A number as a scalar like `like`, made where that is: a copy from the host cannot be captured."""
    return number.to(like) if isinstance(number, Tensor) else like.new_full((), number)
