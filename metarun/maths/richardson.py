"""Richardson's iteration, and the Neumann series, which is the same with a step of one."""

import torch
from torch import Tensor

from metarun.maths.cg import CGResult, Status, finished, relative_residual
from metarun.maths.loops import repeat
from metarun.maths.operators import LinearOperator


def richardson(operator: LinearOperator, rhs: Tensor, *, max_steps: int, step_size: float) -> CGResult:
    """x <- x - step_size (A x - rhs), from x = rhs, for B systems at once.

    Converges when 0 < step_size < 2 / (largest eigenvalue) for a positive definite A. For A = I + M a step of one gives the
    partial sums of the Neumann series of (I + M)^-1 rhs, which diverge where an eigenvalue of M is >= 1.

    Args:
        operator: A; its rows must be independent.
        rhs: right-hand sides [B, D].
        max_steps: number of products, >= 0.
        step_size: > 0.
    Returns:
        CGResult; `residual_norm` is the true one, by one product more, and no status is ever CONVERGED.
    Source: Lorraine, Vicol and Duvenaud 2020, section 3 (Neumann); Grazzi et al. 2020, section 3 (fixed point).
    """
    solution = iterated(operator, rhs, max_steps=max_steps, step_size=step_size)
    relative = relative_residual(operator, rhs, solution)
    steps = torch.full((len(rhs),), max_steps, device=rhs.device)
    unknown, status = torch.full_like(relative, torch.inf), torch.full_like(steps, Status.MAX_STEPS)
    return finished(CGResult(solution, steps, relative, unknown, status))


def iterated(operator: LinearOperator, rhs: Tensor, *, max_steps: int, step_size: float) -> Tensor:
    """`richardson`'s solution alone: a polynomial of A times rhs, hence linear in it, and symmetric as A is."""

    def iterate(solution: Tensor, number: int | Tensor) -> Tensor:
        return solution + step_size * (rhs - operator.apply(solution))

    return repeat(iterate, rhs, max_steps)
