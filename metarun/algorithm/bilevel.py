"""The two levels as an estimator sees them: inner problems to be solved, and a query loss to be differentiated."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarun.algorithm.inner.loop import solve
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import InnerSolution, InnerSolver
from metarun.device.stages import staged
from metarun.maths.trees import Params, detached, gradient
from metarun.problems.base import losses_of


@dataclass(frozen=True)
class Bilevel:
    """B tasks at theta. Nothing here leads back to the algorithm: what an estimator needs, it is given.

    Attributes:
        inner: the inner problems; theta's leaves are [B, ...] and carry no graph.
        solver: of the inner problems.
        steps: that it takes.
        outer_step: the outer step's number, for what changes in the course of training.
    """

    inner: InnerProblem
    solver: InnerSolver
    steps: int
    outer_step: int | Tensor = 0

    @property
    def theta(self) -> MetaParameters:
        """Meta-parameters, leaves [B, ...]."""
        return self.inner.theta

    def __len__(self) -> int:
        return len(self.inner.tasks)

    def with_graph(self) -> "Bilevel":
        """With theta's meta-learned leaves as fresh leaves of a graph."""
        return replace(self, inner=self.inner.with_graph())

    def solve(self) -> InnerSolution:
        """Adapt theta to every task, with a graph where it has one and the solver is differentiable."""
        return solve(self.solver, self.inner, self.steps)

    def solved(self, phi: Params) -> InnerProblem:
        """The inner problems on the support data that belong to the solution `phi`."""
        return self.inner.collected(phi, self.steps)

    def query_loss(self, phi: Params, step: int | None = None) -> Tensor:
        """Query losses [B] of phi, adapted by `step` inner steps (None: by all)."""
        return self.query_loss_of(self.inner.complete(phi), step)

    def query_loss_of(self, params: Params, step: int | None = None) -> Tensor:
        """Query losses [B] of complete parameters, leaves [B, ...]."""
        problem = self.inner.problem
        at = detached(params) if problem.data_depend_on_params else params
        data = problem.query(self.inner.tasks, at, self.steps if step is None else step)
        return losses_of(problem, params, data)

    @staged("query gradient")
    def query_gradient(self, phi: Params) -> tuple[Tensor, Params]:
        """Query losses [B] at phi, without graph, and their gradients in phi and in the shared meta-learned leaves, [B, ...]."""
        losses = []

        def loss(params: Params) -> Tensor:
            losses.append(self.query_loss_of(params | self.theta.frozen))
            return losses[0]

        gradients = gradient(loss, detached(phi | self.theta.fixed))
        return losses[0].detach(), gradients


@dataclass(frozen=True)
class TaskGradients:
    """What an estimator makes of B tasks, each by itself.

    Attributes:
        gradient: d query loss / d theta by the names of theta, in its order, leaves [B, ...], detached.
        query_loss: [B].
        params: complete adapted parameters, leaves [B, ...], detached.
        stats: per task, [B].
    """

    gradient: Params
    query_loss: Tensor
    params: Params
    stats: dict[str, Tensor]

    @staticmethod
    def of(
        bilevel: Bilevel, gradient: Params, query_loss: Tensor, phi: Params, stats: dict[str, Tensor]
    ) -> "TaskGradients":
        """In theta's order, zero for each meta-parameter that `gradient` has not."""
        whole = {
            name: gradient[name] if name in gradient else torch.zeros_like(leaf) for name, leaf in bilevel.theta.items()
        }
        return TaskGradients(whole, query_loss.detach(), detached(bilevel.inner.complete(phi)), stats)
