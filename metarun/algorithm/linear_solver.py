"""How the implicit system is solved: a part of the implicit meta-gradient, to be swapped by itself."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from metarun import checks
from metarun.errors import TrainingError
from metarun.maths.cg import CGResult, Status, conjugate_gradient, finished, relative_residual
from metarun.maths.minres import minres
from metarun.maths.operators import LinearOperator, dense
from metarun.maths.richardson import richardson

POLICIES = ("stop", "damp", "abs", "minres", "gauss_newton", "raise")
_MAX_TRIES = 5
_FIRST_DAMPING = 1e-3
_MAX_DENSE = 4000


@dataclass(frozen=True)
class System:
    """B systems `operator x = rhs`; `positive` builds the same systems with a curvature that is never indefinite."""

    operator: LinearOperator
    rhs: Tensor
    positive: Callable[[], LinearOperator]


class LinearSolver(Protocol):
    """From systems to solutions [B, D] with statistics. `sees_curvature`: it measures the smallest curvature it meets.

    `residual_norm` is the true one, |b - A x| / |b|, at the price of one product.
    """

    sees_curvature: ClassVar[bool]

    def solve(self, system: System) -> CGResult:
        """Solve all B systems; zero steps return the right-hand sides."""
        ...


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
        result = self._cg(system.operator, system.rhs)
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
            return _instead(result, failed, Minres(steps=self.steps, rtol=self.rtol).solve(system))
        if self.negative_curvature == "gauss_newton":
            return _instead(result, failed, self._cg(system.positive(), system.rhs))
        damping = 0.0
        for _ in range(_MAX_TRIES):
            damping = max(10 * damping, _FIRST_DAMPING)
            other = self._cg(system.operator.shifted(damping), system.rhs)
            fails_again = other.status == Status.NEGATIVE_CURVATURE
            result = _instead(result, failed, other, ~fails_again)
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
        return _measured(operator, rhs, result)


def _measured(operator: LinearOperator, rhs: Tensor, result: CGResult) -> CGResult:
    """The result with the true residual in place of the recurrence's."""
    return finished(dataclasses.replace(result, residual_norm=relative_residual(operator, rhs, result.solution)))


def _instead(first: CGResult, tried: Tensor, other: CGResult, good: Tensor | None = None) -> CGResult:
    """The `other` solutions for the systems that were `tried` again and came out `good`, [B]; the steps of both."""
    taken = tried if good is None else tried & good
    return CGResult(
        solution=torch.where(taken[:, None], other.solution, first.solution),
        steps=first.steps + torch.where(tried, other.steps, 0),
        residual_norm=torch.where(taken, other.residual_norm, first.residual_norm),
        min_curvature=first.min_curvature,
        status=first.status,
    )


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

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("rtol", self.rtol, minimum=0, below=1)

    def solve(self, system: System) -> CGResult:
        """Solve."""
        result = minres(system.operator, system.rhs, max_steps=self.steps, rtol=self.rtol)
        return _measured(system.operator, system.rhs, result)


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

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)

    def solve(self, system: System) -> CGResult:
        """Solve."""
        return richardson(system.operator, system.rhs, max_steps=self.steps, step_size=self.step_size)


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Form the matrices and factorise them: exact, for models of at most 4 000 parameters."""

    sees_curvature: ClassVar[bool] = True

    def solve(self, system: System) -> CGResult:
        """Solve.

        Raises:
            TrainingError: too many parameters.
        """
        num_tasks, size = system.rhs.shape
        if size > _MAX_DENSE:
            raise TrainingError(
                f"a dense solve is for at most {_MAX_DENSE} adapted parameters, got {size}. "
                "Choose algorithm/meta_gradient/solver=cg."
            )
        matrix = dense(system.operator, num_tasks, size, like=system.rhs)
        # Factorising an infinity or NaN is an error for the whole batch; such a task shall have the status alone.
        finite = matrix.isfinite().all(dim=2).all(dim=1)
        matrix = torch.where(finite[:, None, None], matrix, torch.eye(size, dtype=matrix.dtype, device=matrix.device))
        solution, singular = torch.linalg.solve_ex(matrix, system.rhs)
        relative = relative_residual(system.operator, system.rhs, solution)
        steps = torch.full((num_tasks,), size, device=system.rhs.device)
        status = torch.where(finite & (singular == 0), Status.CONVERGED, Status.NOT_FINITE)
        lowest = torch.linalg.eigvalsh(matrix)[:, 0]
        return finished(CGResult(solution, steps, relative, lowest, status))
