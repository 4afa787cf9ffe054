"""The implicit systems by MINRES, which needs no positive definite matrix."""

from dataclasses import dataclass
from typing import ClassVar

from metarun import checks
from metarun.algorithm.meta_gradient.solver.system import System, measured
from metarun.maths.cg import CGResult
from metarun.maths.lanczos import lanczos, least_residual
from metarun.maths.minres import minres
from metarun.maths.operators import LinearOperator


@dataclass(frozen=True, kw_only=True)
class Minres:
    """MINRES: for indefinite systems; as cheap as conjugate gradients.

    Attributes:
        steps: products, >= 0.
        rtol: a task stops when its residual is this small, relative to the query gradient.
    """

    steps: int
    rtol: float
    sees_curvature: ClassVar[bool] = True
    fixes_inverse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("rtol", self.rtol, minimum=0, below=1)

    def solve(self, system: System) -> CGResult:
        """Solve."""
        operator, rhs = system.operator, system.scaled_rhs
        result = minres(operator, rhs, max_steps=self.steps, rtol=self.rtol)
        return system.finished(measured(operator, rhs, result))

    def inverse(self, system: System) -> LinearOperator:
        """Symmetric: on the Krylov space of the right-hand sides (`least_residual`), and beyond it one over the identity's factor.

        Exact once the steps are as many as A has dimensions in which it is no multiple of the identity, and one more.
        """
        if self.steps == 0:
            return LinearOperator(lambda vectors: vectors)
        krylov = lanczos(system.operator, system.scaled_rhs, steps=self.steps)
        return krylov.completed(least_residual(krylov), 1 / system.identity)
