"""No meta-learning: theta stays as it started."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun.algorithm.parts import Episode, TaskGradients
from metarun.maths.trees import Params, detached


@dataclass(frozen=True)
class NoGradient:
    """Zero, for every meta-parameter: the baseline that learns each test task from a random start."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"inner", "proximal_weight"})

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """The query losses are those after adaptation."""
        inner, solution = episode.solve(detached(theta))
        params = detached(solution.params | inner.frozen)
        with torch.no_grad():
            losses = episode.judge(params)
        return TaskGradients(
            {name: torch.zeros_like(leaf) for name, leaf in theta.items()}, losses, params, solution.stats
        )

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> None:
        """Not offered."""
        return

    def advice(self, means: Mapping[str, float]) -> None:
        """Nothing to warn of."""
        return
