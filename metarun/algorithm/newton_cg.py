"""Inner solver: Newton steps by truncated conjugate gradients, with a line search (the Hessian-free method)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner_problem import CURVATURES, Curvature, InnerProblem, Point, search
from metarun.algorithm.parts import InnerSolution
from metarun.maths.cg import Status, conjugate_gradient
from metarun.maths.trees import Params, detached, ravel, relative_norm, unravel
from metarun.problems.base import Problem


@dataclass(frozen=True, kw_only=True)
class NewtonCG:
    """phi <- phi + a s, with (C + lambda + damping) s = -gradient by a few CG steps and a from a line search on the objective.

    Batched over tasks; each has its own damping, step length and end. A direction that does not descend is replaced by the
    negative gradient; a line search that finds nothing leaves phi and raises the damping. Not differentiable.

    Attributes:
        steps: Newton steps in training, >= 0.
        cg_steps: CG steps for each direction, >= 1.
        eval_steps: evaluation measures after each of these numbers of steps.
        curvature: C, of the support loss: "gauss_newton" always gives a descent direction; "hessian" is Newton's method.
        damping: added to the curvature at the start, >= 0.
        adapt_damping: raise it by 3/2 where the quadratic model promised four times what came, lower it by 2/3 where it
            kept three quarters (Levenberg and Marquardt). The model is that of the undamped objective.
        rtol: CG stops at this residual, relative to the gradient.
        forcing: let CG stop at min(0.5, sqrt(|gradient| / |first gradient|)) instead, so that early directions are cheap.
        progress_rtol: CG stops when it hardly gains (`conjugate_gradient`); 0: never.
        warm_start: CG starts from this fraction of the last direction; 0: from zero.
        max_backtracks: halvings of the step length.
        tolerance: a task ends when its gradient is this small, relative to max(1, first gradient).
    Source: Rajeswaran et al. 2019, table 2 (5 CG steps per direction and line search; the number of directions is not given);
        Nocedal & Wright 2006, algorithm 7.1; Martens 2010, sections 4.1 to 4.6 for damping, stop and warm start.
    """

    steps: int
    cg_steps: int
    eval_steps: Sequence[int]
    curvature: Curvature
    damping: float
    adapt_damping: bool
    rtol: float
    forcing: bool
    progress_rtol: float
    warm_start: float
    max_backtracks: int
    tolerance: float
    offers: ClassVar[frozenset[str]] = frozenset({"minimum"})
    learns: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.integer("cg_steps", self.cg_steps, minimum=1)
        checks.steps("eval_steps", self.eval_steps)
        checks.one_of("curvature", self.curvature, CURVATURES)
        checks.integer("max_backtracks", self.max_backtracks, minimum=0)
        checks.number("damping", self.damping, minimum=0)
        for name in ("rtol", "progress_rtol", "warm_start", "tolerance"):
            checks.number(name, getattr(self, name), minimum=0, below=1)
        for name in ("adapt_damping", "forcing"):
            checks.boolean(name, getattr(self, name))

    def check(self, problem: Problem, adapted: Params) -> None:
        """Fits every problem."""

    def meta_parameters(self, adapted: Params) -> Params:
        """None."""
        return {}

    def solve(
        self, inner: InnerProblem, learned: Params, steps: int | None = None, start: Params | None = None
    ) -> InnerSolution:
        """Adapt every task, without graph, from `start` in place of theta where it is given.

        `inner/residual` [B] is the final gradient's norm over the first's, 0 where both are within `tolerance`;
        `inner/cg_steps` and `inner/backtracks` are means over the Newton steps; `inner/negative_curvature` says whether any
        was met.
        """
        point = inner.at(detached(inner.anchor if start is None else start))
        weight = inner.weights(point.params)
        slope = ravel(point.gradient())
        norm = first = torch.linalg.vector_norm(slope, dim=1)
        damping = torch.full_like(norm, self.damping)
        last_direction = torch.zeros_like(slope)
        running = torch.ones_like(norm, dtype=torch.bool)
        cg_steps, backtracks = torch.zeros_like(norm), torch.zeros_like(norm)
        negative = torch.zeros_like(running)
        asked = self.steps if steps is None else steps
        for _ in range(asked):
            running = running & ~((norm <= self.tolerance * first.clamp_min(1)) & norm.isfinite())
            if not running.any():
                break
            model = inner.curvature(point.params, self.curvature).shifted(weight)
            rtol = (norm / first).sqrt().clamp_max(0.5) if self.forcing else self.rtol
            result = conjugate_gradient(
                model.shifted(damping[:, None]),
                -slope,
                max_steps=self.cg_steps,
                rtol=rtol,
                start=self.warm_start * last_direction if self.warm_start else None,
                progress_rtol=self.progress_rtol,
            )
            direction = result.solution
            descent = (slope * direction).sum(1)
            descends = descent < 0  # false, too, of a direction that is not finite
            direction = torch.where(descends[:, None], direction, -slope)
            descent = torch.where(descends, descent, -(norm**2))

            def move(length: Tensor, phi: Params = point.params, direction: Tensor = direction) -> Point:
                return inner.at(unravel(ravel(phi) + length[:, None] * direction, phi))

            length, point, gained = search(point, move, descent, self.max_backtracks, running)
            if self.adapt_damping:
                predicted = descent + 0.5 * (direction * model.apply(direction)).sum(1)
                ratio = gained / torch.where(predicted != 0, predicted, 1)
                damping = torch.where(ratio < 0.25, 1.5 * damping, torch.where(ratio > 0.75, damping / 1.5, damping))
            damping = torch.where(running & (length == 0), 4 * damping + 1e-3, damping)
            cg_steps = cg_steps + running * result.steps
            backtracks = backtracks - running * torch.where(length > 0, length.log2(), -float(self.max_backtracks))
            negative = negative | (running & (result.status == Status.NEGATIVE_CURVATURE))
            last_direction = direction
            slope = torch.where(running[:, None], ravel(point.gradient()), slope)
            norm = torch.linalg.vector_norm(slope, dim=1)
        if asked == 0:
            return InnerSolution(point.params, {})
        stats = {
            "inner/residual": relative_norm(norm, first, self.tolerance),
            "inner/cg_steps": cg_steps / asked,
            "inner/backtracks": backtracks / asked,
            "inner/negative_curvature": negative,
        }
        return InnerSolution(point.params, stats, first)
