"""Reptile: theta moves towards the adapted parameters."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import need_descent
from metarun.algorithm.protocols import InnerSolver
from metarun.algorithm.proximal import ProximalTerm
from metarun.maths.trees import axpy, detached


@dataclass(frozen=True, kw_only=True)
class Reptile:
    """(theta - phi) / scale, for each task; the query set is only looked at.

    With plain SGD of rate e and a scale of 1, theta <- theta + e mean(phi - theta). With the inner step size as scale it is the
    sum of the inner gradients, which suits Adam.

    Attributes:
        scale: > 0.
    Source: Nichol, Achiam and Schulman 2018, algorithm 2. Their inner loop is Adam on mini-batches; here it is whichever inner
        solver is chosen, on the whole support set.
    """

    scale: float
    is_gradient: ClassVar[bool] = False
    learns_solver: ClassVar[bool] = False
    learns_regulariser: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.number("scale", self.scale, minimum=0, exclusive=True)

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` unless the solver descends from theta."""
        need_descent("Reptile", solver)

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """Leaves that are not adapted do not move."""
        solution = bilevel.solve()
        moved = axpy(-1.0, detached(solution.params), bilevel.inner.start)
        with torch.no_grad():
            losses = bilevel.query_loss(solution.params)
        gradient = {name: leaf / self.scale for name, leaf in moved.items()}
        return TaskGradients.of(bilevel, gradient, losses, solution.params, solution.stats)
