"""Meta-gradient that takes the inner Jacobian for the identity (first-order MAML)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import Episode, InnerSolution, Jacobian, TaskGradients
from metarun.maths.trees import Params, detached, gradient


@dataclass(frozen=True)
class FirstOrder:
    """The query gradient at phi.

    Source: Finn et al. 2017, section 5.2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"minimum"})
    gives: ClassVar[frozenset[str]] = frozenset({"gradient", "jacobian"})

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """No graph through the inner solver is kept."""
        adapted = adapt_and_differentiate(theta, episode)
        return TaskGradients(adapted.slope, adapted.query_loss, adapted.params, adapted.solution.stats)

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> Jacobian:
        """The identity."""
        return Jacobian(push=lambda vectors: vectors, pull=lambda vectors: vectors)

    def advice(self, means: Mapping[str, float]) -> None:
        """Nothing to warn of."""
        return


@dataclass(frozen=True)
class AdaptedQuery:
    """phi without graph (`params`: adapted and frozen leaves), the query losses [B] there and their gradients [B, ...]."""

    inner: InnerProblem
    solution: InnerSolution
    params: Params
    query_loss: Tensor
    slope: Params


def adapt_and_differentiate(theta: Params, episode: Episode) -> AdaptedQuery:
    """Adapt without graph and differentiate the query losses at phi, in every leaf of the model."""
    inner, solution = episode.solve(detached(theta))
    params = detached(solution.params | inner.frozen)
    losses = []

    def judged(phi: Params) -> Tensor:
        losses.append(episode.judge(phi))
        return losses[0]

    slope = gradient(judged, params)
    return AdaptedQuery(inner, solution, params, losses[0].detach(), slope)
