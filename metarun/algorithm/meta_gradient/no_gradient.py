"""No meta-learning: theta stays as it started."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.protocols import InnerSolver
from metarun.algorithm.proximal import ProximalTerm


@dataclass(frozen=True)
class NoGradient:
    """Zero, for every meta-parameter: the baseline that learns each test task from a random start."""

    is_gradient: ClassVar[bool] = False
    learns_solver: ClassVar[bool] = True
    learns_regulariser: ClassVar[bool] = True

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Goes with every solver."""

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """The query losses are those after adaptation."""
        solution = bilevel.solve()
        with torch.no_grad():
            losses = bilevel.query_loss(solution.params)
        return TaskGradients.of(bilevel, {}, losses, solution.params, solution.stats)
