"""What a task asks of its parameters: minimise  loss(phi; support) + lambda/2 ||phi - theta||^2."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, vmap

from metarun.maths.line_search import backtrack
from metarun.maths.operators import (
    DISAGREEMENT,
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
    axpy,
    detached,
    gradient,
    norm_per_task,
    ravel,
    ravel_like,
    relative_norm,
    rows,
    unravel,
    value_and_gradient,
)
from metarun.problems.base import Problem, losses_of, of_its_classes, outputs_of
from metarun.tasks.types import Examples

Curvature = Literal["hessian", "hessian_forward", "gauss_newton", "finite_difference"]
CURVATURES: tuple[Curvature, ...] = ("hessian", "hessian_forward", "gauss_newton", "finite_difference")

Weight = float | Params
"""lambda: one number, or leaves that broadcast against those of phi, [B, ...] or [B, 1, ...]."""


@dataclass(frozen=True)
class Point:
    """phi of B tasks, with what one forward pass tells of it.

    Attributes:
        params: phi, leaves [B, ...].
        value: the inner objective there, [B], without graph.
        gradient: makes the objective's gradient of the same pass, once; differentiable when `params` are.
    """

    params: Params
    value: Tensor
    gradient: Callable[[], Params]


@dataclass(frozen=True)
class InnerProblem:
    """The inner objectives of B tasks. The proximal term belongs to the problem, so lambda has this one owner.

    phi are the adapted parameters alone; what is not adapted is in `frozen` and comes along unchanged.

    Attributes:
        support: support sets, [B, S, ...].
        anchor: theta's adapted leaves, repeated: [B, ...]. Where it carries a graph, so do the gradients made here.
        proximal_weight: lambda >= 0.
        frozen: theta's other leaves, [B, ...].
    """

    problem: Problem
    support: Examples
    anchor: Params
    proximal_weight: Weight
    frozen: Params = field(default_factory=dict)

    @property
    def is_proximal(self) -> bool:
        """Whether lambda is there at all."""
        return isinstance(self.proximal_weight, dict) or self.proximal_weight != 0

    def value(self, params: Params) -> Tensor:
        """The objective, proximal term included: [B]."""
        return self._with_proximal(params, losses_of(self.problem, params | self.frozen, self.support))

    def distance(self, params: Params) -> Tensor:
        """lambda ||phi - theta||^2, each parameter with its own lambda: [B]."""
        away = axpy(-1.0, self.anchor, params)
        pulls = self._weighted(away)
        return torch.stack([rows(away[name] * pulls[name]).sum(1) for name in away]).sum(0)

    def loss_gradient(self, params: Params) -> Params:
        """Gradient of the support loss alone, leaves [B, ...]; differentiable when `params` are."""
        return gradient(lambda p: losses_of(self.problem, p | self.frozen, self.support), params)

    def pull(self, params: Params) -> Params:
        """Gradient of the proximal term alone: lambda (phi - theta)."""
        return self._weighted(axpy(-1.0, self.anchor, params))

    def gradient(self, params: Params) -> Params:
        """Gradient of the objective, leaves [B, ...]; differentiable when `params` are."""
        return self._pulled(params, self.loss_gradient(params))

    def residual(self, params: Params, first: Tensor | None = None) -> Tensor:
        """Norm of the objective's gradient at `params` over that at theta, [B]: 0 at a stationary point.

        Args:
            first: the latter, [B], where it is known already.
        """
        if first is None:
            first = norm_per_task(self.gradient(detached(self.anchor)))
        return relative_norm(norm_per_task(self.gradient(detached(params))), first)

    def at(self, params: Params) -> Point:
        """The objective and its gradient together, by one forward pass."""
        value, slope = value_and_gradient(lambda p: losses_of(self.problem, p | self.frozen, self.support), params)
        with torch.no_grad():
            value = self._with_proximal(params, value)
        return Point(params, value, lambda: self._pulled(params, slope()))

    def curvature(self, params: Params, kind: Curvature, disagreements: list[Tensor] | None = None) -> LinearOperator:
        """Second derivatives of the support loss alone (never of the proximal term) in the adapted parameters, at `params`.

        "hessian" is exact and may be indefinite; "hessian_forward" is the same by forward over reverse mode, with a forward
        pass in each product and no graph between them; "finite_difference" takes no second derivative. "gauss_newton", for
        softmax the Fisher matrix, is never indefinite.

        Args:
            disagreements: where "finite_difference" tells of each product how far to trust it (`operators.differences`).
        """
        if kind == "hessian":
            return hessian(self.loss_gradient, params)
        if kind == "hessian_forward":
            return hessian_by_jvp(self._functional_gradient, params)
        if kind == "finite_difference":
            return finite_difference(self.loss_gradient, params, disagreements)
        return gauss_newton(
            lambda p: outputs_of(self.problem, p | self.frozen, self.support), vmap(self.problem.divergence), params
        )

    def mixed(self, params: Params, vectors: Params, kind: Curvature) -> Params:
        """How the frozen leaves turn the gradient: d/dw <d loss/d phi, vectors>, leaves of `frozen`.

        Of the loss itself, whatever the curvature; by differences along the vectors where the curvature is, too.
        """
        if not self.frozen:
            return {}
        if kind == "finite_difference":

            def slope(phi: Params) -> Params:
                return gradient(lambda frozen: losses_of(self.problem, phi | frozen, self.support), self.frozen)

            radii = RADII[next(iter(params.values())).dtype]
            return unravel(differences(slope, params, radii)(ravel(vectors)), self.frozen)
        frozen = {name: leaf.detach().requires_grad_() for name, leaf in self.frozen.items()}
        with torch.enable_grad():
            leaves = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
            loss = losses_of(self.problem, leaves | frozen, self.support).sum()
            slope = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True)
            product = sum((g * vectors[name]).sum() for name, g in zip(leaves, slope, strict=True))
        products = torch.autograd.grad(product, list(frozen.values()), materialize_grads=True)
        return dict(zip(frozen, products, strict=True))

    def weights(self, like: Params) -> float | Tensor:
        """lambda against raveled parameters: one number, or [B, D]."""
        if isinstance(self.proximal_weight, dict):
            return ravel_like(self.proximal_weight, like)
        return self.proximal_weight

    def _with_proximal(self, params: Params, loss: Tensor) -> Tensor:
        """`loss` and the proximal term."""
        return loss + 0.5 * self.distance(params) if self.is_proximal else loss

    def _pulled(self, params: Params, slope: Params) -> Params:
        """`slope` of the loss, and that of the proximal term."""
        if not self.is_proximal:
            return slope
        return axpy(self.proximal_weight, axpy(-1.0, self.anchor, params), slope)

    def _weighted(self, params: Params) -> Params:
        weight = self.proximal_weight
        if isinstance(weight, dict):
            return {name: weight[name] * leaf for name, leaf in params.items()}
        return {name: weight * leaf for name, leaf in params.items()}

    def _functional_gradient(self, params: Params) -> Params:
        """`loss_gradient` by `torch.func`, which forward mode needs: one task's gradient, lifted."""
        problem, classes = self.problem, self.support.classes

        def loss(phi: Params, frozen: Params, inputs: Tensor, targets: Tensor) -> Tensor:
            outputs = of_its_classes(problem.outputs(phi | frozen, inputs, None), classes)
            return problem.loss(outputs, targets)

        return problem.lift(grad(loss))(params, self.frozen, self.support.inputs, self.support.targets)


