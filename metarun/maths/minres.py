"""MINRES for B symmetric systems at once: what conjugate gradients cannot do, indefinite matrices."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from metarun.maths.cg import REFRESH, CGResult, Status, binary_scale, finished
from metarun.maths.loops import repeat_refreshing
from metarun.maths.operators import LinearOperator

_SINGULAR = 0.75
"""The power of the machine's precision below which a diagonal entry, relative to the operator's size, is rounding: Lanczos
vectors lose their orthogonality, and at the end of the Krylov space some ten to a hundred units are left of a zero."""


def minres(operator: LinearOperator, rhs: Tensor, *, max_steps: int, rtol: float = 0.0) -> CGResult:
    """Solve A x = rhs from x = 0 by minimising the residual's norm over the Krylov space; A may be indefinite.

    Lanczos' recurrence with Givens rotations. A system is frozen when it has converged, or when the Krylov space is
    exhausted: then x is exact, or A is singular to the number format and x the least-squares solution, with the status
    NEGATIVE_CURVATURE. In long solves a system whose recurrence rounding has parted from the true residual begins anew, with
    that residual on the right.

    Args:
        operator: A, symmetric; its rows must be independent.
        rhs: right-hand sides [B, D]; every finite one is solved, as by `conjugate_gradient`.
        max_steps: largest number of products, >= 0; zero steps return the right-hand side, as `conjugate_gradient` does.
        rtol: stop when the residual's norm is <= rtol times the right-hand side's.
    Returns:
        CGResult; `min_curvature` is the smallest v'Av over the Lanczos vectors v.
    Source: Paige and Saunders 1975, section 6.
    """
    scale = binary_scale(rhs)[:, None]
    rhs = rhs / scale
    norm = torch.linalg.vector_norm(rhs, dim=1)
    steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    status = torch.where(norm.isfinite(), Status.MAX_STEPS, Status.NOT_FINITE)
    min_curvature = torch.full_like(norm, torch.inf)
    if max_steps == 0:
        return CGResult(scale * rhs, steps, torch.ones_like(norm), min_curvature, status)
    eps = torch.finfo(norm.dtype).eps
    threshold = max(rtol, eps) * norm

    def iterate(state: _Iteration, number: int | Tensor, refreshes: bool = False) -> _Iteration:
        residual, beta, cos, sin, cos_before, sin_before, now, before, way, way_before = state.recurrence
        status = state.status
        running = status == Status.MAX_STEPS
        product = operator.apply(now)
        alpha = (now * product).sum(1)
        min_curvature = torch.where(running, torch.minimum(state.min_curvature, alpha), state.min_curvature)
        size = torch.maximum(state.size, torch.linalg.vector_norm(product, dim=1))
        status = torch.where(running & ~(alpha.isfinite() & size.isfinite()), Status.NOT_FINITE, status)
        ahead = product - alpha[:, None] * now - beta[:, None] * before
        beta_ahead = torch.linalg.vector_norm(ahead, dim=1)
        # One column of the tridiagonal matrix, turned by the two rotations before and by its own.
        upper = sin_before * beta
        inner = -cos_before * beta
        middle = cos * inner + sin * alpha
        lower = sin * inner - cos * alpha
        diagonal = torch.hypot(lower, beta_ahead)
        solvable = diagonal > eps**_SINGULAR * size
        status = torch.where((status == Status.MAX_STEPS) & ~solvable, Status.NEGATIVE_CURVATURE, status)
        moved = status == Status.MAX_STEPS
        safe = torch.where(solvable, diagonal, 1)
        cos_ahead, sin_ahead = lower / safe, beta_ahead / safe
        new_way = (now - middle[:, None] * way - upper[:, None] * way_before) / safe[:, None]
        length = torch.where(moved, residual * cos_ahead, 0)
        solution = state.solution + length[:, None] * torch.where(moved[:, None], new_way, 0)
        residual = torch.where(moved, residual * sin_ahead, residual)
        new = ahead / torch.where(beta_ahead > 0, beta_ahead, 1)[:, None]
        recurrence = (residual, beta_ahead, cos_ahead, sin_ahead, cos, sin, new, now, new_way, way)
        if refreshes:
            left = rhs - operator.apply(solution)
            left_norm = torch.linalg.vector_norm(left, dim=1)
            parted = moved & (left_norm > 2 * residual)
            recurrence = tuple(
                torch.where(parted.view(-1, *[1] * (old.dim() - 1)), fresh, old)
                for fresh, old in zip(_start(left, left_norm), recurrence, strict=True)
            )
        return tested(_Iteration(status, state.steps + moved, solution, min_curvature, size, recurrence))

    def tested(state: _Iteration) -> _Iteration:
        converged = (state.status == Status.MAX_STEPS) & (state.recurrence[0] <= threshold)
        return replace(state, status=torch.where(converged, Status.CONVERGED, state.status))

    def ended(state: _Iteration) -> Tensor:
        return state.status != Status.MAX_STEPS

    nothing = torch.zeros_like(rhs)
    state = tested(_Iteration(status, steps, nothing, min_curvature, torch.zeros_like(norm), _start(rhs, norm)))
    refreshing = partial(iterate, refreshes=True)
    state = repeat_refreshing(iterate, refreshing, state, max_steps, every=REFRESH, ended=ended)
    relative = state.recurrence[0] / torch.where(norm > 0, norm, 1)
    return finished(CGResult(scale * state.solution, state.steps, relative, state.min_curvature, state.status))


@dataclass(frozen=True)
class _Iteration:
    """Between two steps. `status` MAX_STEPS is: still running; `size` is the largest |Av| met; `recurrence` as of `_start`."""

    status: Tensor
    steps: Tensor
    solution: Tensor
    min_curvature: Tensor
    size: Tensor
    recurrence: tuple[Tensor, ...]


def _start(residual: Tensor, norm: Tensor) -> tuple[Tensor, ...]:
    """The recurrence's state before its first step: see the loop for the names."""
    zero, nothing = torch.zeros_like(norm), torch.zeros_like(residual)
    first = residual / torch.where(norm > 0, norm, 1)[:, None]
    return norm.clone(), zero, zero - 1, zero, zero - 1, zero, first, nothing, nothing, nothing
