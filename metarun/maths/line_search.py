"""Backtracking on B functions at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.device.course import is_rolled, may_read_values
from metarun.maths.loops import repeat


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
    step would ever be accepted. Where values may not decide what is done (`Course.STATIC`), all lengths are tried at once.

    Args:
        value: maps step lengths [B] to values [B]; lengths [L, B] to values [L, B] by `vmap`.
        at_zero: values without a step, [B].
        derivative: directional derivatives at zero, [B]; a descent direction has a negative one.
        max_backtracks: how many times a length may shrink.
    Returns:
        Lengths [B], 0 where none was accepted; and the values at length 1, [B].
    Source: Nocedal & Wright 2006, algorithm 3.1.
    """
    allowance = 4 * torch.finfo(at_zero.dtype).eps * at_zero.abs()

    def suffices(values: Tensor, length: Tensor) -> Tensor:
        return values <= at_zero + sufficient_decrease * length * derivative + allowance

    length = torch.ones_like(at_zero)
    if not (may_read_values(at_zero) or is_rolled()):
        lengths = shrink ** torch.arange(max_backtracks + 1, dtype=length.dtype, device=length.device)
        lengths = lengths[:, None].expand(-1, len(at_zero))
        values = torch.func.vmap(value)(lengths)
        accepted = suffices(values, lengths)
        first = accepted.to(torch.uint8).argmax(0)  # of equal ones the first
        length = torch.where(accepted.any(0), lengths.gather(0, first[None])[0], 0)
        return length, values[0]

    def tried(state: _Search, number: int | Tensor) -> _Search:
        length = torch.where(state.accepted, state.length, shrink**number)
        values = value(length)
        is_first = number == 0
        at_one = torch.where(is_first, values, state.at_one) if isinstance(is_first, Tensor) else state.at_one
        at_one = values if is_first is True else at_one
        return _Search(length, state.accepted | suffices(values, length), at_one)

    nothing = torch.zeros_like(length, dtype=torch.bool)
    state = repeat(tried, _Search(length, nothing, at_zero), max_backtracks + 1, ended=lambda state: state.accepted)
    return torch.where(state.accepted, state.length, 0), state.at_one


@dataclass(frozen=True)
class _Search:
    """Lengths tried last, whether they were accepted, and values at length 1; all [B]."""

    length: Tensor
    accepted: Tensor
    at_one: Tensor
