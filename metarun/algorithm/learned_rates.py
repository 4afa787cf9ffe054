"""Inner solver: gradient steps whose sizes are meta-learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from metarun import checks
from metarun.algorithm.gradient_descent import last_of
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import InnerSolution
from metarun.maths.trees import Params, against
from metarun.problems.base import Problem

RATES = ("parameter", "layer", "layer_and_step")


@dataclass(frozen=True, kw_only=True)
class LearnedRates:
    """phi <- phi - alpha * gradient, with an alpha for each parameter (Meta-SGD), each leaf, or each leaf and step (MAML++).

    The rates are free in sign and size. Only estimators that differentiate through the steps can learn them.

    Attributes:
        steps: number of steps in training, >= 1.
        step_size: every alpha at the start, > 0.
        eval_steps: evaluation measures after each of these numbers of steps.
        rates: "parameter", "layer" (one number for each leaf) or "layer_and_step"; steps past `steps` use the last step's.
    Source: Li et al. 2017, equation 2 (Meta-SGD); Antoniou et al. 2019, section 4 (per-layer per-step rates).
    """

    steps: int
    step_size: float
    eval_steps: Sequence[int]
    rates: Literal["parameter", "layer", "layer_and_step"]
    offers: ClassVar[frozenset[str]] = frozenset({"graph", "iterates", "minimum"})
    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.steps("eval_steps", self.eval_steps)
        checks.one_of("rates", self.rates, RATES)

    def check(self, problem: Problem, adapted: Params) -> None:
        """Fits every problem."""

    def meta_parameters(self, adapted: Params) -> Params:
        """`step_size/<leaf>`: as large as the leaf, a number, or `steps` numbers."""

        def shape(leaf: torch.Tensor) -> tuple[int, ...]:
            return {"parameter": tuple(leaf.shape), "layer": (), "layer_and_step": (self.steps,)}[self.rates]

        return {f"step_size/{name}": leaf.new_full(shape(leaf), self.step_size) for name, leaf in adapted.items()}

    def iterates(self, inner: InnerProblem, learned: Params, steps: int) -> Iterator[Params]:
        """phi after each step."""
        for phi, _ in self._steps(inner, learned, steps):
            yield phi

    def solve(self, inner: InnerProblem, learned: Params, steps: int | None = None) -> InnerSolution:
        """Adapt every task; `inner/last_step` as in `GradientDescent`."""
        return last_of(self._steps(inner, learned, self.steps if steps is None else steps), inner.anchor)

    def _steps(self, inner: InnerProblem, learned: Params, steps: int) -> Iterator[tuple[Params, Params]]:
        phi = inner.anchor
        rates = {name.removeprefix("step_size/"): leaf for name, leaf in learned.items()}
        for step in range(steps):
            slope = inner.gradient(phi)
            now = rates
            if self.rates == "layer_and_step":
                now = {name: leaf[:, min(step, self.steps - 1)] for name, leaf in rates.items()}
            now = against(now, phi)
            phi = {name: leaf - now[name] * slope[name] for name, leaf in phi.items()}
            yield phi, slope
