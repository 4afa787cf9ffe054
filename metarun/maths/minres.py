"""MINRES for B symmetric systems at once: what conjugate gradients cannot do, indefinite matrices."""

import torch
from torch import Tensor

from metarun.maths.cg import CGResult, Status
from metarun.maths.course import may_ask
from metarun.maths.operators import LinearOperator


def minres(operator: LinearOperator, rhs: Tensor, *, max_steps: int, rtol: float = 0.0) -> CGResult:
    """Solve A x = rhs from x = 0 by minimising the residual's norm over the Krylov space; A may be indefinite.

    Lanczos' recurrence with Givens rotations. A system is frozen when it has converged, or when the Krylov space is
    exhausted (then x is exact).

    Args:
        operator: A, symmetric; its rows must be independent.
        rhs: right-hand sides [B, D].
        max_steps: largest number of products, >= 0; zero steps return the right-hand side, as `conjugate_gradient` does.
        rtol: stop when the residual's norm is <= rtol times the right-hand side's.
    Returns:
        CGResult; `min_curvature` is the smallest v'Av over the Lanczos vectors v.
    Source: Paige and Saunders 1975, section 6.
    """
    norm = torch.linalg.vector_norm(rhs, dim=1)
    steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    status = torch.full_like(steps, Status.MAX_STEPS)
    min_curvature = torch.full_like(norm, torch.inf)
    if max_steps == 0:
        return CGResult(rhs, steps, torch.ones_like(norm), min_curvature, status)
    zero, tiny = torch.zeros_like(norm), torch.finfo(norm.dtype).eps * norm
    solution, residual = torch.zeros_like(rhs), norm.clone()
    before, now = torch.zeros_like(rhs), rhs / torch.where(norm > 0, norm, 1)[:, None]
    beta = zero
    # Givens rotations of the last two steps, and the last two search directions.
    cos, sin, cos_before, sin_before = zero - 1, zero, zero - 1, zero
    way, way_before = torch.zeros_like(rhs), torch.zeros_like(rhs)
    for _ in range(max_steps):
        running = (status == Status.MAX_STEPS) & (residual > torch.maximum(rtol * norm, tiny))
        status = torch.where((status == Status.MAX_STEPS) & ~running, Status.CONVERGED, status)
        if may_ask(rhs) and not running.any():
            break
        product = operator.apply(now)
        alpha = (now * product).sum(1)
        min_curvature = torch.where(running, torch.minimum(min_curvature, alpha), min_curvature)
        ahead = product - alpha[:, None] * now - beta[:, None] * before
        beta_ahead = torch.linalg.vector_norm(ahead, dim=1)
        # One column of the tridiagonal matrix, turned by the two rotations before and by its own.
        upper = sin_before * beta
        inner = -cos_before * beta
        middle = cos * inner + sin * alpha
        lower = sin * inner - cos * alpha
        diagonal = torch.hypot(lower, beta_ahead)
        solvable = diagonal > tiny / torch.where(norm > 0, norm, 1)
        safe = torch.where(solvable, diagonal, 1)
        cos_before, sin_before = cos, sin
        cos, sin = lower / safe, beta_ahead / safe
        new_way = (now - middle[:, None] * way - upper[:, None] * way_before) / safe[:, None]
        moved = running & solvable
        length = torch.where(moved, residual * cos, 0)
        solution = solution + length[:, None] * torch.where(moved[:, None], new_way, 0)
        residual = torch.where(moved, residual * sin, residual)
        way_before, way = way, new_way
        before, now, beta = now, ahead / torch.where(beta_ahead > 0, beta_ahead, 1)[:, None], beta_ahead
        steps = steps + moved
    converged = (status == Status.MAX_STEPS) & (residual <= torch.maximum(rtol * norm, tiny))
    status = torch.where(converged, Status.CONVERGED, status)
    return CGResult(solution, steps, residual / torch.where(norm > 0, norm, 1), min_curvature, status)
