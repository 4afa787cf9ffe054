"""Conjugate gradients against dense solves, and their behaviour at every way out."""

import itertools

import pytest
import torch
from torch import Tensor

from metarun.device.course import Course, course
from metarun.maths.cg import Status, conjugate_gradient, relative_residual
from metarun.maths.minres import minres
from metarun.maths.operators import LinearOperator

pytestmark = pytest.mark.usefixtures("float64")


def operator(matrices: Tensor) -> LinearOperator:
    return LinearOperator(lambda vectors: torch.einsum("bij,bj->bi", matrices, vectors))


def with_spectrum(*spectra: list[float], seed: int = 0) -> Tensor:
    """Symmetric matrices [B, D, D] with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(spectra)
    basis = torch.linalg.qr(torch.randn(*values.shape, values.shape[1], generator=generator)).Q
    return basis * values[:, None] @ basis.transpose(1, 2)


def vectors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_x_is_four():
    result = conjugate_gradient(operator(torch.tensor([[[2.0]]])), torch.tensor([[4.0]]), max_steps=5)
    assert result.solution.tolist() == [[2.0]]
    assert result.status.tolist() == [Status.CONVERGED]
    assert result.steps.tolist() == [1]


@pytest.mark.parametrize("max_steps", [1, 2, 10])
def test_a_multiple_of_the_identity_takes_one_step(max_steps):
    """CG1. A solver that tests before it updates would return zero here."""
    rhs = vectors(2, 3)
    result = conjugate_gradient(operator(4 * torch.eye(3).expand(2, 3, 3)), rhs, max_steps=max_steps, rtol=1e-12)
    torch.testing.assert_close(result.solution, rhs / 4, rtol=1e-15, atol=0)
    assert result.steps.tolist() == [1, 1]
    assert result.status.tolist() == [Status.CONVERGED] * 2


def test_zero_right_hand_side_gives_zero():
    """CG2."""
    rhs = torch.stack([torch.zeros(3), torch.ones(3)])
    result = conjugate_gradient(operator(with_spectrum([1, 2, 3], [1, 2, 3])), rhs, max_steps=3)
    assert result.solution[0].tolist() == [0, 0, 0]
    assert result.steps[0] == 0
    assert result.residual_norm[0] == 0
    assert result.status[0] == Status.CONVERGED
    assert result.solution.isfinite().all()


def test_zero_steps_return_the_right_hand_side():
    """So that a truncated implicit gradient begins at the first-order one, and not at nothing."""
    rhs = vectors(2, 3)
    result = conjugate_gradient(operator(with_spectrum([1, 2, 3], [1, 2, 3])), rhs, max_steps=0)
    assert torch.equal(result.solution, rhs)
    assert result.steps.tolist() == [0, 0]
    assert result.status.tolist() == [Status.MAX_STEPS] * 2


def test_mixed_conditioning_in_one_batch():
    """Each system is solved as if it were alone, though they need 1, 3 and 6 steps and have conditions 1 to 1e4."""
    matrices = with_spectrum([2] * 6, [1, 1, 10, 10, 100, 100], [1, 1e1, 1e2, 1e3, 5e3, 1e4])
    rhs = vectors(3, 6)
    result = conjugate_gradient(operator(matrices), rhs, max_steps=30, rtol=1e-12)
    torch.testing.assert_close(result.solution, torch.linalg.solve(matrices, rhs), rtol=1e-9, atol=1e-12)
    assert result.status.tolist() == [Status.CONVERGED] * 3
    assert result.steps[:2].tolist() == [1, 3]
    assert result.steps[2] >= 6
    assert (result.residual_norm <= 1e-12).all()
    for b in range(3):
        alone = conjugate_gradient(operator(matrices[b : b + 1]), rhs[b : b + 1], max_steps=30, rtol=1e-12)
        torch.testing.assert_close(alone.solution[0], result.solution[b], rtol=1e-12, atol=1e-14)
        assert alone.steps[0] == result.steps[b]


def test_a_finished_system_is_frozen():
    """More steps for the others leave its bits alone."""
    matrices = with_spectrum([2] * 4, [1, 10, 100, 1000])
    rhs = vectors(2, 4)
    short = conjugate_gradient(operator(matrices), rhs, max_steps=2, rtol=1e-10)
    long = conjugate_gradient(operator(matrices), rhs, max_steps=20, rtol=1e-10)
    assert torch.equal(short.solution[0], long.solution[0])
    assert short.steps[0] == long.steps[0] == 1
    assert long.steps[1] > 2


def test_a_product_gone_wild_does_no_harm_to_a_finished_system():
    matrices, rhs, calls = with_spectrum([2] * 4, [1, 10, 100, 1000]), vectors(2, 4), []

    def apply(v: Tensor) -> Tensor:
        calls.append(1)
        product = torch.einsum("bij,bj->bi", matrices, v)
        if len(calls) > 1:
            product[0] = torch.nan
        return product

    result = conjugate_gradient(LinearOperator(apply), rhs, max_steps=20, rtol=1e-12)
    torch.testing.assert_close(result.solution[0], rhs[0] / 2, rtol=1e-14, atol=0)
    assert result.status.tolist() == [Status.CONVERGED] * 2
    assert result.residual_norm.isfinite().all()
    assert len(calls) > 3


def test_negative_curvature_at_once_returns_the_right_hand_side():
    """CG3: A = diag(-1/2, 3/2) with b = (1, 0)."""
    matrix = torch.diag(torch.tensor([-0.5, 1.5]))[None]
    result = conjugate_gradient(operator(matrix), torch.tensor([[1.0, 0.0]]), max_steps=5)
    assert result.solution.tolist() == [[1.0, 0.0]]
    assert result.status.tolist() == [Status.NEGATIVE_CURVATURE]
    assert result.min_curvature.tolist() == [-0.5]
    assert result.steps.tolist() == [0]


def test_zero_curvature_leaves_nothing_infinite():
    """CG3: b = (sqrt 3, 1) has p'Ap = 0 up to rounding although A is not singular; (1, 1) with diag(-1, 1) has it exactly."""
    matrices = torch.stack([torch.diag(torch.tensor([-0.5, 1.5])), torch.diag(torch.tensor([-1.0, 1.0]))])
    rhs = torch.tensor([[3**0.5, 1.0], [1.0, 1.0]])
    result = conjugate_gradient(operator(matrices), rhs, max_steps=5)
    assert result.solution.isfinite().all()
    assert result.residual_norm.isfinite().all()
    assert result.status[1] == Status.NEGATIVE_CURVATURE
    assert torch.equal(result.solution[1], rhs[1])


