"""Inner solver: gradient steps that are shortened until the objective falls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem, Point, search
from metarun.algorithm.parts import InnerSolution
from metarun.maths.trees import Params, against, axpy, detached, norm_per_task, relative_norm
from metarun.problems.base import Problem

_SUFFICIENT_DECREASE = 0.3
"""Armijo's constant c. On a parabola of curvature h steps up to 2 (1 - c) / h are accepted; with the usual 1e-4, which is
meant for Newton's steps, some close to 2 / h, that jump to the other side of the valley and hardly fall: 16 of them left
0.48 of the gradient at lambda 1e4, and leave 5e-7 with 0.3. Where a part of the steps is well below 1 / h it makes no
difference. Interpolated lengths do as well in half the passes, but depend on theta."""


@dataclass(frozen=True, kw_only=True)
class BacktrackingDescent:
    """Gradient descent whose every step is halved, for each task by itself, until the inner objective has fallen enough.

    A step of fixed size diverges once its task's curvature exceeds 2 / step_size, and the implicit meta-gradient, which takes
    the problem for solved, drives the curvature there: nets sharpen while they are trained. A searched step cannot diverge.
    The number of halvings is locally constant in theta, so the derivative of phi is that of steps of these sizes.

    Attributes:
        steps: number of steps in training, >= 0.
        step_size: alpha > 0, tried first in every step.
        eval_steps: evaluation measures after each of these numbers of steps; the last is the one that counts.
        max_backtracks: how many times a step may be halved; a task for which none of them will do stays where it is.
    Source: Nocedal & Wright 2006, algorithm 3.1 (Armijo's rule, with 0.3 in place of 1e-4).
    """

    steps: int
    step_size: float
    eval_steps: Sequence[int]
    max_backtracks: int
    offers: ClassVar[frozenset[str]] = frozenset({"graph", "minimum"})
    learns: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.steps("eval_steps", self.eval_steps)
        checks.integer("max_backtracks", self.max_backtracks, minimum=0)

    def check(self, problem: Problem, adapted: Params) -> None:
        """Fits every problem."""

    def meta_parameters(self, adapted: Params) -> Params:
        """None."""
        return {}

    def solve(self, inner: InnerProblem, learned: Params, steps: int | None = None) -> InnerSolution:
        """Adapt every task, with a graph where the anchor has one.

        `inner/residual` [B] is the norm of the objective's gradient at phi over that at theta, for a backward pass more;
        `inner/backtracks` [B] the mean over the steps.
        """
        asked = self.steps if steps is None else steps
        if asked == 0:
            return InnerSolution(inner.anchor, {})
        point, norms, halvings = inner.at(inner.anchor), [], 0.0
        for _ in range(asked):
            slope = point.gradient()
            norms.append(norm_per_task(detached(slope)))

            def move(length: Tensor, phi: Params = point.params, slope: Params = slope) -> Point:
                rates = dict.fromkeys(phi, -self.step_size * length)
                return inner.at(axpy(against(rates, phi), slope, phi))

            descent = -self.step_size * norms[-1] ** 2
            length, point, _ = search(
                point, move, descent, self.max_backtracks, sufficient_decrease=_SUFFICIENT_DECREASE
            )
            halvings = halvings - torch.where(length > 0, length.log2(), -float(self.max_backtracks))
        left = relative_norm(norm_per_task(detached(point.gradient())), norms[0])
        return InnerSolution(point.params, {"inner/residual": left, "inner/backtracks": halvings / asked}, norms[0])
