"""d phi / d theta as the implicit meta-gradient has it: one linear map and its transpose, however early its solver stops."""

import dataclasses

import pytest
import torch
from torch import Tensor

from metarun.algorithm import Algorithm, ConjugateGradient, Dense, Implicit, Minres, Richardson, TrustRegion
from metarun.algorithm.bilevel import Bilevel
from metarun.algorithm.direction.adapted_models import fisher
from metarun.algorithm.meta_gradient.solver.system import LinearSolver
from metarun.algorithm.protocols import AdaptedTasks
from metarun.build import make_parts
from metarun.device.course import Course, course
from metarun.device.ranks import ALONE
from metarun.maths.operators import LinearOperator, dense
from metarun.maths.trees import Params, ravel
from metarun.problems.collected import keeping
from tests.calls import bilevel
from tests.training.small import NAVIGATION, QUICK, configuration

from .closed_forms import Quadratic, composed, descent, quadratic, stacked
from .compositions import setting

pytestmark = pytest.mark.usefixtures("float64")


def cg(steps: int, policy: str = "damp") -> ConjugateGradient:
    return ConjugateGradient(steps=steps, rtol=0.0, atol=0.0, negative_curvature=policy)


SOLVERS = {
    "no step": cg(0),
    "cg": cg(2),
    "cg to the end": cg(100),
    "minres": Minres(steps=2, rtol=0.0),
    "richardson": Richardson(steps=2, step_size=0.2),
    "dense": Dense(),
}
WEIGHTS = {
    "one": {"weight": 0.3},
    "by layer": {"weight": {"*.3.*": 0.2, "*": 0.7}},
    "learned": {"weight": 0.3, "learn_proximal_weight": "layer"},
    "of each parameter": {"weight": 0.3, "learn_proximal_weight": "parameter"},
}


def at_phi(
    solver: LinearSolver, weight: str, kind: str = "classification", **changes
) -> tuple[Algorithm, Bilevel, Params]:
    """An algorithm, two tasks at theta, and phi; learned lambdas are turned away from each other."""
    here = setting(kind)
    part = Implicit(**{"curvature": "gauss_newton", "solver": solver, "damping": 0.0} | changes)
    chosen = composed(descent(3, 0.2), part, **WEIGHTS[weight])
    theta = chosen.meta_parameters(here.problem, here.theta)
    generator = torch.Generator().manual_seed(4)
    turned = {n: leaf - torch.rand(leaf.shape, generator=generator) for n, leaf in theta.items() if n not in here.theta}
    there = chosen.bilevel(theta.updated(turned), here.problem, here.tasks)
    return chosen, there, there.solve().params


