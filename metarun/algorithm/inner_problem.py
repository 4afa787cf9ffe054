"""What a task asks of its parameters: minimise  loss(phi; support) + regulariser(phi; theta)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad

from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.proximal import Proximal, ProximalTerm
from metarun.maths.operators import (
    RADII,
    LinearOperator,
    differences,
    finite_difference,
    gauss_newton,
    hessian,
    hessian_by_jvp,
)
from metarun.maths.trees import (
    Params,
    detached,
    gradient,
    norm_per_task,
    ravel,
    relative_norm,
    unravel,
    value_and_gradient,
)
from metarun.problems.base import Problem, divergences_of, losses_of, one_loss, outputs_of
from metarun.tasks.types import Data, TaskBatch

Curvature = Literal["hessian", "hessian_forward", "gauss_newton", "finite_difference"]
CURVATURES: tuple[Curvature, ...] = ("hessian", "hessian_forward", "gauss_newton", "finite_difference")


@dataclass(frozen=True)
class Point:
    """phi of B tasks, with what one forward pass gives.

    Attributes:
        params: phi, leaves [B, ...].
        value: the inner objective there, [B], without graph.
        gradient: makes the objective's gradient, of the same pass; differentiable when `params` are.
    """

    params: Params
    value: Tensor
    gradient: Callable[[], Params]


@dataclass(frozen=True)
class InnerProblem:
    """The inner objectives of B tasks, as functions of phi: the adapted leaves alone, [B, ...].

    Attributes:
        theta: leaves [B, ...]. Where it carries a graph, so do the gradients made here.
        term: what the objective has beside the loss, and its learned settings.
        regulariser: the same for this theta.
        step: of the inner loop, whose support data these are.
        collected_at: complete parameters, without graph, with which data that depend on parameters are collected.
    """

    problem: Problem
    tasks: TaskBatch
    theta: MetaParameters
    term: ProximalTerm
    regulariser: Proximal
    step: int | Tensor
    collected_at: Params

    @staticmethod
    def of(problem: Problem, tasks: TaskBatch, theta: MetaParameters, term: ProximalTerm) -> "InnerProblem":
        """The inner problems of tasks, with the data of the first step."""
        return InnerProblem(problem, tasks, theta, term, term.at(theta), 0, detached(theta.start | theta.shared))

    def collected(self, phi: Params, step: int | Tensor) -> "InnerProblem":
        """With the support data of inner step `step`, taken at `phi`; the same where data are stored."""
        if not self.problem.data_depend_on_params or step == 0:
            return self
        return replace(self, step=step, collected_at=detached(self.complete(phi)))

    def at_theta(self, theta: MetaParameters) -> "InnerProblem":
        """The same tasks from another theta, leaves [B, ...]."""
        if self.problem.data_depend_on_params:
            return InnerProblem.of(self.problem, self.tasks, theta, self.term)
        return replace(self, theta=theta, regulariser=self.term.at(theta))

    def with_graph(self) -> "InnerProblem":
        """With theta's meta-learned leaves as fresh leaves of a graph; the data stay."""
        theta = self.theta.detached(requires_grad=True)
        return replace(self, theta=theta, regulariser=self.term.at(theta))

    @cached_property
    def data(self) -> Data:
        """Support data: stored ones, or those that are collected when they are first asked for."""
        return self.problem.support(self.tasks, self.collected_at, self.step)

    @cached_property
    def start(self) -> Params:
        """theta's adapted leaves: phi before the first step."""
        return self.theta.start

    @cached_property
    def shared(self) -> Params:
        """theta's other leaves, which all tasks share."""
        return self.theta.shared

    @cached_property
    def has_graph(self) -> bool:
        """Whether theta does; phi need not carry it where the inner loop starts from a context that is not meta-learned."""
        return any(leaf.requires_grad for leaf in self.theta.values())

    def complete(self, phi: Params) -> Params:
        """All parameters of the model."""
        return phi | self.shared

    def loss(self, phi: Params) -> Tensor:
        """Support losses [B]."""
        return losses_of(self.problem, self.complete(phi), self.data)

    def value(self, phi: Params) -> Tensor:
        """The objective: [B]."""
        return self._regularised(phi, self.loss(phi))

    def loss_gradient(self, phi: Params) -> Params:
        """Gradient of the support loss alone, leaves [B, ...]; differentiable when `phi` or theta is."""
        return gradient(self.loss, phi, has_graph=self.has_graph)

    def gradient(self, phi: Params) -> Params:
        """Gradient of the objective, leaves [B, ...]; differentiable when `phi` or theta is."""
        return self.regulariser.added_to(self.loss_gradient(phi), phi)

    def residual(self, phi: Params, first: Tensor | None = None) -> Tensor:
        """Norm of the objective's gradient at `phi` over that at theta, [B]: 0 at a stationary point.

        Args:
            first: the latter, [B], where it is known already.
        """
        if first is None:
            first = norm_per_task(self.gradient(detached(self.start)))
        return relative_norm(norm_per_task(self.gradient(detached(phi))), first)

    def at(self, phi: Params) -> Point:
        """The objective and its gradient together, by one forward pass."""
        value, loss_gradient = value_and_gradient(self.loss, phi, has_graph=self.has_graph)
        with torch.no_grad():
            value = self._regularised(phi, value)
        return Point(phi, value, lambda: self.regulariser.added_to(loss_gradient(), phi))

    def curvature(self, phi: Params, kind: Curvature, disagreements: list[Tensor] | None = None) -> LinearOperator:
        """Second derivatives of the support loss alone (never of the regulariser) in the adapted parameters, at `phi`.

        "hessian" is exact and may be indefinite; "hessian_forward" is the same by forward over reverse mode, with a forward
        pass in each product and no graph between them; "finite_difference" takes no second derivative. "gauss_newton", for
        softmax the Fisher matrix, is never indefinite.

        Args:
            disagreements: where "finite_difference" says of each product how far to trust it (`operators.differences`).
        """
        if kind == "hessian":
            return hessian(self.loss_gradient, phi)
        if kind == "hessian_forward":
            return hessian_by_jvp(self._functional_gradient, phi)
        if kind == "finite_difference":
            return finite_difference(self.loss_gradient, phi, disagreements)
        return gauss_newton(
            lambda p: outputs_of(self.problem, self.complete(p), self.data),
            lambda outputs, reference: divergences_of(self.problem, outputs, reference, self.data),
            phi,
        )

    def gradient_in_theta(self, phi: Params, vectors: Params, kind: Curvature) -> Params:
        """d/d theta <vectors, d objective / d phi> of every meta-parameter: the implicit function theorem's mixed derivative.

        By one product of automatic differentiation, whatever the regulariser; where the curvature is taken by differences,
        the loss's part is, too (along the vectors), so that no second derivative is taken.

        Args:
            vectors: leaves as those of `phi`, [B, ...].
        Returns:
            Leaves [B, ...] by the names of `theta`; zero for a meta-parameter on which the objective's gradient does not depend.
        """
        inner = self.with_graph()
        # The support loss depends on theta through the leaves that are not adapted alone.
        through_loss = bool(self.theta.fixed) and kind != "finite_difference"
        with torch.enable_grad():
            leaves = {name: leaf.detach().requires_grad_() for name, leaf in phi.items()}
            gradients = [inner.regulariser.gradient(leaves)] if inner.regulariser.is_there else []
            if through_loss:
                loss = inner.loss(leaves).sum()
                made = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True)
                gradients.append(dict(zip(leaves, made, strict=True)))
            product = sum((each[name] * vectors[name]).sum() for each in gradients for name in leaves)
        pulled = {name: torch.zeros_like(leaf) for name, leaf in self.theta.items()}
        if isinstance(product, Tensor) and product.requires_grad:
            found = torch.autograd.grad(product, list(inner.theta.values()), materialize_grads=True)
            pulled = dict(zip(inner.theta, found, strict=True))
        if self.theta.fixed and kind == "finite_difference":
            pulled |= self._pulled_by_differences(phi, vectors)
        return pulled

    def _pulled_by_differences(self, phi: Params, vectors: Params) -> Params:
        """The fixed leaves' part of `gradient_in_theta`, which goes through the support loss alone."""

        def of_fixed(moved: Params) -> Params:
            return gradient(
                lambda fixed: losses_of(self.problem, self.complete(moved) | fixed, self.data), self.theta.fixed
            )

        radii = RADII[next(iter(phi.values())).dtype]
        return unravel(differences(of_fixed, phi, radii)(ravel(vectors)), self.theta.fixed)

    def _regularised(self, phi: Params, loss: Tensor) -> Tensor:
        return loss + self.regulariser.value(phi) if self.regulariser.is_there else loss

    def _functional_gradient(self, phi: Params) -> Params:
        """`loss_gradient` by `torch.func`, which forward mode needs: one task's gradient, lifted."""
        loss = one_loss(self.problem, self.data.classes)

        def of_adapted(params: Params, shared: Params, *tensors: Tensor) -> Tensor:
            return loss(params | shared, *tensors)

        tensors = self.data.inputs, self.data.targets, *self.data.norms
        return self.problem.lift(grad(of_adapted))(phi, self.shared, *tensors)
