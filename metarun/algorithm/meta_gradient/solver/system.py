"""The implicit systems of B tasks, and what a solver of them is: a part of the implicit meta-gradient, to be swapped by itself."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from metarun.maths.cg import CGResult, finished, relative_residual
from metarun.maths.operators import LinearOperator


@dataclass(frozen=True)
class System:
    """B systems (C + identity * L) z = rhs, solved in units of L = diag(weight).

    In these units the matrix is A = identity * I + L^-1/2 C L^-1/2, with a number for L: identity * I + C / L. For conjugate
    gradients and MINRES that is preconditioning by L; zero steps give z = L^-1 rhs, the first-order meta-gradient.

    Attributes:
        curvature: C.
        weight: L > 0: one number, or [B, D].
        unit: what z is multiplied by to give the meta-gradient: L itself, unless the system has another one than the inner
            objective; z is scaled so that the meta-gradient is the solution in units of L.
        identity: > 0.
        positive: makes a curvature in C's place that is never indefinite.
        rhs: right-hand sides [B, D].
    """

    curvature: LinearOperator
    weight: float | Tensor
    unit: float | Tensor
    identity: float
    positive: Callable[[], LinearOperator]
    rhs: Tensor | None = None

    def with_rhs(self, rhs: Tensor) -> "System":
        """With other right-hand sides [B, D]."""
        return dataclasses.replace(self, rhs=rhs)

    @property
    def operator(self) -> LinearOperator:
        """A."""
        return self._in_units(self.curvature)

    @property
    def positive_operator(self) -> LinearOperator:
        """A with the curvature that is never indefinite."""
        return self._in_units(self.positive())

    @property
    def scaled_rhs(self) -> Tensor:
        """The right-hand sides in units of L."""
        assert self.rhs is not None, "a system is solved for right-hand sides"
        return self.rhs / self.weight.sqrt() if isinstance(self.weight, Tensor) else self.rhs

    def finished(self, result: CGResult) -> CGResult:
        """A solution in units of L as z."""
        solution = self.weight.sqrt() * result.solution if isinstance(self.weight, Tensor) else result.solution
        return dataclasses.replace(result, solution=solution / self.unit)

    def _in_units(self, curvature: LinearOperator) -> LinearOperator:
        if isinstance(self.weight, Tensor):
            return curvature.between(1 / self.weight.sqrt()).shifted(self.identity)
        return curvature.scaled(1 / self.weight).shifted(self.identity)


class LinearSolver(Protocol):
    """From systems to solutions z [B, D] with statistics, which are of the system in units of L.

    `residual_norm` is the true one, |b - A x| / |b|, at the price of one product.

    Attributes:
        sees_curvature: it measures the smallest curvature that it meets.
        fixes_inverse: `inverse` makes its products before it returns, so that it is linear and symmetric whatever they are; else
            it is as linear and as symmetric as they are.
    """

    sees_curvature: ClassVar[bool]
    fixes_inverse: ClassVar[bool]

    def solve(self, system: System) -> CGResult:
        """Solve all B systems; zero steps return L^-1 times the right-hand sides."""
        ...

    def inverse(self, system: System) -> LinearOperator:
        """One symmetric linear map in A^-1's place, in units of L, for whatever right-hand side: `solve` need not be linear.

        It costs as much as solving once. Of the system's own right-hand side it makes what `solve` does; zero steps leave each
        as it is.
        """
        ...


def measured(operator: LinearOperator, rhs: Tensor, result: CGResult) -> CGResult:
    """The result with the true residual in place of the recurrence's."""
    return finished(dataclasses.replace(result, residual_norm=relative_residual(operator, rhs, result.solution)))


def instead(first: CGResult, tried: Tensor, other: CGResult, good: Tensor | None = None) -> CGResult:
    """The `other` solutions for the systems that were `tried` again and came out `good`, [B]; the steps of both."""
    taken = tried if good is None else tried & good
    return CGResult(
        solution=torch.where(taken[:, None], other.solution, first.solution),
        steps=first.steps + torch.where(tried, other.steps, 0),
        residual_norm=torch.where(taken, other.residual_norm, first.residual_norm),
        min_curvature=first.min_curvature,
        status=first.status,
    )
