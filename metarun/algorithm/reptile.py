"""Reptile: theta moves towards the adapted parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.parts import Episode, TaskGradients
from metarun.maths.trees import Params, axpy, detached


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
    needs: ClassVar[frozenset[str]] = frozenset({"minimum"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        checks.number("scale", self.scale, minimum=0, exclusive=True)

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """Frozen leaves do not move."""
        inner, solution = episode.solve(detached(theta))
        moved = axpy(-1.0, detached(solution.params), inner.anchor)
        gradient = {name: leaf / self.scale for name, leaf in moved.items()}
        gradient |= {name: torch.zeros_like(leaf) for name, leaf in inner.frozen.items()}
        params = detached(solution.params | inner.frozen)
        with torch.no_grad():
            losses = episode.judge(params)
        return TaskGradients(gradient, losses, params, solution.stats)

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> None:
        """Not offered: nothing is differentiated."""
        return

    def advice(self, means: Mapping[str, float]) -> None:
        """Nothing to warn of."""
        return