def kinks(disagreements: list[Tensor]) -> dict[str, Tensor]:
    """As a statistic, [B]: the largest disagreement of the products by differences; none where there were no such."""
    return {"curvature/disagreement": torch.stack(disagreements).amax(0)} if disagreements else {}


def kinks_in_words(means: Mapping[str, float]) -> str | None:
    """A warning where the means of a run's statistics say that products by differences are mostly error."""
    apart = means.get("train/curvature/disagreement", 0.0)
    if apart <= DISAGREEMENT:
        return None
    return (
        f"curvature by differences of gradients is off by some {100 * apart:.0f} %: the differences ahead of and behind the "
        "parameters disagree. Likely causes: the loss has kinks in every step's way (ReLU, max-pool; many images in a support "
        "set; no norm and biases of zero), or rounding (device.dtype=float64). algorithm.meta_gradient.curvature=hessian "
        "takes second derivatives, and model.activation=tanh, where the model has it, has no kinks."
    )


def search(
    start: Point,
    move: Callable[[Tensor], Point],
    descent: Tensor,
    max_backtracks: int,
    running: Tensor | None = None,
    sufficient_decrease: float = 1e-4,
) -> tuple[Tensor, Point, Tensor]:
    """Move as far as the inner objective falls enough (`backtrack`).

    Args:
        move: the point at step lengths [B]; 1 is tried first.
        descent: the objective's slope at the start, along the way, [B].
        running: which tasks move at all, [B]; all without it.
        sufficient_decrease: Armijo's constant.
    Returns:
        Step lengths [B], 0 where none was accepted; the point there; by how much a whole step would change the objective, [B].
    """
    moving = torch.ones_like(descent, dtype=torch.bool) if running is None else running
    tried, point = None, start

    def value(length: Tensor) -> Tensor:
        nonlocal tried, point
        tried = torch.where(moving, length, 0)
        point = move(tried)
        # A task that has ended asks for nothing more, and a step into overflow is a step too long.
        return torch.where(moving, point.value, start.value).nan_to_num(nan=torch.inf)

    slope = torch.where(moving, descent, 0)
    length, at_one = backtrack(
        value, start.value, slope, max_backtracks=max_backtracks, sufficient_decrease=sufficient_decrease
    )
    length = torch.where(moving, length, 0)
    if not torch.equal(length, tried):
        point = move(length)
    return length, point, at_one - start.value
