"""Inner solver: a fixed number of gradient steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution
from metarun.maths.trees import Params, axpy, detached, norm_per_task, relative_norm


@dataclass(frozen=True)
class Descent:
    """phi, the norm of the first step's gradient [B], and the gradient of the last step; zeros before there is one."""

    params: Params
    first_norm: Tensor
    last: Params

    @staticmethod
    def at(phi: Params) -> "Descent":
        """Before the first step."""
        last = {name: torch.zeros_like(leaf) for name, leaf in detached(phi).items()}
        leaf = next(iter(last.values()))
        return Descent(phi, leaf.new_zeros(len(leaf)), last)

    def stepped(self, params: Params, gradient: Params, number: int | Tensor) -> "Descent":
        """After step `number` along `gradient`."""
        first_norm = self.first_norm
        if isinstance(number, Tensor):
            first_norm = torch.where(number == 0, norm_per_task(detached(gradient)), first_norm)
        elif number == 0:
            first_norm = norm_per_task(detached(gradient))
        return Descent(params, first_norm, gradient)

    def solution(self, steps: int) -> InnerSolution:
        """With `inner/last_step` [B]: the norm of the gradient of the last step over that of the first.

        It costs nothing and is not the gradient at phi, which no step has asked for; with one step it is 1.
        """
        if steps == 0:
            return InnerSolution(self.params, {})
        with torch.no_grad():
            ratio = relative_norm(norm_per_task(self.last), self.first_norm)
        return InnerSolution(self.params, {"inner/last_step": ratio}, self.first_norm)


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """phi <- phi - step_size * gradient of the inner objective, `steps` times from theta.

    With a proximal weight in the inner problem this is the proximal descent of iMAML; without one it is MAML's inner loop.

    Attributes:
        steps: number of steps in training, >= 0.
        step_size: alpha > 0, for losses that are means over examples.
        proximal: "every_step", or "pull_back": the steps descend the support loss alone, and one more step of the same size
            descends the proximal term alone, as in iMAML's released code. The result is then no stationary point.
        eval_step_sizes: in evaluation, of the first step, the second, ...; the last is that of all later ones. None: `step_size`.
    Source: Finn et al. 2017, equation 1; Rajeswaran et al. 2019, section 3.
    """

    steps: int
    step_size: float
    proximal: Literal["every_step", "pull_back"] = "every_step"
    eval_step_sizes: Sequence[float] | None = None
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.one_of("proximal", self.proximal, ("every_step", "pull_back"))
        if self.eval_step_sizes is not None:
            checks.numbers("eval_step_sizes", self.eval_step_sizes, minimum=0, exclusive=True)

    @property
    def fixed_step_size(self) -> float | None:
        """alpha; None with a last step unlike the others."""
        return self.step_size if self.proximal == "every_step" else None

    def in_evaluation(self) -> "GradientDescent | ScheduledDescent":
        """With the step sizes of evaluation."""
        return self if self.eval_step_sizes is None else ScheduledDescent(self, tuple(self.eval_step_sizes))

    def start(self, inner: InnerProblem, phi: Params) -> Descent:
        """At phi."""
        return Descent.at(phi)

    def step(self, inner: InnerProblem, state: Descent, number: int | Tensor) -> Descent:
        """One gradient step."""
        phi = state.params
        gradient = inner.loss_gradient(phi) if self.proximal == "pull_back" else inner.gradient(phi)
        return state.stepped(axpy(-self.step_size, gradient, phi), gradient, number)

    def solution(self, inner: InnerProblem, state: Descent, steps: int) -> InnerSolution:
        """phi, pulled back where that is asked for; `inner/last_step` as `Descent.solution` has it."""
        if self.proximal == "pull_back" and steps > 0:
            pull = inner.regulariser.gradient(state.params)
            state = state.stepped(axpy(-self.step_size, pull, state.params), pull, steps)
        return state.solution(steps)


@dataclass(frozen=True)
class ScheduledDescent:
    """`descent` with a size for each step, the last one for all later ones; in evaluation alone."""

    descent: GradientDescent
    step_sizes: tuple[float, ...]
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = True

    @property
    def steps(self) -> int:
        """In training."""
        return self.descent.steps

    def start(self, inner: InnerProblem, phi: Params) -> Descent:
        """At phi."""
        return self.descent.start(inner, phi)

    def step(self, inner: InnerProblem, state: Descent, number: int | Tensor) -> Descent:
        """One gradient step of its size."""
        return self._sized(int(number)).step(inner, state, number)

    def solution(self, inner: InnerProblem, state: Descent, steps: int) -> InnerSolution:
        """phi; a pull-back is of the last step's size."""
        return self._sized(max(steps - 1, 0)).solution(inner, state, steps)

    def _sized(self, number: int) -> GradientDescent:
        return replace(self.descent, step_size=self.step_sizes[min(number, len(self.step_sizes) - 1)])
