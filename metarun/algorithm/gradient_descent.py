"""Inner solver: a fixed number of gradient steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import InnerSolution
from metarun.maths.trees import axpy, norm_per_task


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """phi <- phi - step_size * gradient of the inner objective, `steps` times from theta.

    With a proximal weight in the inner problem this is the proximal descent of iMAML; without one it is MAML's inner loop.

    Attributes:
        steps: number of steps in training, >= 0.
        step_size: alpha > 0, for losses that are means over examples.
        eval_steps: evaluation measures after each of these numbers of steps; the last is the one that counts.
    Source: Finn et al. 2017, equation 1; Rajeswaran et al. 2019, section 3.
    """

    steps: int
    step_size: float
    eval_steps: Sequence[int]
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        if not self.eval_steps:
            raise ValueError("eval_steps must name at least one number of inner steps, got an empty list")
        for steps in self.eval_steps:
            checks.integer("eval_steps", steps, minimum=0)

    def solve(self, inner: InnerProblem, steps: int | None = None) -> InnerSolution:
        """Adapt every task. `inner/residual` [B] is the last gradient's norm over the first's: 0 at a stationary point."""
        steps = self.steps if steps is None else steps
        phi = inner.anchor
        first = last = None
        for _ in range(steps):
            gradient = inner.gradient(phi)
            phi = axpy(-self.step_size, gradient, phi)
            first, last = (gradient if first is None else first), gradient
        if first is None:
            return InnerSolution(phi, {})
        with torch.no_grad():
            initial = norm_per_task(first)
            residual = norm_per_task(last) / initial.clamp_min(torch.finfo(initial.dtype).tiny)
        return InnerSolution(phi, {"inner/residual": residual})