def test_negative_curvature_later_returns_the_iterate_before_it():
    """diag(1, -1/8), b = (2, 1): the first step has p'Ap = 4 - 1/8 > 0; the next direction has a negative one."""
    matrix = torch.diag(torch.tensor([1.0, -0.125]))[None]
    rhs = torch.tensor([[2.0, 1.0]])
    one = conjugate_gradient(operator(matrix), rhs, max_steps=1)
    result = conjugate_gradient(operator(matrix), rhs, max_steps=10)
    torch.testing.assert_close(one.solution, rhs * 5 / 3.875, rtol=1e-15, atol=0)
    assert torch.equal(result.solution, one.solution)
    assert result.status.tolist() == [Status.NEGATIVE_CURVATURE]
    assert result.steps.tolist() == [1]


def test_negative_curvature_in_one_task_does_not_reach_the_others():
    matrices = torch.cat([with_spectrum([1.0, 2.0, 5.0]), torch.diag(torch.tensor([-1.0, 1.0, 1.0]))[None]])
    rhs = torch.stack([vectors(3), torch.tensor([1.0, 0.0, 0.0])])
    result = conjugate_gradient(operator(matrices), rhs, max_steps=3)
    torch.testing.assert_close(result.solution[0], torch.linalg.solve(matrices[0], rhs[0]), rtol=1e-12, atol=0)
    assert result.status[1] == Status.NEGATIVE_CURVATURE
    assert torch.equal(result.solution[1], rhs[1])


