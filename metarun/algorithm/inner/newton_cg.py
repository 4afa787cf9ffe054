"""Inner solver: Newton steps by truncated conjugate gradients, with a line search (the Hessian-free method)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner.line_search import search
from metarun.algorithm.inner_problem import CURVATURES, Curvature, InnerProblem
from metarun.algorithm.protocols import InnerSolution
from metarun.device.course import may_read_values
from metarun.maths.cg import Status, conjugate_gradient
from metarun.maths.trees import Params, detached, ravel, relative_norm, unravel
from metarun.problems.base import Problem


@dataclass(frozen=True)
class NewtonState:
    """Where the last line search ended, and what the next step goes on from; each tensor [B] but gradient and direction [B, D].

    Attributes:
        value: the objective at phi.
        running: tasks that have not ended.
        cg_steps, backtracks, negative_curvature: counted so far.
    """

    params: Params
    value: Tensor
    gradient: Tensor
    norm: Tensor
    first_norm: Tensor
    damping: Tensor
    last_direction: Tensor
    running: Tensor
    cg_steps: Tensor
    backtracks: Tensor
    negative_curvature: Tensor


@dataclass(frozen=True, kw_only=True)
class NewtonCG:
    """phi <- phi + a s, with (C + lambda + damping) s = -gradient by a few CG steps and a from a line search on the objective.

    Batched over tasks; each has its own damping, step length and end. A direction that does not descend is replaced by the
    negative gradient; a line search that finds nothing leaves phi and raises the damping. Not differentiable.

    Attributes:
        steps: Newton steps in training, >= 0.
        cg_steps: CG steps for each direction, >= 1.
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
    curvature: Curvature
    damping: float
    adapt_damping: bool
    rtol: float
    forcing: bool
    progress_rtol: float
    warm_start: float
    max_backtracks: int
    tolerance: float
    is_differentiable: ClassVar[bool] = False
    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.integer("cg_steps", self.cg_steps, minimum=1)
        checks.one_of("curvature", self.curvature, CURVATURES)
        checks.integer("max_backtracks", self.max_backtracks, minimum=0)
        checks.number("damping", self.damping, minimum=0)
        for name in ("rtol", "progress_rtol", "warm_start", "tolerance"):
            checks.number(name, getattr(self, name), minimum=0, below=1)
        for name in ("adapt_damping", "forcing"):
            checks.boolean(name, getattr(self, name))

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` where each step has data of its own: a step begins with the gradient that the last one ended with."""
        if problem.data_depend_on_params:
            raise ValueError(
                "NewtonCG goes on from the gradient of its last step, and here each inner step collects data anew. Choose "
                "algorithm=imaml, or algorithm/inner=backtracking_descent or gradient_descent."
            )

    def start(self, inner: InnerProblem, phi: Params) -> NewtonState:
        """At phi."""
        point = inner.at(detached(phi))
        gradient = ravel(point.gradient())
        norm = torch.linalg.vector_norm(gradient, dim=1)
        nothing, nobody = torch.zeros_like(norm), torch.zeros_like(norm, dtype=torch.bool)
        return NewtonState(
            params=point.params,
            value=point.value,
            gradient=gradient,
            norm=norm,
            first_norm=norm,
            damping=torch.full_like(norm, self.damping),
            last_direction=torch.zeros_like(gradient),
            running=~nobody,
            cg_steps=nothing,
            backtracks=nothing,
            negative_curvature=nobody,
        )

    def step(self, inner: InnerProblem, state: NewtonState, number: int | Tensor) -> NewtonState:
        """One Newton step, without graph, of the tasks that have not ended."""
        norm, first, damping = state.norm, state.first_norm, state.damping
        phi, value, gradient = state.params, state.value, state.gradient
        if inner.problem.data_depend_on_params:
            point = inner.at(phi)
            value, gradient = point.value, ravel(point.gradient())
        running = state.running & ~((norm <= self.tolerance * first.clamp_min(1)) & norm.isfinite())
        if may_read_values(norm) and not running.any():
            return replace(state, running=running)
        model = inner.curvature(phi, self.curvature)
        model = model.shifted(inner.regulariser.hessian_diagonal(phi))
        rtol = (norm / first).sqrt().clamp_max(0.5) if self.forcing else self.rtol
        result = conjugate_gradient(
            model.shifted(damping[:, None]),
            -gradient,
            max_steps=self.cg_steps,
            rtol=rtol,
            start=self.warm_start * state.last_direction if self.warm_start else None,
            progress_rtol=self.progress_rtol,
        )
        direction = result.solution
        descent = (gradient * direction).sum(1)
        descends = descent < 0  # false, too, of a direction that is not finite
        direction = torch.where(descends[:, None], direction, -gradient)
        descent = torch.where(descends, descent, -(norm**2))

        def along(length: Tensor) -> Params:
            return unravel(ravel(phi) + length[:, None] * direction, phi)

        length, end, gained = search(inner, value, along, descent, self.max_backtracks, running)
        if self.adapt_damping:
            predicted = descent + 0.5 * (direction * model.apply(direction)).sum(1)
            ratio = gained / torch.where(predicted != 0, predicted, 1)
            damping = torch.where(ratio < 0.25, 1.5 * damping, torch.where(ratio > 0.75, damping / 1.5, damping))
        damping = torch.where(running & (length == 0), 4 * damping + 1e-3, damping)
        gradient = torch.where(running[:, None], ravel(end.gradient()), gradient)
        halvings = torch.where(length > 0, length.log2(), -float(self.max_backtracks))
        return NewtonState(
            params=end.params,
            value=end.value,
            gradient=gradient,
            norm=torch.linalg.vector_norm(gradient, dim=1),
            first_norm=first,
            damping=damping,
            last_direction=direction,
            running=running,
            cg_steps=state.cg_steps + running * result.steps,
            backtracks=state.backtracks - running * halvings,
            negative_curvature=state.negative_curvature | (running & (result.status == Status.NEGATIVE_CURVATURE)),
        )

    def solution(self, inner: InnerProblem, state: NewtonState, steps: int) -> InnerSolution:
        """phi, without graph.

        `inner/residual` [B] is the final gradient's norm over the first's, 0 where both are within `tolerance`;
        `inner/cg_steps` and `inner/backtracks` are means over the Newton steps; `inner/negative_curvature` says whether any
        was met.
        """
        if steps == 0:
            return InnerSolution(state.params, {})
        stats = {
            "inner/residual": relative_norm(state.norm, state.first_norm, self.tolerance),
            "inner/cg_steps": state.cg_steps / steps,
            "inner/backtracks": state.backtracks / steps,
            "inner/negative_curvature": state.negative_curvature,
        }
        return InnerSolution(state.params, stats, state.first_norm)
