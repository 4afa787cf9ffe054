"""Conjugate gradients for B symmetric systems at once."""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial

import torch
from torch import Tensor

from metarun.maths.loops import repeat_refreshing
from metarun.maths.operators import LinearOperator

REFRESH = 50
"""Steps after which rounding may have parted a recurrence's residual from the true one: it is computed anew."""


class Status(IntEnum):
    """How a system ended.

    NEGATIVE_CURVATURE: or none, up to rounding. NOT_FINITE: an infinity or no number was met on the way, or the solution is
    too large for the number format; it is returned as NaN, so that nothing made of it passes for a number.
    """

    MAX_STEPS = 0
    CONVERGED = 1
    NEGATIVE_CURVATURE = 2
    NOT_FINITE = 3


@dataclass(frozen=True)
class CGResult:
    """`solution` [B, D]; `steps` [B]; `residual_norm` [B], relative to the right-hand side; `min_curvature` [B]; `status` [B].

    `residual_norm` is what the solver's recurrence makes of it, which costs nothing; `relative_residual` is the true one.
    `min_curvature` is the smallest Rayleigh quotient p'Ap / p'p met; a value <= 0 proves that the matrix is not positive definite.
    """

    solution: Tensor
    steps: Tensor
    residual_norm: Tensor
    min_curvature: Tensor
    status: Tensor