def test_first_rayleigh_quotient_of_the_bilinear_net():
    """TOY8: A = I + H / 0.5 with H = [[4, 3], [3, 1]], b the eigenvector of (5 - 3 sqrt 5) / 2."""
    hessian = torch.tensor([[4.0, 3.0], [3.0, 1.0]])
    vector = torch.linalg.eigh(hessian).eigenvectors[:, :1].T
    result = conjugate_gradient(operator((torch.eye(2) + 2 * hessian)[None]), vector, max_steps=5)
    assert result.min_curvature.item() == pytest.approx(1 + 5 - 3 * 5**0.5, rel=1e-12)  # -0.708204
    assert result.status.tolist() == [Status.NEGATIVE_CURVATURE]


@pytest.mark.parametrize("max_steps", [0, 1, 3, 12])
def test_early_exit_changes_no_bit(max_steps):
    indefinite = torch.diag(torch.tensor([1.0, -0.125, 1.0, 1.0]))[None]
    matrices = torch.cat([with_spectrum([2] * 4, [1, 2, 3, 4]), indefinite])
    rhs = vectors(3, 4)
    rhs[0] = 0
    settings = {"max_steps": max_steps, "rtol": 1e-8}
    with_exit = conjugate_gradient(operator(matrices), rhs, **settings)
    with course(Course.STATIC):
        without = conjugate_gradient(operator(matrices), rhs, **settings)
    for name in ("solution", "steps", "residual_norm", "min_curvature", "status"):
        assert torch.equal(getattr(with_exit, name), getattr(without, name)), name


def test_early_exit_saves_products():
    calls = []

    def apply(v: Tensor) -> Tensor:
        calls.append(1)
        return 2 * v

    conjugate_gradient(LinearOperator(apply), vectors(2, 3), max_steps=10, rtol=1e-12)
    assert len(calls) == 1
    with course(Course.STATIC):
        conjugate_gradient(LinearOperator(apply), vectors(2, 3), max_steps=10, rtol=1e-12)
    assert len(calls) == 11


def test_convergence_of_the_error():
    """CG2, CG5: in the A-norm the error never grows, keeps below 2 ((sqrt k - 1)/(sqrt k + 1))^n, and is gone after D steps."""
    spectrum = torch.linspace(1, 50, 12).tolist()
    matrices, rhs = with_spectrum(spectrum), vectors(1, 12)
    exact = torch.linalg.solve(matrices, rhs)

    def error(steps: int) -> float:
        difference = (
            exact if steps == 0 else conjugate_gradient(operator(matrices), rhs, max_steps=steps).solution - exact
        )
        return torch.einsum("bi,bij,bj->", difference, matrices, difference).item() ** 0.5

    errors = [error(steps) for steps in range(13)]
    assert all(after <= before for before, after in itertools.pairwise(errors))
    rate = (50**0.5 - 1) / (50**0.5 + 1)
    assert all(e <= 2 * rate**k * errors[0] for k, e in enumerate(errors[:12]))
    assert errors[12] < 1e-10 * errors[0]


def test_identity_plus_low_rank_takes_rank_plus_one_steps():
    """CG2: as many steps as distinct eigenvalues."""
    factor = vectors(1, 20, 3)
    matrices, rhs = torch.eye(20) + factor @ factor.transpose(1, 2), vectors(1, 20, seed=2)
    result = conjugate_gradient(operator(matrices), rhs, max_steps=4)
    torch.testing.assert_close(result.solution, torch.linalg.solve(matrices, rhs), rtol=1e-11, atol=1e-13)
    truncated = conjugate_gradient(operator(matrices), rhs, max_steps=3)
    assert (truncated.solution - result.solution).norm() > 1e-6 * result.solution.norm()


def test_reported_residual_and_curvature():
    """`residual_norm` is |b - A x| / |b|; `min_curvature` lies between the smallest eigenvalue and b'Ab / b'b."""
    matrices, rhs = with_spectrum([1, 3, 7, 20]), vectors(1, 4)
    for steps in (1, 2, 3):
        result = conjugate_gradient(operator(matrices), rhs, max_steps=steps)
        residual = (rhs - torch.einsum("bij,bj->bi", matrices, result.solution)).norm() / rhs.norm()
        assert result.residual_norm.item() == pytest.approx(residual.item(), rel=1e-10)
        first = (rhs @ matrices[0] @ rhs.T / (rhs @ rhs.T)).item()
        assert 1 - 1e-12 <= result.min_curvature.item() <= first + 1e-12
        assert result.status.tolist() == [Status.MAX_STEPS]


