"""The implicit systems by factorising the matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun.algorithm.meta_gradient.solver.system import System
from metarun.errors import TrainingError
from metarun.maths.cg import CGResult, Status, finished, relative_residual
from metarun.maths.operators import dense

_MAX_DENSE = 4000


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Form the matrices and factorise them: exact, for models of at most 4 000 parameters."""

    sees_curvature: ClassVar[bool] = True

    def solve(self, system: System) -> CGResult:
        """Solve.

        Raises:
            TrainingError: too many parameters.
        """
        operator, rhs = system.operator, system.scaled_rhs
        num_tasks, size = rhs.shape
        if size > _MAX_DENSE:
            raise TrainingError(
                f"a dense solve is for at most {_MAX_DENSE} adapted parameters, got {size}. "
                "Choose algorithm/meta_gradient/solver=cg."
            )
        matrix = dense(operator, num_tasks, size, like=rhs)
        # Factorising an infinity or NaN is an error for the whole batch; such a task shall have the status alone.
        finite = matrix.isfinite().all(dim=2).all(dim=1)
        matrix = torch.where(finite[:, None, None], matrix, torch.eye(size, dtype=matrix.dtype, device=matrix.device))
        solution, singular = torch.linalg.solve_ex(matrix, rhs)
        relative = relative_residual(operator, rhs, solution)
        steps = torch.full((num_tasks,), size, device=rhs.device)
        status = torch.where(finite & (singular == 0), Status.CONVERGED, Status.NOT_FINITE)
        lowest = torch.linalg.eigvalsh(matrix)[:, 0]
        return system.finished(finished(CGResult(solution, steps, relative, lowest, status)))
