"""The implicit systems by Richardson's iteration: Neumann series, fixed-point iteration."""

from dataclasses import dataclass
from typing import ClassVar

from metarun import checks
from metarun.algorithm.meta_gradient.solver.system import System
from metarun.maths.cg import CGResult
from metarun.maths.operators import LinearOperator
from metarun.maths.richardson import iterated, richardson


@dataclass(frozen=True, kw_only=True)
class Richardson:
    """x <- x - step_size (A x - v) from x = v; a step of one gives the Neumann series.

    Diverges unless 0 < step_size < 2 / (1 + h / lambda), h the largest curvature. With the inner solver's own step,
    `step_size = alpha lambda`, these are the fixed-point iterations of proximal gradient descent, differentiated backwards.

    Attributes:
        steps: products, >= 0.
        step_size: > 0.
    Source: Lorraine, Vicol and Duvenaud 2020; Grazzi et al. 2020.
    """

    steps: int
    step_size: float
    sees_curvature: ClassVar[bool] = False
    fixes_inverse: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)

    def solve(self, system: System) -> CGResult:
        """Solve."""
        return system.finished(
            richardson(system.operator, system.scaled_rhs, max_steps=self.steps, step_size=self.step_size)
        )

    def inverse(self, system: System) -> LinearOperator:
        """The iteration itself, a polynomial of A: as many products each time."""
        operator = system.operator
        return LinearOperator(
            lambda vectors: iterated(operator, vectors, max_steps=self.steps, step_size=self.step_size)
        )
