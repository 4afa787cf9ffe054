"""Roots and Kronecker products against dense matrices."""

import pytest
import torch
from torch import Tensor

from metarun.maths.psd import Eigenbasis, Kronecker, root

pytestmark = pytest.mark.usefixtures("float64")


def psd(size: int, rank: int, seed: int) -> Tensor:
    half = torch.randn(size, rank, generator=torch.Generator().manual_seed(seed))
    return half @ half.T


def dense(factors: Kronecker) -> Tensor:
    """On matrices [out, in] taken row by row."""
    return torch.kron(factors.outputs, factors.inputs)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_a_root_times_its_transpose(rank):
    """Whatever the rank, in a batch, without a number that is none."""
    matrices = torch.stack([psd(5, rank, seed) for seed in range(4)])
    found = root(matrices)
    torch.testing.assert_close(found @ found.mT, matrices, rtol=1e-12, atol=1e-12)


def test_the_root_of_a_softmax():
    """diag(p) - p p' has rank N - 1: its last column is zero, and that of a certain prediction is zero whole."""
    p = torch.tensor([0.2, 0.5, 0.3])
    found = root(torch.diag(p) - torch.outer(p, p))
    torch.testing.assert_close(found @ found.T, torch.diag(p) - torch.outer(p, p), rtol=1e-14, atol=1e-16)
    assert found[:, 2].abs().max() == 0
    certain = torch.tensor([0.0, 1.0, 0.0])
    assert root(torch.diag(certain) - torch.outer(certain, certain)).abs().max() == 0


def test_a_kronecker_product_is_the_dense_one():
    factors = Kronecker(psd(4, 4, 0), psd(3, 2, 1))
    matrix = torch.randn(3, 4)
    torch.testing.assert_close(factors.apply(matrix).flatten(), dense(factors) @ matrix.flatten())


@pytest.mark.parametrize("ranks", [(4, 3), (2, 1)])
def test_factored_damping_is_two_shifted_factors(ranks):
    """(G + sqrt(d)/pi I) kron (A + pi sqrt(d) I), pi^2 the ratio of mean eigenvalues; its cross terms are what it adds to d I."""
    factors, damping = Kronecker(psd(4, ranks[0], 0), psd(3, ranks[1], 1)), 0.03
    pi = (factors.inputs.trace() / 4 / (factors.outputs.trace() / 3)) ** 0.5
    whole = torch.kron(
        factors.outputs + damping**0.5 / pi * torch.eye(3), factors.inputs + pi * damping**0.5 * torch.eye(4)
    )
    matrix = torch.randn(3, 4)
    expected = torch.linalg.solve(whole, matrix.flatten())
    torch.testing.assert_close(factors.solve(matrix, damping).flatten(), expected, rtol=1e-10, atol=1e-12)


def test_a_factor_of_zero_damps_alone():
    """Without a layer's gradients there is nothing to measure: W / damping."""
    factors = Kronecker(torch.eye(2), torch.zeros(3, 3))
    matrix = torch.ones(3, 2)
    found = factors.solve(matrix, 0.25)
    torch.testing.assert_close(found, matrix / (0.5 * 1.5))


def test_eigenvalues_in_the_basis():
    factors = Kronecker(psd(4, 4, 0), psd(3, 2, 1))
    basis, values = Eigenbasis.of(factors)
    matrix = torch.randn(3, 4)
    torch.testing.assert_close(basis.back(basis.into(matrix)), matrix)
    torch.testing.assert_close(basis.back(values * basis.into(matrix)), factors.apply(matrix))


def test_the_diagonal_in_another_basis():
    """diag of V' (U diag(s) U') V, for dense Kronecker products of the bases."""
    one, _ = Eigenbasis.of(Kronecker(psd(4, 4, 0), psd(3, 3, 1)))
    other, _ = Eigenbasis.of(Kronecker(psd(4, 4, 2), psd(3, 3, 3)))
    values = torch.rand(3, 4)
    u, v = (torch.kron(each.outputs, each.inputs) for each in (other, one))
    expected = (v.T @ u @ torch.diag(values.flatten()) @ u.T @ v).diagonal()
    torch.testing.assert_close(one.diagonal_of(other, values).flatten(), expected)