def test_float32_underflow_is_convergence_and_not_an_infinity():
    """A right-hand side whose square underflows is as good as zero."""
    rhs = torch.full((1, 3), 1e-30, dtype=torch.float32)
    matrices = torch.eye(3, dtype=torch.float32)[None] * 3
    result = conjugate_gradient(operator(matrices), rhs, max_steps=3)
    assert result.solution.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_residual_that_underflows_is_no_negative_curvature(dtype):
    """Steps past convergence, rtol 0: the residual falls until its square, and with it p'Ap, is zero to the machine."""
    factor = vectors(5000, 4, 8).to(dtype)
    matrices = torch.eye(4, dtype=dtype) + factor @ factor.mT / 30
    rhs = vectors(5000, 4, seed=2).to(dtype)
    result = conjugate_gradient(operator(matrices), rhs, max_steps=100)
    assert (result.status == Status.CONVERGED).all()
    assert (result.min_curvature > 1 - 1e-5).all()


def test_a_product_that_is_not_a_number_stays_in_its_task():
    matrices = torch.cat([with_spectrum([1.0, 2.0, 5.0]), torch.full((1, 3, 3), torch.nan)])
    rhs = vectors(2, 3)
    result = conjugate_gradient(operator(matrices), rhs, max_steps=3)
    torch.testing.assert_close(result.solution[0], torch.linalg.solve(matrices[0], rhs[0]), rtol=1e-12, atol=0)
    assert result.solution[1].isnan().all()
    assert result.status.tolist() == [Status.MAX_STEPS, Status.NOT_FINITE]


