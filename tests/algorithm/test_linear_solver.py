"""The solvers of the implicit system: what they say of their solutions, and what becomes of a system that overflows."""

import pytest
import torch

from metarun.algorithm import ConjugateGradient, Dense, Minres, Richardson
from metarun.algorithm.meta_gradient.solver.system import System
from metarun.maths.cg import Status
from metarun.maths.operators import LinearOperator
from tests.calls import meta_step, task_gradients

from .closed_forms import Quadratic, composed, descent, implicit, quadratic, stacked

pytestmark = pytest.mark.usefixtures("float64")

SOLVERS = {
    "cg": ConjugateGradient(steps=2, rtol=0.0, atol=0.0, negative_curvature="stop"),
    "no step": ConjugateGradient(steps=0, rtol=0.0, atol=0.0, negative_curvature="stop"),
    "minres": Minres(steps=2, rtol=0.0),
    "richardson": Richardson(steps=2, step_size=0.1),
    "dense": Dense(),
}
MATRIX = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))


def system(matrices: torch.Tensor, rhs: torch.Tensor) -> System:
    """`matrices` are C + I."""
    curvature = LinearOperator(lambda vectors: torch.einsum("bij,bj->bi", matrices, vectors) - vectors)
    return System(curvature, 1.0, 1.0, 1.0, lambda: curvature, rhs)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_residual_is_that_of_the_solution(solver):
    rhs = torch.tensor([[1.0, -2.0, 4.0], [3.0, 1.0, 1.0]])
    result = solver.solve(system(MATRIX.expand(2, 3, 3), rhs))
    left = (rhs - result.solution @ MATRIX).norm(dim=1) / rhs.norm(dim=1)
    torch.testing.assert_close(result.residual_norm, left, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_task_that_is_not_finite_stays_alone(solver):
    rhs = torch.tensor([[1.0, -2.0, 4.0], [3.0, 1.0, 1.0], [1.0, torch.nan, 1.0]])
    matrices = torch.stack([MATRIX, torch.full((3, 3), torch.inf), MATRIX])
    result = solver.solve(system(matrices, rhs))
    alone = solver.solve(system(MATRIX[None], rhs[:1]))
    assert torch.equal(result.solution[:1], alone.solution)
    assert result.status.tolist() == [alone.status.item(), Status.NOT_FINITE, Status.NOT_FINITE]
    assert result.solution[1:].isnan().all()
    assert result.residual_norm[1:].isnan().all()


def test_a_singular_matrix_is_no_error_of_the_batch():
    result = Dense().solve(system(torch.stack([MATRIX, torch.ones(3, 3)]), torch.ones(2, 3)))
    assert result.status.tolist() == [Status.CONVERGED, Status.NOT_FINITE]
    torch.testing.assert_close(result.solution[0], torch.tensor([1.0, 0.5, 0.2]), rtol=1e-15, atol=0)


@pytest.mark.parametrize("policy", ["stop", "damp", "minres", "gauss_newton", "abs"])
def test_a_curvature_that_overflows_leaves_no_meta_gradient(policy):
    """h / lambda = 1e300 / 1e-20, whatever is done about negative curvature; the task beside it: 1 / (1 + 1/1e-20)."""
    tasks = stacked(quadratic(([1.0], [1.0]), ([1.0], [0.0])), quadratic(([1e300], [1.0]), ([1.0], [0.0])))
    algorithm = composed(descent(0, 0.1), implicit(2, negative_curvature=policy), weight=1e-20)
    estimate = task_gradients(algorithm, {"phi": torch.ones(1)}, Quadratic(), tasks)
    assert estimate.gradient["phi"][0].item() == pytest.approx(1e-20, rel=1e-12)
    assert estimate.gradient["phi"][1].isnan().all()
    assert estimate.stats["system/not_finite"].tolist() == [False, True]
    assert estimate.stats["system/residual"].isnan().tolist() == [False, True]
    assert meta_step(algorithm, {"phi": torch.ones(1)}, Quadratic(), tasks).gradient["phi"].isnan().all()


def test_a_query_gradient_beyond_the_square_root_of_the_largest_number():
    """1e200 over 1 + 1/1, exactly; its square is infinite."""
    tasks = quadratic(([1.0], [1.0]), ([1e200], [0.0]))
    estimate = task_gradients(
        composed(descent(0, 0.1), implicit(2), weight=1.0), {"phi": torch.ones(1)}, Quadratic(), tasks
    )
    assert estimate.gradient["phi"].item() == pytest.approx(5e199, rel=1e-15)
    assert estimate.stats["system/residual"].item() < 1e-15
