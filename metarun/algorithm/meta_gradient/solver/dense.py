"""The implicit systems by factorising the matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun.algorithm.meta_gradient.solver.system import System
from metarun.errors import TrainingError
from metarun.maths.cg import CGResult, Status, finished, relative_residual
from metarun.maths.lanczos import symmetric_inverse
from metarun.maths.operators import LinearOperator, dense

_MAX_DENSE = 4000


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Form the matrices and factorise them: exact, for models of at most 4 000 parameters."""

    sees_curvature: ClassVar[bool] = True
    fixes_inverse: ClassVar[bool] = True

    def solve(self, system: System) -> CGResult:
        """Solve.

        Raises:
            TrainingError: too many parameters.
        """
        operator, rhs = system.operator, system.scaled_rhs
        num_tasks, size = rhs.shape
        matrix = _matrix(system)
        # Factorising an infinity or NaN is an error for the whole batch; such a task shall have the status alone.
        finite = matrix.isfinite().all(dim=2).all(dim=1)
        matrix = torch.where(finite[:, None, None], matrix, torch.eye(size, dtype=matrix.dtype, device=matrix.device))
        solution, singular = torch.linalg.solve_ex(matrix, rhs)
        relative = relative_residual(operator, rhs, solution)
        steps = torch.full((num_tasks,), size, device=rhs.device)
        status = torch.where(finite & (singular == 0), Status.CONVERGED, Status.NOT_FINITE)
        lowest = torch.linalg.eigvalsh(matrix)[:, 0]
        return system.finished(finished(CGResult(solution, steps, relative, lowest, status)))

    def inverse(self, system: System) -> LinearOperator:
        """That of the matrix's symmetric part, formed once.

        Raises:
            TrainingError: too many parameters.
        """
        matrix = _matrix(system)
        inverse = symmetric_inverse((matrix + matrix.mT) / 2)
        return LinearOperator(lambda vectors: torch.einsum("bij,bj->bi", inverse, vectors))


def _matrix(system: System) -> Tensor:
    num_tasks, size = system.scaled_rhs.shape
    if size > _MAX_DENSE:
        raise TrainingError(
            f"a dense solve is for at most {_MAX_DENSE} adapted parameters, got {size}. "
            "Choose algorithm/meta_gradient/solver=cg."
        )
    return dense(system.operator, num_tasks, size, like=system.scaled_rhs)
