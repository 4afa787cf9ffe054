"""Inner solver: a fixed number of gradient steps."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import InnerSolution
from metarun.maths.trees import Params, axpy, norm_per_task, relative_norm
from metarun.problems.base import Problem


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """phi <- phi - step_size * gradient of the inner objective, `steps` times from theta.

    With a proximal weight in the inner problem this is the proximal descent of iMAML; without one it is MAML's inner loop.

    Attributes:
        steps: number of steps in training, >= 0.
        step_size: alpha > 0, for losses that are means over examples.
        eval_steps: evaluation measures after each of these numbers of steps; the last is the one that counts.
        proximal: "every_step", or "pull_back": the steps descend the support loss alone, and one more step of the same size
            descends the proximal term alone, as in iMAML's released code. The result is then no stationary point.
    Source: Finn et al. 2017, equation 1; Rajeswaran et al. 2019, section 3.
    """

    steps: int
    step_size: float
    eval_steps: Sequence[int]
    proximal: Literal["every_step", "pull_back"] = "every_step"
    learns: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.steps("eval_steps", self.eval_steps)
        checks.one_of("proximal", self.proximal, ("every_step", "pull_back"))

    @property
    def offers(self) -> frozenset[str]:
        """Everything; a pull-back is no step like the others."""
        every = frozenset({"graph", "iterates", "fixed rates", "minimum"})
        return every if self.proximal == "every_step" else every - {"iterates", "fixed rates"}

    def check(self, problem: Problem, adapted: Params) -> None:
        """Fits every problem."""

    def meta_parameters(self, adapted: Params) -> Params:
        """None."""
        return {}

    def iterates(self, inner: InnerProblem, learned: Params, steps: int) -> Iterator[Params]:
        """phi after each step."""
        for phi, _ in self._steps(inner, steps):
            yield phi

    def solve(self, inner: InnerProblem, learned: Params, steps: int | None = None) -> InnerSolution:
        """Adapt every task. `inner/last_step` [B]: the norm of the gradient of the last step over that of the first.

        It costs nothing and is not the gradient at phi, which no step has asked for; with one step it is 1.
        """
        return last_of(self._steps(inner, self.steps if steps is None else steps), inner.anchor)

    def _steps(self, inner: InnerProblem, steps: int) -> Iterator[tuple[Params, Params]]:
        """Each phi with the gradient that led to it; a pull-back comes last, with that of the proximal term."""
        phi = inner.anchor
        pulls_back = self.proximal == "pull_back" and steps > 0
        for _ in range(steps):
            slope = inner.loss_gradient(phi) if pulls_back else inner.gradient(phi)
            phi = axpy(-self.step_size, slope, phi)
            yield phi, slope
        if pulls_back:
            slope = inner.pull(phi)
            yield axpy(-self.step_size, slope, phi), slope


def last_of(path: Iterable[tuple[Params, Params]], anchor: Params) -> InnerSolution:
    """The end of a path of (phi, the gradient that led there), with its `inner/last_step`; the anchor if there are no steps."""
    phi, first, last = anchor, None, None
    for step in path:
        phi, last = step
        first = last if first is None else first
    if first is None:
        return InnerSolution(phi, {})
    with torch.no_grad():
        norm = norm_per_task(first)
        return InnerSolution(phi, {"inner/last_step": relative_norm(norm_per_task(last), norm)}, norm)
