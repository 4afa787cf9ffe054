"""How far to move: the line search of inner solvers."""

from collections.abc import Callable

import torch
from torch import Tensor

from metarun.algorithm.inner_problem import Point
from metarun.maths.line_search import backtrack


def search(
    start: Point,
    move: Callable[[Tensor], Point],
    descent: Tensor,
    max_backtracks: int,
    running: Tensor | None = None,
    sufficient_decrease: float = 1e-4,
) -> tuple[Tensor, Point, Tensor]:
    """Move as far as the inner objective falls enough (`backtrack`).

    Args:
        move: the point at step lengths [B]; 1 is tried first.
        descent: the objective's derivative at the start, along the way, [B].
        running: which tasks move at all, [B]; all without it.
        sufficient_decrease: Armijo's constant.
    Returns:
        Step lengths [B], 0 where none was accepted; the point there; by how much a whole step would change the objective, [B].
    """
    moving = torch.ones_like(descent, dtype=torch.bool) if running is None else running
    tried, point = None, start

    def value(length: Tensor) -> Tensor:
        nonlocal tried, point
        tried = torch.where(moving, length, 0)
        point = move(tried)
        # A task that has ended asks for nothing more, and a step into overflow is a step too long.
        return torch.where(moving, point.value, start.value).nan_to_num(nan=torch.inf)

    derivative = torch.where(moving, descent, 0)
    length, at_one = backtrack(
        value, start.value, derivative, max_backtracks=max_backtracks, sufficient_decrease=sufficient_decrease
    )
    length = torch.where(moving, length, 0)
    if tried is None or not torch.equal(length, tried):
        point = move(length)
    return length, point, at_one - start.value
