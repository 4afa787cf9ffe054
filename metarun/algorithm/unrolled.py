"""Meta-gradient by differentiation through the inner solver's steps (MAML)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun.algorithm.parts import Episode, MetaEstimate
from metarun.maths.trees import Params, detached


@dataclass(frozen=True)
class Unrolled:
    """The exact gradient of the mean query loss at the solver's last iterate; memory grows with the number of inner steps.

    Source: Finn et al. 2017, algorithm 2.
    """

    needs_differentiable_solver: ClassVar[bool] = True
    needs_proximal_term: ClassVar[bool] = False

    def estimate(self, theta: Params, episode: Episode) -> MetaEstimate:
        """One backward pass through everything."""
        leaves = detached(theta, requires_grad=True)
        solution = episode.solve(leaves)
        losses = episode.judge(solution.params)
        gradients = torch.autograd.grad(losses.mean(), list(leaves.values()), materialize_grads=True)
        return MetaEstimate(dict(zip(leaves, gradients, strict=True)), losses.detach(), solution.stats)
