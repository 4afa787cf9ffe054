"""Meta-gradient of the query loss after every inner step, not only the last (MAML++)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import need_descent, need_differentiable
from metarun.algorithm.inner.loop import solutions
from metarun.algorithm.protocols import InnerSolver
from metarun.algorithm.proximal import ProximalTerm


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
    is_gradient: ClassVar[bool] = True
    learns_solver: ClassVar[bool] = True
    learns_regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("annealed_over", self.annealed_over, minimum=0)

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` unless the solver takes steps from theta that can be differentiated."""
        need_differentiable("MultiStepLoss", solver)
        need_descent("MultiStepLoss", solver)

    def weights(self, num_steps: int, step: int | Tensor) -> list[float] | list[Tensor]:
        """w_1 to w_K in outer step `step`, tensors where it is one; they sum to one."""
        step = step.double() if isinstance(step, Tensor) else step
        fallen: Any = step / self.annealed_over if self.annealed_over else 0.0 * step
        fallen = fallen.clamp(max=1.0) if isinstance(fallen, Tensor) else min(1.0, fallen)
        early = (1 - fallen) / num_steps
        return [early] * (num_steps - 1) + [1 - early * (num_steps - 1)]

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """One backward pass through everything; `query_loss` is that after the last step."""
        graph = bilevel.with_graph()
        steps = range(1, graph.steps + 1) if graph.steps else [0]
        weights = self.weights(len(steps), graph.outer_step)
        total: Tensor | float = 0.0
        losses, phi, stats = None, graph.inner.start, {}
        for number, weight, solution in zip(steps, weights, solutions(graph.solver, graph.inner, steps), strict=True):
            phi, stats = solution.params, solution.stats
            if isinstance(weight, Tensor) or weight > 0 or losses is None:
                losses = graph.query_loss(phi, number)
                share = weight.to(losses) if isinstance(weight, Tensor) else weight
                total = total + share * losses.sum()
        assert losses is not None and isinstance(total, Tensor)
        found = torch.autograd.grad(total, list(graph.theta.values()), materialize_grads=True)
        return TaskGradients.of(graph, dict(zip(graph.theta, found, strict=True)), losses, phi, stats)