def random(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def matrices(product, like: Tensor) -> Tensor:
    """[B, D, D]"""
    return dense(LinearOperator(product), *like.shape, like=like)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_pull_is_the_transpose_of_push_and_both_are_linear(solver, weight, curvature):
    chosen, there, phi = at_phi(SOLVERS[solver], weight, curvature=curvature)
    jacobian = chosen.meta_gradient.jacobian(there, phi)
    u, v = random(ravel(phi), 1), random(ravel(phi), 2)
    left, right = (jacobian.push(u) * v).sum(1), (u * jacobian.pull(v)).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    for product in (jacobian.push, jacobian.pull):
        torch.testing.assert_close(product(u - 3 * v), product(u) - 3 * product(v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "changes", [{}, {"damping": 0.4, "identity": 2.0, "weight_offset": 0.5}], ids=["iMAML", "another system"]
)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("solver", ["cg to the end", "minres to the end", "dense"])
def test_with_enough_steps_it_is_the_closed_form(solver, weight, changes):
    """(C + L)^-1 L; another system: L^-1/2 (2 + L^-1/2 (C + 0.4) L^-1/2)^-1 L^1/2 with L = lambda + 0.5."""
    solvers = SOLVERS | {"minres to the end": Minres(steps=100, rtol=0.0)}
    chosen, there, phi = at_phi(solvers[solver], weight, **changes)
    like = ravel(phi)
    curvature = dense(there.inner.curvature(phi, "gauss_newton"), *like.shape, like=like)
    unit = torch.eye(like.shape[1])
    weights = there.inner.regulariser.hessian_diagonal(phi) * torch.ones_like(like) + changes.get("weight_offset", 0.0)
    root = weights.sqrt()
    system = (curvature + changes.get("damping", 0.0) * unit) / root[:, :, None] / root[:, None, :]
    inverse = torch.linalg.inv(system + changes.get("identity", 1.0) * unit)
    expected = inverse * root[:, None, :] / root[:, :, None]
    if not changes:
        closed = torch.linalg.solve(curvature + torch.diag_embed(weights), torch.diag_embed(weights))
        torch.testing.assert_close(expected, closed, rtol=1e-11, atol=1e-12)
    jacobian = chosen.meta_gradient.jacobian(there, phi)
    torch.testing.assert_close(matrices(jacobian.push, like), expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(matrices(jacobian.pull, like), expected.mT, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("weight", ["one", "by layer"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_pulled_back_fisher_matrix_is_symmetric(solver, weight, kind):
    """And positive semi-definite. By solving for each vector with two CG steps it was neither."""
    chosen, there, phi = at_phi(SOLVERS[solver], weight, kind)
    chunk = AdaptedTasks(there, chosen.meta_gradient.estimate(there))
    size = ravel(phi).shape[1]
    for recompute in (False, True):
        metric = fisher([chunk], chosen.meta_gradient, ALONE, point="pullback", recompute=recompute)
        matrix = dense(metric, 1, size, like=ravel(phi))[0]
        assert (matrix - matrix.T).norm() <= 1e-12 * matrix.norm()
        assert torch.linalg.eigvalsh(matrix)[0] >= -1e-13 * matrix.norm()


def test_solving_for_each_vector_would_not_be_symmetric():
    """What the fixed map is for: two steps of CG for each column of P'FP."""
    chosen, there, phi = at_phi(cg(2), "one")
    system = chosen.meta_gradient._system(there.inner, phi)
    found = matrices(lambda v: chosen.meta_gradient.solver.solve(system.with_rhs(v)).solution, ravel(phi))
    assert ((found - found.mT).flatten(1).norm(dim=1) > 1e-3 * found.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("weight", ["one", "by layer"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("policy", ["stop", "damp", "abs", "gauss_newton", "minres", "raise"])
def test_the_pull_of_the_query_gradient_is_the_meta_gradient(policy, steps, weight):
    """However few the steps, and whatever else P is."""
    chosen, there, phi = at_phi(cg(steps, policy), weight)
    expected = ravel(chosen.meta_gradient.estimate(there).gradient)
    pulled = chosen.meta_gradient.jacobian(there, phi).pull(ravel(there.query_gradient(phi)[1]))
    torch.testing.assert_close(pulled, expected, rtol=1e-10, atol=1e-12)


def test_no_step_is_first_order():
    chosen, there, phi = at_phi(cg(0), "by layer", identity=2.0)
    jacobian = chosen.meta_gradient.jacobian(there, phi)
    u = random(ravel(phi), 1)
    torch.testing.assert_close(jacobian.push(u), u, rtol=1e-15, atol=0)


def test_as_many_steps_as_dimensions_of_curvature_and_one_are_exact():
    """P'FP; three support examples of three classes have curvature in 3 (3 - 1) = 6 dimensions."""
    exact, errors = None, []
    for solver in (Dense(), cg(2), cg(4), cg(6), cg(7), cg(12)):
        chosen, there, phi = at_phi(solver, "one")
        chunk = AdaptedTasks(there, chosen.meta_gradient.estimate(there))
        metric = fisher([chunk], chosen.meta_gradient, ALONE, point="pullback")
        matrix = dense(metric, 1, ravel(phi).shape[1], like=ravel(phi))[0]
        exact = matrix if exact is None else exact
        errors.append(((matrix - exact).norm() / exact.norm()).item())
    assert errors[1] > errors[2] > errors[3] > 0.1
    assert max(errors[4:]) < 1e-12


# ---- Where A is not positive definite: support 1/2 sum a (phi - c)^2 with a = (-2, 1), lambda 1, so A = diag(-1, 2), and the query
# gradient is (1, 1); beside it a task with A = diag(3, 2). Two steps span everything, so P is what the policy makes of A.


def indefinite(policy: str, first: float = -2.0, steps: int = 2, **changes) -> tuple[Algorithm, Bilevel, Params]:
    tasks = stacked(*(quadratic(([a, 1.0], [0.0, 0.0]), ([1.0, 1.0], [0.0, 0.0])) for a in (first, 2.0)))
    part = Implicit(curvature="hessian", solver=cg(steps, policy), damping=0.0, **changes)
    chosen = composed(descent(0, 0.1), part, weight=1.0)
    there = bilevel(chosen, {"phi": torch.ones(2)}, Quadratic(), tasks)
    return chosen, there, there.solve().params


POLICIES = {
    # CG takes one step along (1, 1), where the curvature is 1/2, and meets none that is positive after it.
    "stop": [[1.5, 0.5], [0.5, 1.5]],
    # 1e-3, 1e-2, 0.1 and 1 do not suffice; the last is added to A.
    "damp": [[1 / 9, 0.0], [0.0, 1 / 12]],
    # In the basis (1, 1), (-1, 1) over root 2 A is [[1/2, 3/2], [3/2, 1/2]] = L diag(1/2, -4) L', L = [[1, 0], [3, 1]]: |D|.
    "abs": [[3.0, 2.0], [2.0, 1.5]],
    "minres": [[-1.0, 0.0], [0.0, 0.5]],
    # Of this problem's outputs, phi itself, it is I: A is 2 I.
    "gauss_newton": [[0.5, 0.0], [0.0, 0.5]],
}


@pytest.mark.parametrize("chosen_course", [Course.LOOKING, Course.STATIC])
@pytest.mark.parametrize("policy", POLICIES)
def test_negative_curvature_is_dealt_with_once_for_all_vectors(policy, chosen_course):
    chosen, there, phi = indefinite(policy)
    with course(chosen_course):
        jacobian = chosen.meta_gradient.jacobian(there, phi)
        found = matrices(jacobian.push, ravel(phi))
        torch.testing.assert_close(found[0], torch.tensor(POLICIES[policy]), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found[1], torch.diag(torch.tensor([1 / 3, 1 / 2])), rtol=1e-12, atol=1e-14)
        assert (matrices(jacobian.pull, ravel(phi)) - found.mT).abs().max() < 1e-14
        expected = ravel(chosen.meta_gradient.estimate(there).gradient)
        torch.testing.assert_close(jacobian.pull(torch.ones(2, 2)), expected, rtol=1e-12, atol=0)


def test_damping_is_the_first_that_suffices():
    """A = diag(-1/2, 2): 1 does."""
    chosen, there, phi = indefinite("damp", first=-1.5)
    found = matrices(chosen.meta_gradient.jacobian(there, phi).push, ravel(phi))
    torch.testing.assert_close(found[0], torch.diag(torch.tensor([2.0, 1 / 3])), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("policy", ["stop", "damp"])
def test_where_nothing_helps_it_is_first_order(policy):
    """A = diag(-98, 3) has curvature < 0 along (1, 1), and 10 is the largest damping; the identity's factor, 2, is no matter."""
    chosen, there, phi = indefinite(policy, first=-100.0, identity=2.0)
    found = matrices(chosen.meta_gradient.jacobian(there, phi).push, ravel(phi))
    torch.testing.assert_close(found[0], torch.eye(2), rtol=1e-14, atol=1e-15)


def test_raise_gives_no_number_for_that_task_alone():
    chosen, there, phi = indefinite("raise")
    with course(Course.STATIC):
        found = matrices(chosen.meta_gradient.jacobian(there, phi).push, ravel(phi))
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], torch.diag(torch.tensor([1 / 3, 1 / 2])), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("solver", ["cg", "cg to the end", "minres", "richardson", "dense"])
def test_a_curvature_that_is_not_finite_stays_alone(solver):
    tasks = stacked(*(quadratic(([a, 1.0], [0.0, 0.0]), ([1.0, 1.0], [0.0, 0.0])) for a in (torch.inf, 0.5)))
    chosen = composed(descent(0, 0.1), Implicit(curvature="hessian", solver=SOLVERS[solver], damping=0.0), weight=1.0)
    there = bilevel(chosen, {"phi": torch.ones(2)}, Quadratic(), tasks)
    found = chosen.meta_gradient.jacobian(there, there.solve().params).push(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert found[0].isnan().any()
    assert found[1].isfinite().all()


def test_of_policies_it_is_symmetric_too():
    """As `dataset=navigation2d algorithm=imaml` composes it: TRPO through the Hessian of a surrogate, which is indefinite."""
    parts = make_parts(configuration(*QUICK, *NAVIGATION, "device.dtype=float64", "algorithm=imaml"))
    theta = parts.theta.map(lambda leaf: leaf.to(parts.device, parts.dtype))
    tasks = parts.source.sample(0, "train", torch.arange(5), parts.schedule.shots, parts.schedule.queries)
    there = parts.algorithm.bilevel(theta, keeping(parts.problem), tasks.to(parts.device, parts.dtype))
    found = parts.algorithm.meta_gradient.estimate(there)
    assert found.stats["system/negative_curvature"].any()
    metric = fisher([AdaptedTasks(there, found)], parts.algorithm.meta_gradient, ALONE, point="pullback")
    like = ravel(found.params)
    matrix = dense(metric, 1, like.shape[1], like=like)[0]
    assert (matrix - matrix.T).norm() <= 1e-12 * matrix.norm()
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-13 * matrix.norm()


# ---- differences of gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["cg", "minres", "dense"])
def test_differences_are_made_linear_by_being_taken_once(solver):
    """Their products are neither linear nor symmetric beyond 1e-9; P is to rounding, and near that of second derivatives."""
    products = {}
    for curvature in ("finite_difference", "hessian"):
        chosen, there, phi = at_phi(SOLVERS[solver], "by layer", curvature=curvature)
        jacobian = chosen.meta_gradient.jacobian(there, phi)
        u, v = random(ravel(phi), 1), random(ravel(phi), 2)
        left, right = (jacobian.push(u) * v).sum(1), (u * jacobian.pull(v)).sum(1)
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
        products[curvature] = jacobian.push(u)
    torch.testing.assert_close(products["finite_difference"], products["hessian"], rtol=1e-5, atol=1e-6)


def test_iterating_on_differences_is_refused():
    region = TrustRegion(max_divergence=0.01, damping=0.0, steps=2, rtol=0.0, shrink=0.8, tries=2, recompute=False)
    part = Implicit(curvature="finite_difference", solver=SOLVERS["richardson"], damping=0.0)
    with pytest.raises(ValueError, match=r"TrustRegion needs d phi / d theta as a linear map.*solver=cg"):
        composed(descent(1, 0.1), part, weight=1.0, direction=region)
    composed(descent(1, 0.1), dataclasses.replace(part, curvature="hessian"), weight=1.0, direction=region)
    composed(descent(1, 0.1), dataclasses.replace(part, solver=cg(2)), weight=1.0, direction=region)
