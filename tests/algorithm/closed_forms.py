"""Problems small enough to be solved by hand, shared by the golden tests."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from metarun.algorithm import Algorithm, ConjugateGradient, GradientDescent, Implicit, Plain
from metarun.problems.base import Supervised
from metarun.tasks.types import Examples, TaskBatch


def descent(steps: int, step_size: float, **changes) -> GradientDescent:
    return GradientDescent(**{"steps": steps, "step_size": step_size} | changes)


def composed(inner, meta_gradient, *, weight=0.0, direction=None, **changes) -> Algorithm:
    return Algorithm(
        inner=inner, meta_gradient=meta_gradient, direction=direction or Plain(), proximal_weight=weight, **changes
    )


def implicit(cg_steps: int, curvature: str = "hessian", negative_curvature: str = "raise", **changes) -> Implicit:
    solver = ConjugateGradient(steps=cg_steps, rtol=0.0, atol=0.0, negative_curvature=negative_curvature)
    return Implicit(**{"curvature": curvature, "solver": solver, "damping": 0.0} | changes)


def one_task(support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor]) -> TaskBatch:
    return TaskBatch(*(Examples(inputs[None], targets[None]) for inputs, targets in (support, query)), {})


def stacked(*tasks: TaskBatch) -> TaskBatch:
    def all_of(examples: list[Examples]) -> Examples:
        return Examples(torch.cat([e.inputs for e in examples]), torch.cat([e.targets for e in examples]))

    return TaskBatch(all_of([t.support for t in tasks]), all_of([t.query for t in tasks]), {})


class WithoutModel(Supervised):
    """Problems whose outputs are written out; there are no norm layers to be told anything."""

    score: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False
    lift: ClassVar = staticmethod(vmap)
    learner: ClassVar = SimpleNamespace(normalises_by_support=False)


@dataclass(frozen=True)
class Quadratic(WithoutModel):
    """loss = 1/2 sum a (phi - c)^2 with targets (a, c), phi a vector; the divergence is that of unit-variance Gaussians."""

    def outputs(self, params, inputs):
        return params["phi"]

    def loss(self, outputs, targets):
        return (targets[0] / 2 * (outputs - targets[1]) ** 2).sum()

    def divergence(self, outputs, reference, targets):
        return ((outputs - reference) ** 2).sum() / 2


def quadratic(support: tuple[list, list], query: tuple[list, list]) -> TaskBatch:
    """One task from (a, c) of its support and of its query loss."""
    return one_task(*((torch.zeros(1), torch.tensor(pair, dtype=torch.float64)) for pair in (support, query)))


@dataclass(frozen=True)
class Quartic(WithoutModel):
    """Support loss phi^4 / 4 (target 4), query loss phi^2 / 2 (target 2)."""

    def outputs(self, params, inputs):
        return params["phi"]

    def loss(self, outputs, targets):
        return (outputs ** targets[0] / targets[0]).sum()


@dataclass(frozen=True)
class Bilinear(WithoutModel):
    """output = w b, loss = 1/2 (output - target)^2."""

    def outputs(self, params, inputs):
        return params["w"] * params["b"]

    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).sum() / 2

    def divergence(self, outputs, reference, targets):
        return ((outputs - reference) ** 2).sum() / 2


def toy() -> tuple[dict[str, Tensor], TaskBatch]:
    """theta = (w, b) = (1, 2), support target 1, query target 3."""
    tasks = one_task((torch.zeros(1), torch.ones(1)), (torch.zeros(1), torch.full((1,), 3.0)))
    return {"w": torch.tensor([1.0]), "b": torch.tensor([2.0])}, tasks


@dataclass(frozen=True)
class Linear(WithoutModel):
    """outputs = inputs @ phi, loss = half the mean squared error."""

    def outputs(self, params, inputs):
        return inputs @ params["phi"]

    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).mean() / 2

    def divergence(self, outputs, reference, targets):
        return ((outputs - reference) ** 2).mean() / 2


@dataclass(frozen=True)
class Ridge:
    """Random linear regression and its dense solution: 6 support points, 5 query points, 4 parameters."""

    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor
    theta: Tensor
    hessian: Tensor

    @staticmethod
    def make(seed: int = 0) -> "Ridge":
        g = torch.Generator().manual_seed(seed)
        x, y, query_x, query_y, theta = (
            torch.randn(*s, generator=g, dtype=torch.float64) for s in [(6, 4), (6,), (5, 4), (5,), (4,)]
        )
        return Ridge(x, y, query_x, query_y, theta, x.T @ x / 6)

    @property
    def tasks(self) -> TaskBatch:
        return one_task((self.x, self.y), (self.query_x, self.query_y))

    def solution(self, weights: Tensor) -> Tensor:
        """phi* for a lambda of each parameter."""
        return torch.linalg.solve(
            self.hessian + torch.diag(weights), self.x.T @ self.y / 6 + weights * self.theta.to(weights)
        )

    def query_loss(self, phi: Tensor) -> Tensor:
        return ((self.query_x @ phi - self.query_y) ** 2).mean() / 2

    def query_gradient(self, phi: Tensor) -> Tensor:
        return self.query_x.T @ (self.query_x @ phi - self.query_y) / 5
