"""Parameters as named tensors, and the few operations on them that the algorithms need."""

from collections.abc import Callable

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Named parameters: theta (no task axis) or, for B tasks at once, phi with leaves [B, ...]."""


def expand(theta: Params, num_tasks: int) -> Params:
    """Each leaf repeated for `num_tasks` tasks, as a view: [...] -> [B, ...]."""
    return {name: leaf.expand(num_tasks, *leaf.shape) for name, leaf in theta.items()}


def detached(params: Params, *, requires_grad: bool = False) -> Params:
    """The same values cut from their graph, as fresh leaves when `requires_grad`."""
    return {name: leaf.detach().requires_grad_(requires_grad) for name, leaf in params.items()}


def axpy(factor: float | Params, x: Params, y: Params) -> Params:
    """`y + factor * x`, leaf by leaf; `factor` is one number, or leaves that broadcast against those of `x`."""
    if isinstance(factor, dict):
        return {name: torch.addcmul(leaf, factor[name], x[name]) for name, leaf in y.items()}
    return {name: torch.add(leaf, x[name], alpha=factor) for name, leaf in y.items()}


def against(values: Params, like: Params) -> Params:
    """`values` shaped to broadcast against `like`: a number for each task, [B], becomes [B, 1, ...]; whole leaves stay."""
    return {
        name: value if value.dim() == like[name].dim() else value.reshape(-1, *[1] * (like[name].dim() - 1))
        for name, value in values.items()
    }


def rows(leaf: Tensor) -> Tensor:
    """Each task's numbers of one leaf as a row: [B, ...] -> [B, n]."""
    return leaf.reshape(len(leaf), -1)


def ravel(params: Params) -> Tensor:
    """B parameter sets as the rows of one matrix: leaves [B, ...] -> [B, D]."""
    return torch.cat([rows(leaf) for leaf in params.values()], dim=1)


def unravel(vectors: Tensor, like: Params) -> Params:
    """The inverse of `ravel`: [B, D] -> leaves shaped as in `like` (views)."""
    sizes = [leaf[0].numel() for leaf in like.values()]
    pieces = vectors.split(sizes, dim=1)
    return {name: piece.reshape(leaf.shape) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}


def ravel_like(values: Params, like: Params) -> Tensor:
    """`values`, which broadcast against `like`, repeated to its shapes and raveled: [B, D]."""
    return ravel({name: values[name].expand(leaf.shape) for name, leaf in like.items()})


def norm(params: Params) -> Tensor:
    """Euclidean norm over all leaves of parameters without task axis: a scalar."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(leaf) for leaf in params.values()]))


def norm_per_task(params: Params) -> Tensor:
    """Euclidean norm over all leaves, for each task: [B]."""
    norms = [torch.linalg.vector_norm(rows(leaf), dim=1) for leaf in params.values()]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def relative_norm(norm: Tensor, first: Tensor, negligible: float | None = None) -> Tensor:
    """`norm` relative to `first`, both [B]; 0 where both are at most `negligible`, by default the machine's precision."""
    limit = torch.finfo(first.dtype).eps if negligible is None else negligible
    is_nothing = (norm <= limit) & (first <= limit)
    return torch.where(is_nothing, 0, norm / first.clamp_min(torch.finfo(first.dtype).tiny))


def gradient(function: Callable[[Params], Tensor], params: Params, *, has_graph: bool = False) -> Params:
    """Gradient of `function(params).sum()`, itself differentiable exactly when `params` carry a graph, or `has_graph`.

    With leaves [B, ...] and a function whose b-th value depends on the b-th rows alone, this is the gradient of each task.
    Plain autograd around a `vmap`ped forward pass: in eager mode a quarter to a third faster than nested `torch.func`
    transforms, and right as long as no fused batch norm is inside (`metarun.models.norm` says why).

    Args:
        has_graph: whether the function depends on other tensors with a graph.
    """
    return value_and_gradient(function, params, has_graph=has_graph)[1]()


def value_and_gradient(
    function: Callable[[Params], Tensor], params: Params, *, has_graph: bool = False
) -> tuple[Tensor, Callable[[], Params]]:
    """`function(params)`, detached, and a call that makes its `gradient` of the same forward pass, once."""
    differentiable = has_graph or any(leaf.requires_grad for leaf in params.values())
    with torch.enable_grad():
        leaves = {name: leaf if leaf.requires_grad else leaf.detach().requires_grad_() for name, leaf in params.items()}
        values = function(leaves)
        total = values.sum()

    def make() -> Params:
        gradients = torch.autograd.grad(
            total, list(leaves.values()), create_graph=differentiable, materialize_grads=True
        )
        return dict(zip(leaves, gradients, strict=True))

    return values.detach(), make
