"""MAML's meta-gradient by its own recursion, with curvature products in place of a graph (HF-MAML by finite differences)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.inner_problem import CURVATURES, Curvature, kinks, kinks_in_words
from metarun.algorithm.parts import Episode, TaskGradients
from metarun.maths.trees import Params, axpy, detached, gradient, norm_per_task, ravel, relative_norm, unravel


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """u <- query gradient at phi_K; u <- u - alpha C(phi_k) u for k = K-1, ..., 0; with gradient descent as inner solver.

    With the Hessian this is `Unrolled`, with K copies of the parameters in memory and no graph; by finite differences it is
    HF-MAML, which takes no second derivative; `curvature/disagreement` [B] then says how far to trust it (`differences`).

    Attributes:
        curvature: C, of the support loss (`InnerProblem.curvature`).
    Source: the chain rule of Finn et al. 2017, algorithm 2; Fallah, Mokhtari and Ozdaglar 2020 (HF-MAML), whose three
        independent batches are here one support set, as in MAML.
    """

    curvature: Curvature
    needs: ClassVar[frozenset[str]] = frozenset({"iterates", "fixed rates"})
    gives: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __post_init__(self) -> None:
        checks.one_of("curvature", self.curvature, CURVATURES)

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """One gradient for each step forwards, one product for each step backwards."""
        inner, learned = episode.set_up(detached(theta))
        solver = episode.solver
        path = [inner.anchor, *(detached(phi) for phi in solver.iterates(inner, learned, solver.steps))]
        params = path[-1] | inner.frozen
        losses = []

        def judged(phi: Params) -> torch.Tensor:
            losses.append(episode.judge(phi))
            return losses[0]

        slope = gradient(judged, params)
        frozen = {name: slope[name] for name in inner.frozen}
        vector = ravel({name: slope[name] for name in inner.anchor})
        pulled = torch.zeros_like(vector)  # what reaches theta through the proximal terms
        weight, step_size = inner.weights(inner.anchor), solver.step_size
        disagreements: list[torch.Tensor] = []
        for phi in reversed(path[:-1]):
            along = unravel(vector, inner.anchor)
            if frozen:
                frozen = axpy(-step_size, inner.mixed(phi, along, self.curvature), frozen)
            pulled = pulled + step_size * weight * vector
            turned = inner.curvature(phi, self.curvature, disagreements).apply(vector) + weight * vector
            vector = vector - step_size * turned
        # The steps are equal multiples of the gradients, so their ratio is had without taking any gradient again.
        moved = [axpy(-1.0, after, before) for before, after in (path[:2], path[-2:])] if len(path) > 1 else []
        norms = [norm_per_task(leaves) for leaves in moved]
        stats = {"inner/last_step": relative_norm(norms[-1], norms[0])} if moved else {}
        stats |= kinks(disagreements)
        return TaskGradients(unravel(vector + pulled, inner.anchor) | frozen, losses[0].detach(), params, stats)

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> None:
        """Not offered; `Unrolled` has the same."""
        return

    def advice(self, means: Mapping[str, float]) -> str | None:
        """Where the differences are mostly error."""
        return kinks_in_words(means)
