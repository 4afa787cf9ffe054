"""Meta-gradient by differentiation through the inner solver's steps (MAML)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun.algorithm.parts import Episode, Jacobian, TaskGradients
from metarun.maths.trees import Params, detached, ravel, unravel


@dataclass(frozen=True)
class Unrolled:
    """The exact gradient of the query loss at the solver's last iterate; memory grows with the number of inner steps.

    Source: Finn et al. 2017, algorithm 2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"graph"})
    gives: ClassVar[frozenset[str]] = frozenset({"gradient", "jacobian", "inner", "proximal_weight"})

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """One backward pass through everything."""
        leaves = detached(theta, requires_grad=True)
        inner, solution = episode.solve(leaves)
        params = solution.params | inner.frozen
        losses = episode.judge(params)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        return TaskGradients(
            dict(zip(leaves, gradients, strict=True)), losses.detach(), detached(params), solution.stats
        )

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> Jacobian:
        """Through the steps; they are taken anew, once, and their graph is held. J v is the transpose of v -> J' v."""
        leaves = detached(theta, requires_grad=True)
        _, solution = episode.solve(leaves)
        phi = list(solution.params.values())
        probe = [torch.zeros_like(leaf, requires_grad=True) for leaf in phi]
        pulled = torch.autograd.grad(phi, list(leaves.values()), probe, create_graph=True, materialize_grads=True)

        def pull(vectors: Tensor) -> Tensor:
            cotangents = list(unravel(vectors, solution.params).values())
            products = torch.autograd.grad(
                phi, list(leaves.values()), cotangents, retain_graph=True, materialize_grads=True
            )
            return ravel(dict(zip(leaves, products, strict=True)))

        def push(vectors: Tensor) -> Tensor:
            tangents = list(unravel(vectors, leaves).values())
            products = torch.autograd.grad(pulled, probe, tangents, retain_graph=True, materialize_grads=True)
            return ravel(dict(zip(leaves, products, strict=True)))

        return Jacobian(push, pull)

    def advice(self, means: Mapping[str, float]) -> None:
        """Nothing to warn of: the gradient is that of what was computed."""
        return
