"""Positive semi-definite matrices: roots, and products of two small ones that stand for a large one (Kronecker)."""

from dataclasses import dataclass

import torch
from torch import Tensor


def root(matrices: Tensor) -> Tensor:
    """R with R R' = A for positive semi-definite A, [..., N, N]: Cholesky's, with a column of zeros where A has no rank left.

    N steps of elementwise operations, without a look at values.
    """
    size = matrices.shape[-1]
    left, columns = matrices, []
    negligible = size * torch.finfo(matrices.dtype).eps * matrices.diagonal(dim1=-2, dim2=-1).amax(-1)
    for column in range(size):
        pivot = left[..., column, column]
        has_rank = pivot > negligible
        scale = torch.where(has_rank, pivot, 1).rsqrt() * has_rank
        columns.append(left[..., :, column] * scale[..., None])
        left = left - columns[-1][..., :, None] * columns[-1][..., None, :]
    return torch.stack(columns, -1).tril()


@dataclass(frozen=True)
class Kronecker:
    """The matrix that maps W [out, in] to G W A, with A [in, in] and G [out, out] symmetric positive semi-definite.

    On W row by row it is the Kronecker product of G and A.
    """

    inputs: Tensor
    outputs: Tensor

    def apply(self, matrix: Tensor) -> Tensor:
        """G W A."""
        return self.outputs @ matrix @ self.inputs

    def solve(self, matrix: Tensor, damping: float | Tensor) -> Tensor:
        """(G + sqrt(damping) / pi)^-1 W (A + pi sqrt(damping))^-1, with pi^2 the ratio of the mean eigenvalues of A and G.

        The factored damping of Martens and Grosse 2015, section 6.3: two small systems in place of one large one.
        """
        means = [each.diagonal().mean() for each in (self.inputs, self.outputs)]
        tiny = torch.finfo(matrix.dtype).tiny
        ratio = torch.where((means[0] > 0) & (means[1] > 0), means[0] / means[1].clamp(min=tiny), 1).sqrt()
        amount = ratio.new_ones(()) * damping
        half = _solved(_shifted(self.outputs, amount.sqrt() / ratio), matrix)
        return _solved(_shifted(self.inputs, amount.sqrt() * ratio), half.mT).mT


@dataclass(frozen=True)
class Eigenbasis:
    """Orthonormal eigenvectors of the two factors of a `Kronecker`, as columns, [in, in] and [out, out]."""

    inputs: Tensor
    outputs: Tensor

    @staticmethod
    def of(factors: Kronecker) -> tuple["Eigenbasis", Tensor]:
        """The basis, and the eigenvalues of the product there: [out, in], those of G times those of A."""
        of_inputs, inputs = torch.linalg.eigh(factors.inputs)
        of_outputs, outputs = torch.linalg.eigh(factors.outputs)
        return Eigenbasis(inputs, outputs), of_outputs.clamp(min=0)[:, None] * of_inputs.clamp(min=0)

    def into(self, matrix: Tensor) -> Tensor:
        """Coordinates of [..., out, in] in this basis."""
        return self.outputs.mT @ matrix @ self.inputs

    def back(self, coordinates: Tensor) -> Tensor:
        """The inverse of `into`."""
        return self.outputs @ coordinates @ self.inputs.mT

    def diagonal_of(self, other: "Eigenbasis", values: Tensor) -> Tensor:
        """The diagonal here of the matrix that is diagonal in the other basis, with these values [out, in]."""
        outputs, inputs = self.outputs.mT @ other.outputs, self.inputs.mT @ other.inputs
        return outputs.square() @ values @ inputs.square().mT


@dataclass(frozen=True)
class Diagonal:
    """The matrix that is diagonal in a basis, with these values, [out, in]."""

    basis: Eigenbasis
    values: Tensor

    def apply(self, matrix: Tensor) -> Tensor:
        """On W [out, in]."""
        return self.basis.back(self.values * self.basis.into(matrix))

    def solve(self, matrix: Tensor, damping: float | Tensor) -> Tensor:
        """With the damping added to the values."""
        return self.basis.back(self.basis.into(matrix) / (self.values + damping))


def _shifted(matrix: Tensor, amount: Tensor) -> Tensor:
    return matrix + amount * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def _solved(matrix: Tensor, rhs: Tensor) -> Tensor:
    """By Cholesky's factors, without a look at values: what is not positive definite gives no number."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where(failed == 0, torch.cholesky_solve(rhs, factor), torch.nan)
