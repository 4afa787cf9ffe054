"""Lanczos' recurrence against matrices, and the maps made of it: linear, symmetric, the inverse once the space suffices."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metarun.device.course import Course, course
from metarun.maths.cg import conjugate_gradient
from metarun.maths.lanczos import lanczos, least_residual, symmetric_inverse
from metarun.maths.minres import minres
from metarun.maths.operators import dense

from .test_cg import operator, vectors, with_spectrum

pytestmark = pytest.mark.usefixtures("float64")

SPECTRA = [1.0, 2, 3, 5, 8, 13], [-3.0, -1, 0.5, 2, 7, 9]


def unit(size: int, like: Tensor) -> Tensor:
    return torch.eye(size).expand(len(like), size, size).to(like)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 20])
def test_the_basis_is_orthonormal_and_the_matrix_that_of_the_operator(steps):
    matrices, start = with_spectrum(*SPECTRA), vectors(2, 6)
    found = lanczos(operator(matrices), start, steps=steps)
    count = min(steps, 6)
    assert found.basis.shape == (2, count, 6)
    torch.testing.assert_close(found.basis @ found.basis.mT, unit(count, matrices), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.matrix, found.basis @ matrices @ found.basis.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.basis[:, 0], start / start.norm(dim=1, keepdim=True), rtol=1e-14, atol=0)
    powers = torch.stack([torch.linalg.matrix_power(matrices, k) @ start[:, :, None] for k in range(count)], dim=1)
    outside = powers[..., 0] - powers[..., 0] @ found.basis.mT @ found.basis
    assert (outside.norm(dim=2) <= 1e-9 * powers[..., 0].norm(dim=2)).all()


def test_what_leads_out_is_beside_the_last():
    """A V' = V' T + beside_K v_{K+1} e_K': nothing leads out of the whole space."""
    matrices, start = with_spectrum(*SPECTRA), vectors(2, 6)
    for steps in (1, 3, 6):
        found = lanczos(operator(matrices), start, steps=steps)
        out = matrices @ found.basis.mT - found.basis.mT @ found.matrix
        torch.testing.assert_close(out[:, :, -1].norm(dim=1), found.beside[:, -1], rtol=1e-12, atol=1e-13)
        assert out[:, :, :-1].abs().max() < 1e-13 if steps > 1 else True


def test_pivots_are_quotients_of_leading_minors():
    matrices, start = with_spectrum(*SPECTRA), vectors(2, 6)
    found = lanczos(operator(matrices), start, steps=5)
    minors = torch.stack([found.matrix[:, :k, :k].det() for k in range(1, 6)], dim=1)
    before = torch.cat([torch.ones(2, 1), minors[:, :-1]], dim=1)
    torch.testing.assert_close(found.pivots, minors / before, rtol=1e-10, atol=0)
    assert (found.pivots[0] > 0).all()
    assert (found.pivots[1] < 0).any()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_on_its_start_it_is_conjugate_gradients(steps):
    matrices, start = with_spectrum(SPECTRA[0], [1.0, 1, 1, 10, 100, 1000]), vectors(2, 6)
    found = lanczos(operator(matrices), start, steps=steps)
    inverse = found.completed(symmetric_inverse(found.matrix), 1.0)
    expected = conjugate_gradient(operator(matrices), start, max_steps=steps).solution
    torch.testing.assert_close(inverse.apply(start), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "spectrum",
    [[2.0] * 6, [1.0, 1, 1, 1, 4, 4], [1.0, 1, 1, 1, 1, 1e3], [0.5, 0.5, 0.5, 7, 7, 7]],
    ids=["one value", "a pair", "one apart", "two values"],
)
def test_repeated_eigenvalues_are_found_by_beginning_anew(spectrum):
    """A single Krylov space meets each eigenvalue once; all six dimensions are found nevertheless."""
    matrices, start = with_spectrum(spectrum), vectors(1, 6)
    found = lanczos(operator(matrices), start, steps=6)
    torch.testing.assert_close(found.basis @ found.basis.mT, unit(6, matrices), rtol=0, atol=1e-13)
    inverse = dense(found.completed(symmetric_inverse(found.matrix), 0.0), 1, 6, like=start)
    torch.testing.assert_close(inverse, torch.linalg.inv(matrices), rtol=0, atol=1e-12 / min(spectrum))


def test_identity_plus_low_rank_is_inverted_by_as_many_steps_and_two():
    """Rank 3 with a value of multiplicity two: its two others and one of the pair with the identity, then the other of the pair."""
    basis = torch.linalg.qr(vectors(20, 3)).Q
    matrix = (torch.eye(20) + basis * torch.tensor([5.0, 5.0, 30.0]) @ basis.T)[None]
    errors = {}
    for steps in (2, 5, 8):
        found = lanczos(operator(matrix), vectors(1, 20, seed=2), steps=steps)
        inverse = dense(found.completed(symmetric_inverse(found.matrix), 1.0), 1, 20, like=matrix)
        errors[steps] = (inverse - torch.linalg.inv(matrix)).norm().item()
    assert errors[2] > 0.1
    assert errors[5] < 1e-13
    assert errors[8] < 1e-13


