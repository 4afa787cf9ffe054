"""Inner solver: a fixed number of gradient steps."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution
from metarun.maths.trees import Params, axpy, norm_per_task, relative_norm


@dataclass(frozen=True)
class Descent:
    """phi, and the gradients of the first and the last step."""

    params: Params
    first: Params | None = None
    last: Params | None = None

    def stepped(self, params: Params, gradient: Params) -> "Descent":
        """After a step along `gradient`."""
        return Descent(params, gradient if self.first is None else self.first, gradient)

    def solution(self) -> InnerSolution:
        """With `inner/last_step` [B]: the norm of the gradient of the last step over that of the first.

        It costs nothing and is not the gradient at phi, which no step has asked for; with one step it is 1.
        """
        if self.first is None or self.last is None:
            return InnerSolution(self.params, {})
        with torch.no_grad():
            norm = norm_per_task(self.first)
            return InnerSolution(self.params, {"inner/last_step": relative_norm(norm_per_task(self.last), norm)}, norm)


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """phi <- phi - step_size * gradient of the inner objective, `steps` times from theta.

    With a proximal weight in the inner problem this is the proximal descent of iMAML; without one it is MAML's inner loop.

    Attributes:
        steps: number of steps in training, >= 0.
        step_size: alpha > 0, for losses that are means over examples.
        proximal: "every_step", or "pull_back": the steps descend the support loss alone, and one more step of the same size
            descends the proximal term alone, as in iMAML's released code. The result is then no stationary point.
    Source: Finn et al. 2017, equation 1; Rajeswaran et al. 2019, section 3.
    """

    steps: int
    step_size: float
    proximal: Literal["every_step", "pull_back"] = "every_step"
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.one_of("proximal", self.proximal, ("every_step", "pull_back"))

    @property
    def fixed_step_size(self) -> float | None:
        """alpha; None with a last step unlike the others."""
        return self.step_size if self.proximal == "every_step" else None

    def start(self, inner: InnerProblem, phi: Params) -> Descent:
        """At phi."""
        return Descent(phi)

    def step(self, inner: InnerProblem, state: Descent, number: int) -> Descent:
        """One gradient step."""
        phi = state.params
        gradient = inner.loss_gradient(phi) if self.proximal == "pull_back" else inner.gradient(phi)
        return state.stepped(axpy(-self.step_size, gradient, phi), gradient)

    def solution(self, inner: InnerProblem, state: Descent, steps: int) -> InnerSolution:
        """phi, pulled back where that is asked for; `inner/last_step` as `Descent.solution` has it."""
        if self.proximal == "pull_back" and steps > 0:
            pull = inner.regulariser.gradient(state.params)
            state = state.stepped(axpy(-self.step_size, pull, state.params), pull)
        return state.solution()