def conjugate_gradient(
    operator: LinearOperator,
    rhs: Tensor,
    *,
    max_steps: int,
    rtol: float | Tensor = 0.0,
    atol: float = 0.0,
    start: Tensor | None = None,
    preconditioner: Tensor | None = None,
    progress_rtol: float = 0.0,
    absolute_curvature: bool = False,
    refresh_every: int = REFRESH,
) -> CGResult:
    """Solve A x = rhs, from x = 0 or `start`, with each system stopping on its own.

    A system that has converged, or whose search direction has curvature <= 0, is frozen while the others go on. Curvature
    below four times the machine's precision, relative to |Ap| / |p|, the largest met, is rounding: A is singular to the number
    format. At negative curvature the present x is returned, or the right-hand side itself where there is none yet (Steihaug 1983);
    zero steps return the right-hand side too, so that a truncated implicit gradient falls back on the first-order one.
    The convergence test comes before the division, so a zero right-hand side gives zero. Right-hand sides are brought to
    size one by powers of two, which rounds nothing: every finite one is solved, however large or small.

    Args:
        operator: A, symmetric; its rows must be independent.
        rhs: right-hand sides [B, D].
        max_steps: largest number of products, >= 0.
        rtol: stop when the residual's norm is <= rtol times the right-hand side's; a number, or one for each system [B].
        atol: or when it is <= atol.
        start: first x, [B, D]; zero without it. Costs one product.
        preconditioner: a positive diagonal S, [B, D] or [1, D], with S^2 near the inverse of A's diagonal. What is solved is
            S A S y = S rhs, and x = S y: the norms of residuals, and curvatures, are those in these coordinates.
        progress_rtol: or when the last max(10, k/10) of k steps together lowered x'Ax/2 - x'rhs by less than this fraction,
            for each of them, of what all k did (0: never).
        absolute_curvature: go on at negative curvature with its absolute value, as saddle-free methods do; a curvature of
            zero still stops.
        refresh_every: steps after which the residual is computed anew, for one product more (`REFRESH`).
    Returns:
        CGResult; finite but for systems with the status NOT_FINITE, as where |Ap| squared overflows. In long solves a system
        whose recurrence rounding has parted from the true residual goes on from that.
    Source: Hestenes & Stiefel 1952; Nocedal & Wright 2006, algorithms 5.2 and 7.1; Saad 2003, section 9.2.1 (preconditioning);
        progress test: Martens 2010, section 4.4.
    """
    if preconditioner is not None:
        operator, rhs = operator.between(preconditioner), preconditioner * rhs
        start = None if start is None else start / preconditioner
    scale = binary_scale(rhs)
    rhs = rhs / scale[:, None]
    rhs_squared = _dot(rhs, rhs)
    steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    status = torch.where(rhs_squared.isfinite(), Status.MAX_STEPS, Status.NOT_FINITE)
    min_curvature = torch.full_like(rhs_squared, torch.inf)
    if max_steps == 0:
        untouched = CGResult(scale[:, None] * rhs, steps, torch.ones_like(rhs_squared), min_curvature, status)
        return _back(untouched, preconditioner)
    solution = torch.zeros_like(rhs) if start is None else start / scale[:, None]
    residual = rhs.clone() if start is None else rhs - operator.apply(solution)
    squared = _dot(residual, residual)
    # A residual whose square underflows is zero: p'Ap would be zero too, and look like negative curvature.
    floor = (atol / scale).square().clamp_min(torch.finfo(rhs.dtype).tiny)
    threshold = torch.maximum(rtol**2 * rhs_squared, floor)
    rounding = 4 * torch.finfo(rhs.dtype).eps
    lowered = torch.zeros_like(squared)

    def tested(state: _Iteration, number: int | Tensor) -> _Iteration:
        """With the status of what has converged after `number` steps."""
        running = state.status == Status.MAX_STEPS
        converged = running & (state.squared <= threshold)
        history = state.history
        if history is not None:
            if not isinstance(number, Tensor):
                number = torch.full((), number, dtype=torch.int64, device=rhs.device)
            window = (number // 10).clamp_min(10)
            history = history.index_copy(0, number[None], state.lowered[None])
            gained = state.lowered - history.index_select(0, (number - window).clamp_min(0)[None])[0]
            hardly = (number >= window) & (gained < window * progress_rtol * state.lowered)
            converged = converged | (running & hardly)
        return replace(state, status=torch.where(converged, Status.CONVERGED, state.status), history=history)

    def iterate(state: _Iteration, number: int | Tensor, refreshes: bool = False) -> _Iteration:
        status, direction, residual, squared = state.status, state.direction, state.residual, state.squared
        running = status == Status.MAX_STEPS
        product = operator.apply(direction)
        curvature = _dot(direction, product)
        length = _dot(direction, direction)
        size = torch.maximum(state.size, (_dot(product, product) / torch.where(length > 0, length, 1)).sqrt())
        broken = running & ~(curvature.isfinite() & size.isfinite())
        status = torch.where(broken, Status.NOT_FINITE, status)
        running = running & ~broken
        rayleigh = curvature / torch.where(length > 0, length, 1)
        min_curvature = torch.where(running, torch.minimum(state.min_curvature, rayleigh), state.min_curvature)
        if absolute_curvature:
            curvature = curvature.abs()
        negative = running & (curvature <= rounding * size * length)
        status = torch.where(negative, Status.NEGATIVE_CURVATURE, status)
        solution = state.solution
        if start is None:
            solution = torch.where((negative & (state.steps == 0))[:, None], rhs, solution)
        running = running & ~negative

        rate = torch.where(running, squared / torch.where(running, curvature, 1), 0)
        solution = torch.addcmul(solution, rate[:, None], direction)
        residual = torch.addcmul(residual, rate[:, None], product, value=-1)
        if refreshes:
            left = rhs - operator.apply(solution)
            drift = left - residual
            parted = running & (_dot(drift, drift) > 0.25 * _dot(residual, residual))
            residual = torch.where(parted[:, None], left, residual)
        new_squared = torch.where(running, _dot(residual, residual), squared)
        ratio = torch.where(running, new_squared / torch.where(running, squared, 1), 0)
        after = _Iteration(
            status=status,
            steps=state.steps + running,
            solution=solution,
            residual=residual,
            direction=torch.where(running[:, None], torch.addcmul(residual, ratio[:, None], direction), direction),
            squared=new_squared,
            min_curvature=min_curvature,
            size=size,
            lowered=state.lowered + 0.5 * rate * squared,
            history=state.history,
        )
        return tested(after, number + 1)

    def ended(state: _Iteration) -> Tensor:
        return state.status != Status.MAX_STEPS

    state = _Iteration(
        status=status,
        steps=steps,
        solution=solution,
        residual=residual,
        direction=residual.clone(),
        squared=squared,
        min_curvature=min_curvature,
        size=torch.zeros_like(squared),
        lowered=lowered,
        history=lowered.expand(max_steps + 1, -1) if progress_rtol else None,
    )
    state = tested(state, 0)
    refreshing = partial(iterate, refreshes=True)
    state = repeat_refreshing(iterate, refreshing, state, max_steps, every=refresh_every, ended=ended)
    relative = (state.squared / torch.where(rhs_squared > 0, rhs_squared, 1)).sqrt()
    solution = scale[:, None] * state.solution
    return _back(finished(CGResult(solution, state.steps, relative, state.min_curvature, state.status)), preconditioner)


@dataclass(frozen=True)
class _Iteration:
    """Between two steps; tensors [B] and [B, D]. `status` MAX_STEPS is: still running.

    Attributes:
        squared: the residual's norm, squared.
        size: the largest |Ap| / |p| met.
        lowered: by how much the steps so far lowered the quadratic; `history`: after each of them, [steps + 1, B].
    """

    status: Tensor
    steps: Tensor
    solution: Tensor
    residual: Tensor
    direction: Tensor
    squared: Tensor
    min_curvature: Tensor
    size: Tensor
    lowered: Tensor
    history: Tensor | None


def _back(result: CGResult, preconditioner: Tensor | None) -> CGResult:
    """From preconditioned coordinates: x = S y."""
    return result if preconditioner is None else replace(result, solution=preconditioner * result.solution)


def binary_scale(vectors: Tensor) -> Tensor:
    """For each row the power of two that brings its largest entry to [1, 2): dividing by it is exact; 1 for 0, inf and NaN."""
    largest = vectors.abs().amax(dim=1)
    mantissa = torch.frexp(largest).mantissa
    return torch.where((largest > 0) & largest.isfinite(), largest / (2 * mantissa), 1)


def relative_residual(operator: LinearOperator, rhs: Tensor, solution: Tensor) -> Tensor:
    """|rhs - A x| / |rhs| of each system, [B], by one product; 0 where both are."""
    scale = binary_scale(rhs)[:, None]
    left = torch.linalg.vector_norm(rhs / scale - operator.apply(solution / scale), dim=1)
    norm = torch.linalg.vector_norm(rhs / scale, dim=1)
    return left / torch.where(norm > 0, norm, 1)


def finished(result: CGResult) -> CGResult:
    """The result, with NOT_FINITE and NaN for every system whose solution or residual is not finite."""
    finite = result.solution.isfinite().all(dim=1) & result.residual_norm.isfinite()
    finite = finite & (result.status != Status.NOT_FINITE)
    return CGResult(
        solution=torch.where(finite[:, None], result.solution, torch.nan),
        steps=result.steps,
        residual_norm=torch.where(finite, result.residual_norm, torch.nan),
        min_curvature=result.min_curvature,
        status=torch.where(finite, result.status, Status.NOT_FINITE),
    )


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=1)
