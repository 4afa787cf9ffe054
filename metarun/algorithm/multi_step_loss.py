"""Meta-gradient of the query loss after every inner step, not only the last (MAML++)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.parts import Episode, TaskGradients
from metarun.maths.trees import Params, detached


@dataclass(frozen=True, kw_only=True)
class MultiStepLoss:
    """The exact gradient of sum_k w_k loss(phi_k; query), k = 1, ..., K.

    The weights start equal; in the first `annealed_over` outer steps all but the last fall linearly to nothing, and the last
    rises to one. After that this is `Unrolled`.

    Attributes:
        annealed_over: outer steps, >= 0; 0 keeps the weights equal throughout.
    Source: Antoniou et al. 2019, section 4, whose code anneals by epochs and keeps a small floor.
    """

    annealed_over: int
    needs: ClassVar[frozenset[str]] = frozenset({"graph", "iterates"})
    gives: ClassVar[frozenset[str]] = frozenset({"gradient", "inner", "proximal_weight"})

    def __post_init__(self) -> None:
        checks.integer("annealed_over", self.annealed_over, minimum=0)

    def weights(self, num_steps: int, step: int) -> list[float]:
        """w_1 to w_K in outer step `step`; they sum to one."""
        fallen = min(1.0, step / self.annealed_over) if self.annealed_over else 0.0
        early = (1 - fallen) / num_steps
        return [early] * (num_steps - 1) + [1 - early * (num_steps - 1)]

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """One backward pass through everything; `query_loss` is that after the last step."""
        leaves = detached(theta, requires_grad=True)
        inner, learned = episode.set_up(leaves)
        solver = episode.solver
        total, losses, phi = 0.0, None, inner.anchor
        weights = self.weights(max(1, solver.steps), episode.step)
        for weight, phi in zip(weights, solver.iterates(inner, learned, solver.steps), strict=False):
            if weight > 0 or losses is None:
                losses = episode.judge(phi | inner.frozen)
                total = total + weight * losses.sum()
        if losses is None:  # no inner steps
            losses = episode.judge(phi | inner.frozen)
            total = losses.sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        return TaskGradients(
            dict(zip(leaves, gradients, strict=True)), losses.detach(), detached(phi | inner.frozen), {}
        )

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> None:
        """Not offered: there is not one phi."""
        return

    def advice(self, means: Mapping[str, float]) -> None:
        """Nothing to warn of."""
        return
