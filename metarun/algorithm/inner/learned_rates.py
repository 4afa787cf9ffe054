"""Inner solver: gradient steps whose sizes are meta-learned."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from metarun import checks
from metarun.algorithm.inner.gradient_descent import Descent
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution
from metarun.maths.trees import Params, against

RATES = ("parameter", "layer", "layer_and_step")
_STEP_SIZE = "step_size/"


@dataclass(frozen=True, kw_only=True)
class LearnedRates:
    """phi <- phi - alpha * gradient, with an alpha for each parameter (Meta-SGD), each leaf, or each leaf and step (MAML++).

    The rates are free in sign and size. Only estimators that differentiate through the steps can learn them.

    Attributes:
        steps: number of steps in training, >= 1.
        step_size: every alpha at the start, > 0.
        rates: "parameter", "layer" (one number for each leaf) or "layer_and_step"; steps past `steps` use the last step's.
    Source: Li et al. 2017, equation 2 (Meta-SGD); Antoniou et al. 2019, section 4 (per-layer per-step rates).
    """

    steps: int
    step_size: float
    rates: Literal["parameter", "layer", "layer_and_step"]
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.one_of("rates", self.rates, RATES)

    def meta_parameters(self, start: Params) -> Params:
        """`step_size/<leaf>`: as large as the leaf, a number, or `steps` numbers."""

        def shape(leaf: torch.Tensor) -> tuple[int, ...]:
            return {"parameter": tuple(leaf.shape), "layer": (), "layer_and_step": (self.steps,)}[self.rates]

        return {_STEP_SIZE + name: leaf.new_full(shape(leaf), self.step_size) for name, leaf in start.items()}

    def start(self, inner: InnerProblem, phi: Params) -> Descent:
        """At phi."""
        return Descent.at(phi)

    def step(self, inner: InnerProblem, state: Descent, number: int | torch.Tensor) -> Descent:
        """One gradient step of the sizes learned for it."""
        phi, gradient = state.params, inner.gradient(state.params)
        rates = {name: inner.theta.solver[_STEP_SIZE + name] for name in phi}
        if self.rates == "layer_and_step":
            rates = {name: self._of_step(leaf, number) for name, leaf in rates.items()}
        rates = against(rates, phi)
        return state.stepped(
            {name: leaf - rates[name] * gradient[name] for name, leaf in phi.items()}, gradient, number
        )

    def solution(self, inner: InnerProblem, state: Descent, steps: int) -> InnerSolution:
        """phi; `inner/last_step` as `Descent.solution` has it."""
        return state.solution(steps)

    def _of_step(self, rates: torch.Tensor, number: int | torch.Tensor) -> torch.Tensor:
        """Those of one step, [B], out of those of all, [B, steps]."""
        if isinstance(number, torch.Tensor):  # in a rolled loop
            return rates.index_select(1, number.clamp(max=self.steps - 1)[None])[:, 0]
        return rates[:, min(number, self.steps - 1)]