SOLVERS = {"cg": conjugate_gradient, "minres": minres}


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("exponent", [-120, -63, 63, 64, 120])
def test_a_right_hand_side_of_any_size_is_solved(solve, exponent):
    """A (2^k x) = 2^k b, bit for bit, where the squares of 2^k b over- or underflow in float32 (beyond 2^64 and below 2^-63)."""
    matrices, rhs = with_spectrum([1, 10, 100]).float(), vectors(1, 3).float()
    one = solve(operator(matrices), rhs, max_steps=3, rtol=1e-6)
    other = solve(operator(matrices), 2.0**exponent * rhs, max_steps=3, rtol=1e-6)
    assert torch.equal(other.solution, 2.0**exponent * one.solution)
    for name in ("steps", "status", "residual_norm", "min_curvature"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.solution[0], torch.linalg.solve(matrices[0], rhs[0]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_an_operator_of_any_size_is_inverted(solve):
    """(2^k A)^-1 b = 2^-k A^-1 b, bit for bit: no threshold asks for a curvature of size one."""
    matrices, rhs = with_spectrum([1, 10, 100]), vectors(1, 3)
    one = solve(operator(matrices), rhs, max_steps=3)
    for exponent in (-200, 200):
        other = solve(operator(2.0**exponent * matrices), rhs, max_steps=3)
        assert torch.equal(other.solution, 2.0**-exponent * one.solution)
        assert torch.equal(other.status, one.status)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_what_is_not_finite_has_a_status_of_its_own(solve):
    """float32: inf and NaN on the right, p'Ap beyond 3.4e38, and a solution of 1e50, beside a system that is solved."""
    rhs = torch.tensor([1.0, torch.inf, torch.nan, 1.0, 1e20], dtype=torch.float32)[:, None].expand(5, 3)
    sizes = torch.tensor([2.0, 1.0, 1.0, 3e38, 1e-30], dtype=torch.float32)
    result = solve(operator(sizes[:, None, None] * torch.eye(3, dtype=torch.float32)), rhs, max_steps=5, rtol=1e-6)
    assert result.status.tolist() == [Status.CONVERGED] + 4 * [Status.NOT_FINITE]
    torch.testing.assert_close(result.solution[0], torch.full((3,), 0.5, dtype=torch.float32), rtol=1e-6, atol=0)
    assert result.solution[1:].isnan().all()
    assert result.residual_norm.isnan().tolist() == [False] + 4 * [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_system_without_a_solution_is_no_positive_one(dtype):
    """F F' of integers, exactly singular: each of 500 ends at curvature zero to rounding, where the steps would lead to 1e133."""
    generator = torch.Generator().manual_seed(3)
    for size, rank in ((3, 1), (10, 3), (30, 29)):
        factor = torch.randint(-3, 4, (500, size, rank), generator=generator).to(dtype)
        rhs = torch.randn(500, size, generator=generator).to(dtype)
        result = conjugate_gradient(operator(factor @ factor.mT), rhs, max_steps=100)
        assert (result.status == Status.NEGATIVE_CURVATURE).all()
        assert result.solution.isfinite().all()


def test_minres_of_a_singular_system_is_the_least_squares_solution():
    """v v' x = b has no solution; of all that come nearest the smallest is v (v'b) / |v|^4."""
    v, rhs = vectors(20, 4), vectors(20, 4, seed=2)
    result = minres(operator(v[:, :, None] * v[:, None]), rhs, max_steps=10)
    assert result.status.tolist() == [Status.NEGATIVE_CURVATURE] * 20
    product = v * ((v * rhs).sum(1) / (v * v).sum(1))[:, None]
    torch.testing.assert_close((v * result.solution).sum(1)[:, None] * v, product, rtol=1e-12, atol=1e-13)


def test_the_true_residual_is_not_the_recurrences():
    """float32, condition 1e4, 400 steps: MINRES' recurrence came to 6e-5 where 3e-3 was true; begun anew it comes to 5e-4."""
    matrices = with_spectrum(torch.logspace(0, 4, 200).tolist())
    rhs = vectors(1, 200)
    for solve in SOLVERS.values():
        result = solve(operator(matrices.float()), rhs.float(), max_steps=400)
        true = ((rhs - result.solution.double() @ matrices[0]).norm() / rhs.norm()).item()
        measured = relative_residual(operator(matrices.float()), rhs.float(), result.solution).item()
        assert measured == pytest.approx(true, rel=0.2)  # one product in float32
        assert true < 5e-4
        assert true < 2.5 * result.residual_norm.item()


def test_a_residual_of_zero_over_zero_is_zero():
    assert relative_residual(operator(torch.eye(3)[None]), torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [0.0]


def test_a_preconditioner_of_the_inverse_diagonal_solves_a_diagonal_system_in_one_step():
    diagonal = torch.tensor([[1.0, 100.0, 1e4], [2.0, 3.0, 5.0]], dtype=torch.float64)
    rhs = torch.tensor([[3.0, -1.0, 7.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    operator = LinearOperator(lambda vectors: diagonal * vectors)
    result = conjugate_gradient(operator, rhs, max_steps=1, preconditioner=diagonal.rsqrt())
    torch.testing.assert_close(result.solution, rhs / diagonal, rtol=1e-14, atol=0)
    torch.testing.assert_close(result.min_curvature, torch.ones(2, dtype=torch.float64), rtol=1e-14, atol=0)
    # No step at all gives S^2 rhs, the first search direction.
    none = conjugate_gradient(operator, rhs, max_steps=0, preconditioner=diagonal.rsqrt())
    torch.testing.assert_close(none.solution, rhs / diagonal, rtol=1e-14, atol=0)


def test_a_start_is_given_in_the_coordinates_of_the_system():
    diagonal = torch.tensor([[1.0, 4.0, 9.0]], dtype=torch.float64)
    exact = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    operator = LinearOperator(lambda vectors: diagonal * vectors)
    result = conjugate_gradient(operator, diagonal * exact, max_steps=3, start=exact, preconditioner=diagonal + 1)
    torch.testing.assert_close(result.solution, exact, rtol=1e-14, atol=0)
    assert result.steps.tolist() == [0]


def test_the_residual_is_computed_anew_as_often_as_asked():
    """One product for each step, and one more after every second of six."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(1, 8, 8, generator=generator, dtype=torch.float64)
    matrix, products = root @ root.mT + torch.eye(8, dtype=torch.float64), []

    def apply(vectors):
        products.append(vectors)
        return torch.einsum("bij,bj->bi", matrix, vectors)

    conjugate_gradient(LinearOperator(apply), torch.ones(1, 8, dtype=torch.float64), max_steps=6, refresh_every=2)
    assert len(products) == 6 + 3
