"""How far to move: the line search of inner solvers."""

from collections.abc import Callable

import torch
from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem, Point
from metarun.device.course import may_read_values
from metarun.maths.line_search import backtrack
from metarun.maths.trees import Params


def search(
    inner: InnerProblem,
    start: Tensor,
    along: Callable[[Tensor], Params],
    descent: Tensor,
    max_backtracks: int,
    running: Tensor | None = None,
    sufficient_decrease: float = 1e-4,
) -> tuple[Tensor, Point, Tensor]:
    """Move as far as the inner objective falls enough (`backtrack`).

    Args:
        start: the objective where the search begins, [B].
        along: phi at step lengths [B]; 1 is tried first.
        descent: the objective's derivative at the start, along the way, [B].
        running: which tasks move at all, [B]; all without it.
        sufficient_decrease: Armijo's constant.
    Returns:
        Step lengths [B], 0 where none was accepted; the point there; by how much a whole step would change the objective, [B].
    """
    moving = torch.ones_like(descent, dtype=torch.bool) if running is None else running
    # Where values are looked at, the point tried last is mostly the one that is taken, and its gradient costs no second pass.
    keeps = may_read_values(descent)
    tried, point = None, None

    def value(length: Tensor) -> Tensor:
        nonlocal tried, point
        length = torch.where(moving, length, 0)
        if keeps:
            tried, point = length, inner.at(along(length))
            found = point.value
        else:
            with torch.no_grad():
                found = inner.value(along(length))
        # A task that has ended asks for nothing more, and a step into overflow is a step too long.
        return torch.where(moving, found, start).nan_to_num(nan=torch.inf)

    derivative = torch.where(moving, descent, 0)
    length, at_one = backtrack(
        value, start, derivative, max_backtracks=max_backtracks, sufficient_decrease=sufficient_decrease
    )
    length = torch.where(moving, length, 0)
    if tried is None or point is None or not torch.equal(length, tried):
        point = inner.at(along(length))
    return length, point, at_one - start
