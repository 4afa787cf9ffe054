"""Conjugate gradients for B symmetric systems at once."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from metarun.maths.course import may_ask
from metarun.maths.operators import LinearOperator


class Status(IntEnum):
    """How a system ended."""

    MAX_STEPS = 0
    CONVERGED = 1
    NEGATIVE_CURVATURE = 2


@dataclass(frozen=True)
class CGResult:
    """`solution` [B, D]; `steps` [B]; `residual_norm` [B], relative to the right-hand side; `min_curvature` [B]; `status` [B].

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
    progress_rtol: float = 0.0,
    absolute_curvature: bool = False,
    early_exit: bool | None = None,
) -> CGResult:
    """Solve A x = rhs, from x = 0 or `start`, with each system stopping on its own.

    A system that has converged, or whose search direction has curvature <= 0, is frozen while the others go on. At
    negative curvature the present x is returned, or the right-hand side itself where there is none yet (Steihaug 1983);
    zero steps return the right-hand side too, so that a truncated implicit gradient falls back on the first-order one.
    The convergence test comes before the division, so a zero right-hand side gives zero.

    Args:
        operator: A, symmetric; its rows must be independent.
        rhs: right-hand sides [B, D].
        max_steps: largest number of products, >= 0.
        rtol: stop when the residual's norm is <= rtol times the right-hand side's; a number, or one for each system [B].
        atol: or when it is <= atol.
        start: first x, [B, D]; zero without it. Costs one product.
        progress_rtol: or when the last max(10, k/10) of k steps together lowered x'Ax/2 - x'rhs by less than this fraction,
            for each of them, of what all k did (0: never).
        absolute_curvature: go on at negative curvature with its absolute value, as saddle-free methods do; a curvature of
            exactly zero still stops.
        early_exit: leave the loop when all systems have stopped, which changes no bit; None: where the question is free
            (`may_ask`).
    Returns:
        CGResult; finite wherever the operator's products are.
    Source: Hestenes & Stiefel 1952; Nocedal & Wright 2006, algorithms 5.2 and 7.1; progress test: Martens 2010, section 4.4.
    """
    early_exit = may_ask(rhs) if early_exit is None else early_exit
    rhs_squared = _dot(rhs, rhs)
    steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    status = torch.full_like(steps, Status.MAX_STEPS)
    min_curvature = torch.full_like(rhs_squared, torch.inf)
    if max_steps == 0:
        return CGResult(rhs, steps, torch.ones_like(rhs_squared), min_curvature, status)
    solution = torch.zeros_like(rhs) if start is None else start
    residual = rhs.clone() if start is None else rhs - operator.apply(start)
    direction = residual.clone()
    squared = _dot(residual, residual)
    # A residual whose square underflows is zero: p'Ap would be zero too, and look like negative curvature.
    floor = max(atol**2, torch.finfo(rhs.dtype).tiny)
    threshold = torch.maximum(rtol**2 * rhs_squared, torch.full_like(rhs_squared, floor))
    lowered = torch.zeros_like(squared)  # by how much the steps so far lowered the quadratic
    history = [lowered]

    for step in range(max_steps):
        running = status == Status.MAX_STEPS
        converged = running & (squared <= threshold)
        window = max(10, step // 10)
        if progress_rtol and step >= window:
            gained = lowered - history[step - window]
            converged = converged | (running & (gained < window * progress_rtol * lowered))
        status = torch.where(converged, Status.CONVERGED, status)
        running = running & ~converged
        if early_exit and not running.any():
            break
        product = operator.apply(direction)
        curvature = _dot(direction, product)
        length = _dot(direction, direction)
        rayleigh = curvature / torch.where(length > 0, length, 1)
        min_curvature = torch.where(running, torch.minimum(min_curvature, rayleigh), min_curvature)
        if absolute_curvature:
            curvature = curvature.abs()
        negative = running & (curvature <= 0)
        status = torch.where(negative, Status.NEGATIVE_CURVATURE, status)
        if start is None:
            solution = torch.where((negative & (steps == 0))[:, None], rhs, solution)
        running = running & ~negative

        rate = torch.where(running, squared / torch.where(running, curvature, 1), 0)
        solution = torch.addcmul(solution, rate[:, None], direction)
        residual = torch.addcmul(residual, rate[:, None], product, value=-1)
        lowered = lowered + 0.5 * rate * squared
        history.append(lowered)
        new_squared = torch.where(running, _dot(residual, residual), squared)
        ratio = torch.where(running, new_squared / torch.where(running, squared, 1), 0)
        direction = torch.where(running[:, None], torch.addcmul(residual, ratio[:, None], direction), direction)
        squared = new_squared
        steps = steps + running

    converged = (status == Status.MAX_STEPS) & (squared <= threshold)
    status = torch.where(converged, Status.CONVERGED, status)
    relative = (squared / torch.where(rhs_squared > 0, rhs_squared, 1)).sqrt()
    return CGResult(solution, steps, relative, min_curvature, status)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=1)
