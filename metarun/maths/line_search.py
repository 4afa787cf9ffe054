"""Backtracking on B functions at once."""

from collections.abc import Callable

import torch
from torch import Tensor


def backtrack(
    value: Callable[[Tensor], Tensor],
    at_zero: Tensor,
    derivative: Tensor,
    *,
    max_backtracks: int,
    shrink: float = 0.5,
    sufficient_decrease: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """The largest of 1, shrink, shrink^2, ... with value(a) <= value(0) + sufficient_decrease * a * derivative (Armijo).

    Each function stops on its own, and is asked for its value at the same length until all have stopped: the last call is
    made with the lengths that are returned, unless one found none. A few units of rounding are allowed, or near a minimum no
    step would ever be accepted.

    Args:
        value: maps step lengths [B] to values [B].
        at_zero: values without a step, [B].
        derivative: directional derivatives at zero, [B]; a descent direction has a negative one.
        max_backtracks: how many times a length may shrink.
    Returns:
        Lengths [B], 0 where none was accepted; and the values at length 1, [B].
    Source: Nocedal & Wright 2006, algorithm 3.1.
    """
    allowance = 4 * torch.finfo(at_zero.dtype).eps * at_zero.abs()
    length = torch.ones_like(at_zero)
    accepted = torch.zeros_like(at_zero, dtype=torch.bool)
    values = at_one = value(length)
    for tries in range(max_backtracks + 1):
        values = value(length) if tries else at_one
        accepted = accepted | (values <= at_zero + sufficient_decrease * length * derivative + allowance)
        if accepted.all():
            break
        length = torch.where(accepted, length, shrink * length)
    return torch.where(accepted, length, 0), at_one
