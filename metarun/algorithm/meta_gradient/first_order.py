"""Meta-gradient that takes the inner Jacobian for the identity (first-order MAML)."""

from dataclasses import dataclass
from typing import ClassVar

from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import need_descent
from metarun.algorithm.protocols import InnerSolver, Jacobian
from metarun.algorithm.proximal import ProximalTerm
from metarun.maths.trees import Params


@dataclass(frozen=True)
class FirstOrder:
    """The query gradient at phi.

    Source: Finn et al. 2017, section 5.2.
    """

    is_gradient: ClassVar[bool] = True
    learns_solver: ClassVar[bool] = False
    learns_regulariser: ClassVar[bool] = False
    jacobian_has_fixed: ClassVar[bool] = True
    jacobian_is_linear: ClassVar[bool] = True

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` unless the solver descends from theta."""
        need_descent("FirstOrder", solver)

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """No graph through the inner solver is kept."""
        solution = bilevel.solve()
        losses, gradient = bilevel.query_gradient(solution.params)
        return TaskGradients.of(bilevel, gradient, losses, solution.params, solution.stats)

    def jacobian(self, bilevel: Bilevel, phi: Params) -> Jacobian:
        """The identity."""
        return Jacobian(push=lambda vectors: vectors, pull=lambda vectors: vectors)
