"""Lanczos' recurrence for B symmetric systems at once, and the fixed linear maps that it makes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from metarun import rng
from metarun.device.precision import precisely
from metarun.maths.cg import binary_scale
from metarun.maths.loops import repeat
from metarun.maths.operators import LinearOperator

_KEY = rng.key(0, "lanczos")
_ROUNDING = 4
"""Units of the machine's precision, relative to the operator's size, below which a number is a zero that rounding has spoilt."""


@dataclass(frozen=True)
class Krylov:
    """K orthonormal vectors for each system, and what A is among them.

    Attributes:
        basis: V, its rows the vectors, [B, K, D].
        diagonal: of the tridiagonal matrix T = V A V', [B, K].
        beside: next to the diagonal, [B, K]; the last is the length of what leads out of the space.
        size: the largest |A v| met, [B].
    """

    basis: Tensor
    diagonal: Tensor
    beside: Tensor
    size: Tensor

    @property
    def matrix(self) -> Tensor:
        """T, [B, K, K]."""
        return tridiagonal(self.diagonal, self.beside[:, :-1])

    @property
    def pivots(self) -> Tensor:
        """Of T, [B, K]."""
        return pivots(self.diagonal, self.beside[:, :-1])

    @property
    def rounding(self) -> Tensor:
        """What pivots no larger than are zero, [B, 1]."""
        return _ROUNDING * torch.finfo(self.size.dtype).eps * self.size[:, None]

    def completed(self, within: Tensor, beyond: float | Tensor) -> LinearOperator:
        """V' within V + beyond (I - V' V): symmetric as `within` is, and without one product more.

        Args:
            within: [B, K, K].
            beyond: a number, or one for each system, [B, 1].
        """

        def apply(vectors: Tensor) -> Tensor:
            inside = _coordinates(self.basis, vectors)
            turned = torch.einsum("bij,bj->bi", within, inside) - beyond * inside
            return beyond * vectors + _combination(self.basis, turned)

        return LinearOperator(apply)


@precisely
def lanczos(operator: LinearOperator, start: Tensor, *, steps: int) -> Krylov:
    """An orthonormal basis of the span of s, A s, A^2 s, ..., by `steps` products, as far as there are dimensions.

    T^-1 gives in V' T^-1 V s the solution that as many steps of conjugate gradients give for A x = s. Where the space is
    exhausted before, a random vector orthogonal to it begins another, so that in the end the basis is one of all of R^D, whatever
    the start and however often an eigenvalue is repeated.

    Each vector is made orthogonal to all others, twice: K is small, and a recurrence that lets go of orthogonality meets
    eigenvalues again that it has met before.

    Args:
        operator: A, symmetric; its rows must be independent.
        start: s, [B, D]; at zero a random vector.
        steps: >= 1.
    Source: Saad 2003, section 6.6; Parlett 1998, section 6.9 (twice is enough).
    """
    num_tasks, dimensions = start.shape
    count = min(steps, dimensions)
    zero = start.new_zeros(num_tasks)
    eps = _ROUNDING * torch.finfo(start.dtype).eps

    def unit(vectors: Tensor, basis: Tensor, size: Tensor, number: int | Tensor) -> tuple[Tensor, Tensor]:
        """Of length one and orthogonal to the basis; and the length before, 0 where nothing but rounding was left."""
        length = torch.linalg.vector_norm(vectors, dim=1)
        nothing = length <= eps * size
        index = torch.zeros(1, dtype=torch.int64, device=vectors.device) + number
        random = (rng.uniform(_KEY, index, dimensions) - 0.5).to(vectors)
        vectors = torch.where(nothing[:, None], random, vectors / length[:, None])
        vectors = _orthogonal(vectors, basis)
        return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True), torch.where(nothing, 0, length)

    def iterate(state: _Iteration, number: int | Tensor) -> _Iteration:
        found, now = state.found, state.now
        column = torch.zeros(1, dtype=torch.int64, device=now.device) + number
        basis = found.basis.index_copy(1, column, now[:, None])
        product = operator.apply(now)
        size = torch.maximum(found.size, torch.linalg.vector_norm(product, dim=1))
        diagonal = (now * product).sum(1)
        ahead, beside = unit(_orthogonal(product, basis), basis, size, number + 1)
        found = Krylov(
            basis=basis,
            diagonal=found.diagonal.index_copy(1, column, diagonal[:, None]),
            beside=found.beside.index_copy(1, column, beside[:, None]),
            size=size,
        )
        return _Iteration(found, ahead)

    columns = start.new_zeros(num_tasks, count)
    empty = Krylov(start.new_zeros(num_tasks, count, dimensions), columns, columns, zero)
    first, _ = unit(start / binary_scale(start)[:, None], empty.basis, zero, 0)
    return repeat(iterate, _Iteration(empty, first), count).found


def tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    """Symmetric matrices [B, K, K] from their diagonals [B, K] and what is next to them, [B, K - 1]."""
    return diagonal.diag_embed() + beside.diag_embed(1) + beside.diag_embed(-1)


def pivots(diagonal: Tensor, beside: Tensor) -> Tensor:
    """D of `tridiagonal`'s L D L', without exchanges: the matrix is positive definite exactly where all are > 0.

    Args:
        diagonal: [..., K].
        beside: [..., K - 1].
    """
    squared = pad(beside.square(), (1, 0))

    def iterate(state: tuple[Tensor, Tensor], number: int | Tensor) -> tuple[Tensor, Tensor]:
        found, last = state
        column = torch.zeros(1, dtype=torch.int64, device=diagonal.device) + number
        square = squared.index_select(-1, column)
        # Where blocks are parted nothing is taken, not even of a last one that is zero.
        pivot = diagonal.index_select(-1, column) - torch.where(square > 0, square / last, 0)
        return found.index_copy(-1, column, pivot), pivot

    return repeat(iterate, (torch.zeros_like(diagonal), torch.ones_like(diagonal[..., :1])), diagonal.shape[-1])[0]


def symmetric_inverse(matrices: Tensor) -> Tensor:
    """Inverses of symmetric matrices [B, K, K], symmetric to the bit; what is singular is not finite, and no error."""
    # Factorising an infinity or NaN may be an error for the whole batch; such a task shall have the NaN alone.
    finite = matrices.isfinite().all(dim=2).all(dim=1)[:, None, None]
    unit = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device)
    inverse, singular = torch.linalg.solve_ex(torch.where(finite, matrices, unit), unit.expand_as(matrices))
    inverse = torch.where(finite & (singular == 0)[:, None, None], inverse, torch.nan)
    return (inverse + inverse.mT) / 2


def least_residual(krylov: Krylov) -> Tensor:
    """In T^-1's place, [B, K, K]: what MINRES makes of right-hand sides in the space, its symmetric part.

    With what leads out as one row more of T, that is the symmetric part of the pseudo-inverse without its last column. Never longer
    than one over the smallest singular value, which stays away from 0 where an eigenvalue of T happens to be near it.
    """
    leading_out = torch.zeros_like(krylov.basis[:, :1, : krylov.diagonal.shape[1]])
    leading_out = torch.cat([leading_out[:, :, 1:], krylov.beside[:, -1, None, None]], dim=2)
    orthogonal, upper = torch.linalg.qr(torch.cat([krylov.matrix, leading_out], dim=1))
    inverse = torch.linalg.solve_triangular(upper, orthogonal[:, :-1].mT, upper=True)
    return (inverse + inverse.mT) / 2


@dataclass(frozen=True)
class _Iteration:
    """Between two steps: what there is, and the vector to come."""

    found: Krylov
    now: Tensor


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        vectors = vectors - _combination(basis, _coordinates(basis, vectors))
    return vectors


def _coordinates(basis: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("bkd,bd->bk", basis, vectors)


def _combination(basis: Tensor, coordinates: Tensor) -> Tensor:
    return torch.einsum("bkd,bk->bd", basis, coordinates)
