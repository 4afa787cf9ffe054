"""What a task asks of its parameters: minimise  loss(phi; support) + lambda/2 ||phi - theta||^2."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from metarun.maths.operators import LinearOperator, gauss_newton, hessian
from metarun.maths.trees import Params, axpy, gradient, norm_per_task
from metarun.problems.base import Problem, losses_of, outputs_of
from metarun.tasks.types import Examples

Curvature = Literal["hessian", "gauss_newton"]
CURVATURES: tuple[Curvature, ...] = ("hessian", "gauss_newton")


@dataclass(frozen=True)
class InnerProblem:
    """The inner objectives of B tasks. The proximal term belongs to the problem, so lambda has this one owner.

    Attributes:
        support: support sets, [B, S, ...].
        anchor: theta, repeated: leaves [B, ...]. Where it carries a graph, so do the gradients made here.
        proximal_weight: lambda >= 0.
    """

    problem: Problem
    support: Examples
    anchor: Params
    proximal_weight: float

    def value(self, params: Params) -> Tensor:
        """The objective, proximal term included: [B]."""
        distance = norm_per_task(axpy(-1.0, self.anchor, params))
        return losses_of(self.problem, params, self.support) + 0.5 * self.proximal_weight * distance**2

    def loss_gradient(self, params: Params) -> Params:
        """Gradient of the support loss alone, leaves [B, ...]; differentiable when `params` are."""
        return gradient(lambda p: losses_of(self.problem, p, self.support), params)

    def gradient(self, params: Params) -> Params:
        """Gradient of the objective, leaves [B, ...]; differentiable when `params` are."""
        slope = self.loss_gradient(params)
        if self.proximal_weight == 0:
            return slope
        return axpy(self.proximal_weight, axpy(-1.0, self.anchor, params), slope)

    def curvature(self, params: Params, kind: Curvature) -> LinearOperator:
        """Second derivatives of the support loss alone (never of the proximal term), at `params`.

        "hessian" is exact and may be indefinite. "gauss_newton", for softmax the Fisher matrix, never is.
        """
        if kind == "hessian":
            return hessian(self.loss_gradient, params)
        with torch.no_grad():
            reference = outputs_of(self.problem, params, self.support)
        return gauss_newton(
            lambda p: outputs_of(self.problem, p, self.support),
            lambda outputs: vmap(self.problem.divergence)(outputs, reference),
            params,
        )
