"""Symmetric linear maps on B vectors at once, given by their products alone.

Vectors are rows of a matrix [B, D] (`trees.ravel`), and row b of a product depends on row b alone: B independent
matrices, never formed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from metarun.device.course import may_read_values
from metarun.device.precision import precisely
from metarun.maths.trees import Params, detached, ravel, unravel


@dataclass(frozen=True)
class LinearOperator:
    """`apply` maps [B, D] to [B, D], linearly and symmetrically in each row; in full precision, whatever is allowed elsewhere."""

    apply: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "apply", precisely(self.apply))

    def scaled(self, factor: float) -> "LinearOperator":
        """`factor * A`."""
        return LinearOperator(lambda vectors: factor * self.apply(vectors))

    def between(self, diagonal: float | Tensor) -> "LinearOperator":
        """`S A S` with `S = diag(diagonal)`: a number, or a tensor that broadcasts against [B, D]; symmetric as A is."""
        return LinearOperator(lambda vectors: diagonal * self.apply(diagonal * vectors))

    def shifted(self, amount: float | Tensor) -> "LinearOperator":
        """`A + diag(amount)`: a number, or a tensor that broadcasts against [B, D] ([B, 1]: one for each system)."""
        return LinearOperator(lambda vectors: self.apply(vectors) + amount * vectors)


@precisely  # what is kept of the forward pass is part of each product
def hessian(gradient: Callable[[Params], Params], params: Params) -> LinearOperator:
    """Hessians at `params` from a differentiable `gradient`: one forward and backward pass here, one more for each product.

    Args:
        gradient: maps leaves [B, ...] to the gradient of each task's loss, with a graph when its argument carries one.
        params: where, leaves [B, ...].
    """
    leaves = detached(params, requires_grad=True)
    made = gradient(leaves)
    # A gradient that does not depend on a parameter (a linear loss) has no graph to it: its rows of H are zero.
    live = [leaf for leaf in made.values() if leaf.requires_grad]

    def apply(vectors: Tensor) -> Tensor:
        directions = unravel(vectors, made)
        cotangents = [directions[name] for name, leaf in made.items() if leaf.requires_grad]
        if not live:
            return torch.zeros_like(vectors)
        products = torch.autograd.grad(
            live, list(leaves.values()), cotangents, retain_graph=True, materialize_grads=True
        )
        return ravel(dict(zip(leaves, products, strict=True)))

    return LinearOperator(apply)


@precisely
def hessian_by_jvp(gradient: Callable[[Params], Params], params: Params) -> LinearOperator:
    """Hessians at `params` as forward-mode derivatives of the gradient of one task, lifted over tasks.

    Holds no graph between products and computes the forward pass anew in each of them.

    Args:
        gradient: maps leaves [B, ...] to the gradient of each task's loss, built of `torch.func` transforms.
        params: where, leaves [B, ...].
    """
    # Dual tensors may not share memory, as the leaves of an expanded theta do.
    leaves = {name: leaf.contiguous() for name, leaf in detached(params).items()}

    def apply(vectors: Tensor) -> Tensor:
        return ravel(jvp(gradient, (leaves,), (unravel(vectors, leaves),))[1])

    return LinearOperator(apply)


RADII = {torch.float32: (1e-6, 1e-7), torch.float64: (1e-7, 1e-9)}
"""Relative step lengths of differences, the first to be tried first: short, since kinks (ReLU, max-pool) within a step spoil
the difference altogether, and rounding costs no more than a few per cent in float32."""
DISAGREEMENT = 0.1
"""Of the differences ahead of and behind a point, beyond which a kink lies between them, or rounding is as large."""


def finite_difference(
    gradient: Callable[[Params], Params], params: Params, disagreements: list[Tensor] | None = None
) -> LinearOperator:
    """Hessians at `params` by central differences of the gradient; symmetric up to O(d^2) (`differences`).

    Args:
        gradient: maps leaves [B, ...] to the gradient of each task's loss.
        params: where, leaves [B, ...].
        disagreements: as of `differences`.
    Source: Fallah, Mokhtari and Ozdaglar 2020 (HF-MAML), equation 5, whose d is 1 / (6 rho alpha |v|).
    """
    radii = RADII[next(iter(params.values())).dtype]
    return LinearOperator(differences(gradient, params, radii, disagreements))


@precisely
def differences(
    function: Callable[[Params], Params],
    params: Params,
    radii: Sequence[float],
    disagreements: list[Tensor] | None = None,
) -> Callable[[Tensor], Tensor]:
    """The derivative of `function` at x = `params` along v, [B, D], by central differences: [f(x + d v) - f(x - d v)] / 2d.

    Nothing is differentiated. One d for all parameters of a task: `d = radius * (1 + |x|) / |v|`, so that the step has
    the same length whatever v; with one for each tensor, the blocks off a Hessian's diagonal would be scaled against each
    other. Exact for quadratic functions but for rounding, which is some 1e-6 / radius of f in float32, 1e-15 / radius in float64.

    A kink within d v on either side makes the two one-sided differences, [f(x + d v) - f(x)] / d and [f(x) - f(x - d v)] / d,
    disagree; so does rounding, by sqrt(3) times what it costs the central one. Where they do by more than `DISAGREEMENT`, the
    next, shorter radius is tried, and the one that agrees better is taken. A point that lies on a kink itself has no radius.

    Args:
        function: maps leaves [B, ...] to leaves, each task's of its own parameters alone; its values are raveled.
        params: where, leaves [B, ...].
        radii: relative step lengths, falling.
        disagreements: for each product the difference of the one-sided differences over their sum, of what was taken, [B],
            is appended here: 0 where they agree, 1 where one of them is zero. An estimate of the product's relative error.
    """
    point = ravel(detached(params))
    length = 1 + torch.linalg.vector_norm(point, dim=1, keepdim=True)
    centre = ravel(function(detached(params)))

    def central(vectors: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        step = radius * length / torch.where(norm > 0, norm, 1)
        ahead = ravel(function(unravel(point + step * vectors, params)))
        behind = ravel(function(unravel(point - step * vectors, params)))
        both = torch.linalg.vector_norm(ahead - behind, dim=1)
        apart = torch.linalg.vector_norm((ahead - centre) - (centre - behind), dim=1)
        return (ahead - behind) / (2 * step), apart / both.clamp_min(torch.finfo(both.dtype).tiny)

    @precisely
    def along(vectors: Tensor) -> Tensor:
        product, apart = central(vectors, radii[0])
        for radius in radii[1:]:
            poor = apart > DISAGREEMENT
            if may_read_values(vectors) and not poor.any():
                break
            shorter, shorter_apart = central(vectors, radius)
            better = poor & (shorter_apart < apart)
            product = torch.where(better[:, None], shorter, product)
            apart = torch.where(better, shorter_apart, apart)
        if disagreements is not None:
            disagreements.append(apart)
        return product

    return along


@precisely
def gauss_newton(
    outputs: Callable[[Params], Tensor], divergence: Callable[[Tensor, Tensor], Tensor], params: Params
) -> LinearOperator:
    """Generalised Gauss-Newton matrices J' M J at `params`, positive semi-definite whenever M is.

    J is the Jacobian of `outputs` and M the Hessian of `divergence` at the present outputs. With the Kullback-Leibler
    divergence of the softmax this is the Fisher matrix; with half the mean squared difference, that of a Gaussian.
    The product J v is the transpose of the transpose: J'u is linear in u, so its own vjp with v is J v, and the forward pass
    is made once for all products.

    Args:
        outputs: maps leaves [B, ...] to the model's outputs [B, ...].
        divergence: maps outputs and those at `params`, the reference, to how far they are apart, [B].
        params: where, leaves [B, ...].
    Source: Schraudolph 2002, "Fast curvature matrix-vector products", section 3; Martens 2020, section 6.
    """
    leaves = detached(params, requires_grad=True)
    with torch.enable_grad():
        predicted = outputs(leaves)
        point = predicted.detach().requires_grad_()
        gradient = torch.autograd.grad(divergence(point, predicted.detach()).sum(), point, create_graph=True)[0]
        probe = torch.zeros_like(predicted, requires_grad=True)
        pulled_back = torch.autograd.grad(
            predicted, list(leaves.values()), probe, create_graph=True, materialize_grads=True
        )
    live = [leaf for leaf in pulled_back if leaf.requires_grad]

    def apply(vectors: Tensor) -> Tensor:
        directions = unravel(vectors, leaves).values()
        cotangents = [d for d, leaf in zip(directions, pulled_back, strict=True) if leaf.requires_grad]
        pushed = torch.autograd.grad(live, probe, cotangents, retain_graph=True)[0]
        weighted = torch.autograd.grad(gradient, point, pushed, retain_graph=True)[0]
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
