"""Symmetric linear maps on B vectors at once, given by their products alone.

Vectors are rows of a matrix [B, D] (`trees.ravel`), and row b of a product depends on row b alone: B independent
matrices, never formed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.maths.trees import Params, detached, ravel, unravel


@dataclass(frozen=True)
class LinearOperator:
    """`apply` maps [B, D] to [B, D], linearly and symmetrically in each row."""

    apply: Callable[[Tensor], Tensor]

    def scaled(self, factor: float) -> "LinearOperator":
        """`factor * A`."""
        return LinearOperator(lambda vectors: factor * self.apply(vectors))

    def shifted(self, amount: float) -> "LinearOperator":
        """`A + amount * I`."""
        return LinearOperator(lambda vectors: torch.add(self.apply(vectors), vectors, alpha=amount))


def hessian(gradient: Callable[[Params], Params], params: Params) -> LinearOperator:
    """Hessians at `params` from a differentiable `gradient`: one forward and backward pass here, one more for each product.

    Args:
        gradient: maps leaves [B, ...] to the gradient of each task's loss, with a graph when its argument carries one.
        params: where, leaves [B, ...].
    """
    leaves = detached(params, requires_grad=True)
    slope = gradient(leaves)
    # A gradient that does not depend on a parameter (a linear loss) has no graph to it: its rows of H are zero.
    live = [leaf for leaf in slope.values() if leaf.requires_grad]

    def apply(vectors: Tensor) -> Tensor:
        directions = unravel(vectors, slope)
        cotangents = [directions[name] for name, leaf in slope.items() if leaf.requires_grad]
        if not live:
            return torch.zeros_like(vectors)
        products = torch.autograd.grad(
            live, list(leaves.values()), cotangents, retain_graph=True, materialize_grads=True
        )
        return ravel(dict(zip(leaves, products, strict=True)))

    return LinearOperator(apply)


def gauss_newton(
    outputs: Callable[[Params], Tensor], divergence: Callable[[Tensor], Tensor], params: Params
) -> LinearOperator:
    """Generalised Gauss-Newton matrices J' M J at `params`, positive semi-definite whenever M is.

    J is the Jacobian of `outputs` and M the Hessian of `divergence` at the present outputs. With the Kullback-Leibler
    divergence of the softmax this is the Fisher matrix; with half the mean squared difference, that of a Gaussian.
    The product J v is the transpose of the transpose: J'u is linear in u, so its own vjp with v is J v, and the forward pass
    is made once for all products.

    Args:
        outputs: maps leaves [B, ...] to the model's outputs [B, ...].
        divergence: maps outputs to [B], the divergence from the outputs at `params`.
        params: where, leaves [B, ...].
    Source: Schraudolph 2002, "Fast curvature matrix-vector products", section 3; Martens 2020, section 6.
    """
    leaves = detached(params, requires_grad=True)
    with torch.enable_grad():
        predicted = outputs(leaves)
        point = predicted.detach().requires_grad_()
        slope = torch.autograd.grad(divergence(point).sum(), point, create_graph=True)[0]
        probe = torch.zeros_like(predicted, requires_grad=True)
        pulled_back = torch.autograd.grad(
            predicted, list(leaves.values()), probe, create_graph=True, materialize_grads=True
        )
    live = [leaf for leaf in pulled_back if leaf.requires_grad]

    def apply(vectors: Tensor) -> Tensor:
        directions = unravel(vectors, leaves).values()
        cotangents = [d for d, leaf in zip(directions, pulled_back, strict=True) if leaf.requires_grad]
        pushed = torch.autograd.grad(live, probe, cotangents, retain_graph=True)[0]
        weighted = torch.autograd.grad(slope, point, pushed, retain_graph=True)[0]
        products = torch.autograd.grad(
            predicted, list(leaves.values()), weighted, retain_graph=True, materialize_grads=True
        )
        return ravel(dict(zip(leaves, products, strict=True)))

    return LinearOperator(apply)


def dense(operator: LinearOperator, num_tasks: int, size: int, *, like: Tensor) -> Tensor:
    """The matrices themselves, [B, D, D], by D products; for tests and small diagnostics."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    columns = [operator.apply(unit.expand(num_tasks, size)) for unit in identity]
    return torch.stack(columns, dim=-1)