def test_zero_begins_at_random_and_no_number_stays_alone():
    matrices = with_spectrum(SPECTRA[0], SPECTRA[0], SPECTRA[0])
    start = torch.stack([torch.zeros(6), torch.full((6,), torch.nan), vectors(6)])
    found = lanczos(operator(matrices), start, steps=6)
    inverse = dense(found.completed(symmetric_inverse(found.matrix), 1.0), 3, 6, like=start)
    torch.testing.assert_close(inverse[[0, 2]], torch.linalg.inv(matrices[[0, 2]]), rtol=0, atol=1e-13)
    assert inverse[1].isnan().all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_start_whose_square_is_no_number(scale):
    matrices, start = with_spectrum(SPECTRA[0]), vectors(1, 6)
    one, other = (lanczos(operator(matrices), s, steps=3) for s in (start, scale * start))
    torch.testing.assert_close(one.basis, other.basis, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_map_completed_is_linear_and_symmetric(steps):
    """However short the space: <Q u, v> = <u, Q v>, Q (u - 2 v) = Q u - 2 Q v, and it makes no product."""
    matrices, calls = with_spectrum(*SPECTRA), []

    def apply(x: Tensor) -> Tensor:
        calls.append(1)
        return operator(matrices).apply(x)

    found = lanczos(type(operator(matrices))(apply), vectors(2, 6), steps=steps)
    assert len(calls) == steps
    inverse = found.completed(symmetric_inverse(found.matrix), 0.7)
    u, v = vectors(2, 6, seed=5), vectors(2, 6, seed=6)
    left, right = (inverse.apply(u) * v).sum(1), (u * inverse.apply(v)).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)
    whole = inverse.apply(u - 2 * v)
    torch.testing.assert_close(whole, inverse.apply(u) - 2 * inverse.apply(v), rtol=1e-12, atol=1e-12)
    assert len(calls) == steps
    away = u - torch.einsum("bkd,bk->bd", found.basis, torch.einsum("bkd,bd->bk", found.basis, u))
    torch.testing.assert_close(inverse.apply(away), 0.7 * away, rtol=1e-12, atol=1e-14)


def test_least_residual_is_bounded_where_an_eigenvalue_of_the_space_is_zero():
    """diag(1, -1) from (1, 1): T = 0 after one step, with 1 leading out; its pseudo-inverse is (0, 1), so 0. After two, A^-1."""
    matrix, start = torch.diag(torch.tensor([1.0, -1.0]))[None], torch.ones(1, 2)
    assert least_residual(lanczos(operator(matrix), start, steps=1)).abs().max() < 1e-15
    found = lanczos(operator(matrix), start, steps=2)
    inverse = dense(found.completed(least_residual(found), 1.0), 1, 2, like=start)
    torch.testing.assert_close(inverse, matrix, rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_least_residual_is_the_symmetric_part_of_minres(steps):
    """On right-hand sides in the space MINRES solves min |b - A V' y|, y = (T'T + beside^2 e e')^-1 T b."""
    matrices, start = with_spectrum(*SPECTRA), vectors(2, 6)
    found = lanczos(operator(matrices), start, steps=steps)
    last = torch.zeros(steps, steps)
    last[-1, -1] = 1
    normal = found.matrix @ found.matrix + found.beside[:, -1, None, None] ** 2 * last
    unsymmetric = torch.linalg.solve(normal, found.matrix)
    torch.testing.assert_close(least_residual(found), (unsymmetric + unsymmetric.mT) / 2, rtol=1e-9, atol=1e-11)
    solved = torch.einsum("bkd,bk->bd", found.basis, unsymmetric[:, :, 0] * start.norm(dim=1, keepdim=True))
    expected = minres(operator(matrices), start, max_steps=steps).solution
    torch.testing.assert_close(solved, expected, rtol=1e-9, atol=1e-11)


def test_the_inverse_of_what_is_singular_is_no_number():
    matrices = torch.stack([torch.eye(2), torch.ones(2, 2), torch.full((2, 2), torch.inf)])
    inverse = symmetric_inverse(matrices)
    assert torch.equal(inverse[0], torch.eye(2))
    assert inverse[1:].isnan().all()


@pytest.mark.parametrize("chosen", [Course.STATIC, Course.ROLLED])
def test_every_course_is_the_same(chosen):
    """With two values of which one is found twice: what begins anew does so in a traced program too."""
    matrices = with_spectrum([2.0, 2, 2, 5, 5, 5], SPECTRA[1])

    def solved(matrices: Tensor, start: Tensor) -> Tensor:
        found = lanczos(operator(matrices), start, steps=6)
        return found.completed(symmetric_inverse(found.matrix), 1.0).apply(start.flip(1))

    with course(chosen):
        traced = make_fx(solved)(with_spectrum(*SPECTRA), vectors(2, 6, seed=9)) if chosen is Course.ROLLED else solved
        found = traced(matrices, vectors(2, 6))
    torch.testing.assert_close(found, solved(matrices, vectors(2, 6)), rtol=1e-12, atol=1e-13)
