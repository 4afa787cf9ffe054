"""Conjugate gradients for B symmetric systems at once."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

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
    operator: LinearOperator, rhs: Tensor, *, max_steps: int, rtol: float = 0.0, early_exit: bool = True
) -> CGResult:
    """Solve A x = rhs, from x = 0, with each system stopping on its own.

    A system that has converged, or whose search direction has curvature <= 0, is frozen while the others go on. At
    negative curvature the present x is returned, or the right-hand side itself where there is none yet (Steihaug 1983);
    zero steps return the right-hand side too, so that a truncated implicit gradient falls back on the first-order one.
    The convergence test comes before the division, so a zero right-hand side gives zero.

    Args:
        operator: A, symmetric; its rows must be independent.
        rhs: right-hand sides [B, D].
        max_steps: largest number of products, >= 0.
        rtol: stop when the residual's norm is <= rtol times the right-hand side's.
        early_exit: leave the loop when all systems have stopped; asks the device for an answer after each step, so it is
            worth it on a CPU and not on a GPU.
    Returns:
        CGResult; finite wherever the operator's products are.
    Source: Hestenes & Stiefel 1952; Nocedal & Wright 2006, algorithms 5.2 and 7.1.
    """
    solution = torch.zeros_like(rhs)
    residual = rhs.clone()
    direction = rhs.clone()
    squared = _dot(residual, residual)
    rhs_squared = squared.clone()
    threshold = rtol**2 * rhs_squared
    steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    status = torch.full_like(steps, Status.MAX_STEPS)
    min_curvature = torch.full_like(squared, torch.inf)
    if max_steps == 0:
        ones = torch.ones_like(squared)
        return CGResult(rhs, steps, ones, min_curvature, status)

    for _ in range(max_steps):
        running = status == Status.MAX_STEPS
        converged = running & (squared <= threshold)
        status = torch.where(converged, Status.CONVERGED, status)
        running = running & ~converged
        if early_exit and not running.any():
            break
        product = operator.apply(direction)
        curvature = _dot(direction, product)
        length = _dot(direction, direction)
        rayleigh = curvature / torch.where(length > 0, length, 1)
        min_curvature = torch.where(running, torch.minimum(min_curvature, rayleigh), min_curvature)
        negative = running & (curvature <= 0)
        status = torch.where(negative, Status.NEGATIVE_CURVATURE, status)
        solution = torch.where((negative & (steps == 0))[:, None], rhs, solution)
        running = running & ~negative

        rate = torch.where(running, squared / torch.where(running, curvature, 1), 0)
        solution = torch.addcmul(solution, rate[:, None], direction)
        residual = torch.addcmul(residual, rate[:, None], product, value=-1)
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
