"""Meta-gradient that takes the inner Jacobian for the identity (first-order MAML)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarun.algorithm.parts import Episode, InnerSolution, MetaEstimate
from metarun.maths.trees import Params, detached, gradient, mean_over_tasks


@dataclass(frozen=True)
class FirstOrder:
    """The mean over tasks of the query gradient at phi.

    Source: Finn et al. 2017, section 5.2.
    """

    needs_differentiable_solver: ClassVar[bool] = False
    needs_proximal_term: ClassVar[bool] = False

    def estimate(self, theta: Params, episode: Episode) -> MetaEstimate:
        """No graph through the inner solver is kept."""
        solution, losses, slope = adapt_and_differentiate(theta, episode)
        return MetaEstimate(mean_over_tasks(slope), losses, solution.stats)


def adapt_and_differentiate(theta: Params, episode: Episode) -> tuple[InnerSolution, Tensor, Params]:
    """phi without graph, the query losses [B] there, and their gradients in phi, leaves [B, ...]."""
    solution = episode.solve(detached(theta))
    losses = []

    def judged(phi: Params) -> Tensor:
        losses.append(episode.judge(phi))
        return losses[0]

    slope = gradient(judged, solution.params)
    return solution, losses[0].detach(), slope
