"""The implicit systems by conjugate gradients, and what to do where a matrix is not positive definite."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from metarun import checks
from metarun.algorithm.meta_gradient.solver.system import System, instead, measured
from metarun.errors import TrainingError
from metarun.maths.cg import CGResult, Status, conjugate_gradient
from metarun.maths.minres import minres
from metarun.maths.operators import LinearOperator

POLICIES = ("stop", "damp", "abs", "minres", "gauss_newton", "raise")
_MAX_TRIES = 5
_FIRST_DAMPING = 1e-3


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Conjugate gradients, and what to do where a matrix turns out not to be positive definite.

    Attributes:
        steps: CG steps; 0 gives the first-order gradient.
        rtol: a task stops when its residual is this small, relative to the query gradient.
        atol: or when it is this small in itself (iMAML's released code: 1e-5).
        negative_curvature: "stop" keeps what there is (at the first step the query gradient: first order); "damp" solves
            again with more and more of the identity added, at most five times; "abs" takes the curvature's absolute value;
            "minres" solves the indefinite system; "gauss_newton" solves with that curvature; "raise" ends the run.
    Source: Rajeswaran et al. 2019, algorithm 2; Nocedal & Wright 2006, section 7.1.
    """

    steps: int
    rtol: float
    atol: float
    negative_curvature: Literal["stop", "damp", "abs", "minres", "gauss_newton", "raise"]
    sees_curvature: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("rtol", self.rtol, minimum=0, below=1)
        checks.number("atol", self.atol, minimum=0)
        checks.one_of("negative_curvature", self.negative_curvature, POLICIES)

    def solve(self, system: System) -> CGResult:
        """Solve; `status` and `min_curvature` are those of the first try, whatever was done about it.

        `steps` counts those of all tries, and `residual_norm` is that of the solution returned, in the system it solves.

        Raises:
            TrainingError: negative curvature, where `negative_curvature` is "raise".
        """
        return system.finished(self._solve(system, system.operator, system.scaled_rhs))

    def _solve(self, system: System, operator: LinearOperator, rhs: Tensor) -> CGResult:
        result = self._cg(operator, rhs)
        failed = result.status == Status.NEGATIVE_CURVATURE
        # "stop" and "abs" ask nothing of the device; the others must know whether any task failed.
        if self.negative_curvature in ("stop", "abs") or not failed.any():
            return result
        if self.negative_curvature == "raise":
            raise TrainingError(
                f"the implicit system of {int(failed.sum())} of {len(failed)} tasks is not positive definite (smallest "
                f"curvature {result.min_curvature.min():.3g}). Choose algorithm.meta_gradient.curvature=gauss_newton, a larger "
                "algorithm.proximal_weight, or another algorithm.meta_gradient.solver.negative_curvature."
            )
        if self.negative_curvature == "minres":
            return instead(
                result, failed, measured(operator, rhs, minres(operator, rhs, max_steps=self.steps, rtol=self.rtol))
            )
        if self.negative_curvature == "gauss_newton":
            return instead(result, failed, self._cg(system.positive_operator, rhs))
        damping = 0.0
        for _ in range(_MAX_TRIES):
            damping = max(10 * damping, _FIRST_DAMPING)
            other = self._cg(operator.shifted(damping), rhs)
            fails_again = other.status == Status.NEGATIVE_CURVATURE
            result = instead(result, failed, other, ~fails_again)
            failed = failed & fails_again
            if not failed.any():
                break
        return result

    def _cg(self, operator: LinearOperator, rhs: Tensor) -> CGResult:
        result = conjugate_gradient(
            operator,
            rhs,
            max_steps=self.steps,
            rtol=self.rtol,
            atol=self.atol,
            absolute_curvature=self.negative_curvature == "abs",
        )
        return measured(operator, rhs, result)
