"""Inner solver: gradient steps that are shortened until the objective falls."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner.line_search import search
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution
from metarun.maths.trees import Params, against, axpy, detached, norm_per_task, relative_norm

_SUFFICIENT_DECREASE = 0.3
"""Armijo's constant c. On a parabola of curvature h steps up to 2 (1 - c) / h are accepted; with the usual 1e-4, which is
meant for Newton's steps, some close to 2 / h, that jump to the other side of the valley and hardly fall: 16 of them left
0.48 of the gradient at lambda 1e4, and leave 5e-7 with 0.3. Where a part of the steps is well below 1 / h it makes no
difference. Interpolated lengths do as well in half the passes, but depend on theta."""


@dataclass(frozen=True)
class Searched:
    """phi, and the objective and its gradient there; the first gradient's norm and the halvings so far, [B]."""

    params: Params
    value: Tensor
    gradient: Params
    first_norm: Tensor
    halvings: Tensor


@dataclass(frozen=True, kw_only=True)
class BacktrackingDescent:
    """Gradient descent whose every step is halved, for each task by itself, until the inner objective has fallen enough.

    A step of fixed size diverges once its task's curvature exceeds 2 / step_size, and the implicit meta-gradient, which takes
    the problem for solved, drives the curvature there: nets sharpen while they are trained. A searched step cannot diverge.
    The number of halvings is locally constant in theta, so the derivative of phi is that of steps of these sizes.

    Attributes:
        steps: number of steps in training, >= 0.
        step_size: alpha > 0, tried first in every step.
        max_backtracks: how many times a step may be halved; a task for which none of them will do stays where it is.
    Source: Nocedal & Wright 2006, algorithm 3.1 (Armijo's rule, with 0.3 in place of 1e-4).
    """

    steps: int
    step_size: float
    max_backtracks: int
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.integer("max_backtracks", self.max_backtracks, minimum=0)

    def start(self, inner: InnerProblem, phi: Params) -> Searched:
        """At phi."""
        point = inner.at(phi)
        gradient = point.gradient()
        norm = norm_per_task(detached(gradient))
        return Searched(point.params, point.value, gradient, norm, torch.zeros_like(norm))

    def step(self, inner: InnerProblem, state: Searched, number: int | Tensor) -> Searched:
        """One searched step."""
        value, gradient = state.value, state.gradient
        if inner.problem.data_depend_on_params:
            point = inner.at(state.params)
            value, gradient = point.value, point.gradient()
        norm = norm_per_task(detached(gradient))

        def along(length: Tensor) -> Params:
            rates = dict.fromkeys(state.params, -self.step_size * length)
            return axpy(against(rates, state.params), gradient, state.params)

        length, end, _ = search(
            inner,
            value,
            along,
            -self.step_size * norm**2,
            self.max_backtracks,
            sufficient_decrease=_SUFFICIENT_DECREASE,
        )
        halvings = state.halvings - torch.where(length > 0, length.log2(), -float(self.max_backtracks))
        return Searched(end.params, end.value, end.gradient(), state.first_norm, halvings)

    def solution(self, inner: InnerProblem, state: Searched, steps: int) -> InnerSolution:
        """phi, with a graph where theta has one.

        `inner/residual` [B] is the norm of the objective's gradient at phi over that at theta, for a backward pass more;
        `inner/backtracks` [B] the mean over the steps.
        """
        if steps == 0:
            return InnerSolution(state.params, {})
        gradient = inner.gradient(state.params) if inner.problem.data_depend_on_params else state.gradient
        left = relative_norm(norm_per_task(detached(gradient)), state.first_norm)
        stats = {"inner/residual": left, "inner/backtracks": state.halvings / steps}
        return InnerSolution(state.params, stats, state.first_norm)
