"""Closed forms: quadratics in exact rationals, ridge regression in matrices, a bilinear net by hand.

Values derived independently of the package: `Fraction`s where they are rational, dense linear algebra elsewhere.
"""

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from metarun.algorithm import Algorithm, ConjugateGradient, FirstOrder, GradientDescent, Implicit, Plain, Unrolled
from metarun.algorithm.inner_problem import InnerProblem
from metarun.maths.operators import dense
from metarun.models.learner import Learner
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import adapt, bilevel, meta_step

from .closed_forms import Bilinear, Linear, Quadratic, one_task, toy

pytestmark = pytest.mark.usefixtures("float64")


def algorithm(meta_gradient, *, steps: int, step_size: float, weight: float = 0.0) -> Algorithm:
    inner = GradientDescent(steps=steps, step_size=step_size)
    return Algorithm(inner=inner, meta_gradient=meta_gradient, direction=Plain(), proximal_weight=weight)


def implicit(cg_steps: int, curvature: str = "hessian", negative_curvature: str = "stop") -> Implicit:
    solver = ConjugateGradient(steps=cg_steps, rtol=0.0, atol=0.0, negative_curvature=negative_curvature)
    return Implicit(curvature=curvature, solver=solver, damping=0.0)


def inner_problem(chosen: Algorithm, problem, tasks: TaskBatch, theta) -> InnerProblem:
    return bilevel(chosen, theta, problem, tasks).inner


# One parameter, quadratic losses: support a/2 (phi - c)^2, query b/2 (phi - e)^2; a=2, c=1, b=3, e=-1, theta=0.


def quadratic_tasks() -> TaskBatch:
    return one_task((torch.zeros(1), torch.tensor([2.0, 1.0])), (torch.zeros(1), torch.tensor([3.0, -1.0])))


@pytest.mark.parametrize(
    ("chosen", "phi", "expected"),
    [
        pytest.param(algorithm(Unrolled(), steps=1, step_size=1 / 4), "1/2", "9/4", id="maml-1"),
        pytest.param(algorithm(FirstOrder(), steps=1, step_size=1 / 4), "1/2", "9/2", id="fomaml-1"),
        pytest.param(algorithm(Unrolled(), steps=2, step_size=1 / 4), "3/4", "21/16", id="maml-2"),
        pytest.param(algorithm(Unrolled(), steps=3, step_size=1 / 4), "7/8", "45/64", id="maml-3"),
        # One step of size 1 / (a + lambda) lands on the minimum.
        pytest.param(algorithm(implicit(1), steps=1, step_size=1 / 8, weight=6.0), "1/4", "45/16", id="imaml-exact"),
        pytest.param(algorithm(implicit(1), steps=200, step_size=1 / 16, weight=6.0), "1/4", "45/16", id="imaml-200"),
        *(
            pytest.param(
                algorithm(Unrolled(), steps=steps, step_size=1 / 16, weight=6.0), phi, expected, id=f"prox-{steps}"
            )
            for steps, phi, expected in [
                (1, "1/8", "189/64"),
                (2, "3/16", "741/256"),
                (4, "15/64", "11613/4096"),
                (8, "255/1024", "2950653/1048576"),
                (16, "65535/262144", "193273921533/68719476736"),
                (200, "1/4", "45/16"),
            ]
        ),
    ],
)
def test_scalar_quadratic(chosen, phi, expected):
    problem, tasks, theta = Quadratic(), quadratic_tasks(), {"phi": torch.zeros(1)}
    adapted = adapt(chosen, theta, problem, tasks)["phi"].item()
    assert adapted == pytest.approx(float(Fraction(phi)), rel=1e-14)
    estimate = meta_step(chosen, theta, problem, tasks)
    assert estimate.gradient["phi"].item() == pytest.approx(float(Fraction(expected)), rel=1e-14)
    assert estimate.query_loss.item() == pytest.approx(float(Fraction(3, 2) * (Fraction(phi) + 1) ** 2), rel=1e-14)


def test_the_mean_over_tasks_is_taken_whatever_the_chunk():
    """Tasks with c = 1, 2, 3 have meta-gradients 9/4, 3 and 15/4 (MAML, one step of 1/4): J b (phi - e), phi = c/2."""
    one = quadratic_tasks()
    targets = torch.tensor([[2.0, 1.0], [2.0, 2.0], [2.0, 3.0]])
    tasks = TaskBatch(
        Examples(torch.zeros(3, 1), targets), Examples(torch.zeros(3, 1), one.query.targets.expand(3, 2)), {}
    )
    chosen = algorithm(Unrolled(), steps=1, step_size=1 / 4)
    for chunk in (1, 2, 3, None):
        estimate = meta_step(chosen, {"phi": torch.zeros(1)}, Quadratic(), tasks, chunk)
        assert estimate.gradient["phi"].item() == pytest.approx(3.0, rel=1e-14)


# Linear regression with losses mean/2 of squares, so that H = X'X/n: n = number of support points.


def tiny_tasks() -> TaskBatch:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    return one_task((x, y), (torch.tensor([[1.0, 0.0]]), torch.tensor([0.0])))


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize(("cg_steps", "expected"), [(1, (5 / 6, 0.0)), (2, (25 / 18, -5 / 9)), (5, (25 / 18, -5 / 9))])
def test_ridge_regression_with_one_point(cg_steps, expected, curvature):
    """RR1: phi* = (5/3, 1/3); the system has two distinct eigenvalues, so two CG steps are exact and further ones harmless."""
    chosen = algorithm(implicit(cg_steps, curvature), steps=400, step_size=1 / 6, weight=1.0)
    theta = {"phi": torch.tensor([1.0, -1.0])}
    phi = adapt(chosen, theta, Linear(), tiny_tasks())["phi"][0]
    torch.testing.assert_close(phi, torch.tensor([5 / 3, 1 / 3]), rtol=1e-13, atol=0)
    estimate = meta_step(chosen, theta, Linear(), tiny_tasks())
    torch.testing.assert_close(estimate.gradient["phi"], torch.tensor(expected), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("estimator", "expected"), [(Unrolled(), (1.26, -0.28)), (FirstOrder(), (1.4, 0.0))])
def test_one_maml_step_on_one_point(estimator, expected):
    """RR2."""
    chosen = algorithm(estimator, steps=1, step_size=0.1)
    theta = {"phi": torch.tensor([1.0, -1.0])}
    phi = adapt(chosen, theta, Linear(), tiny_tasks())["phi"][0]
    torch.testing.assert_close(phi, torch.tensor([1.4, -0.2]), rtol=1e-14, atol=0)
    estimate = meta_step(chosen, theta, Linear(), tiny_tasks())
    torch.testing.assert_close(estimate.gradient["phi"], torch.tensor(expected), rtol=1e-14, atol=1e-15)


@dataclass(frozen=True)
class Ridge:
    """Random linear regression and its dense solution: 6 support points, 5 query points, 4 parameters."""

    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor
    theta: Tensor
    hessian: Tensor
    weight: float = 1.0

    @staticmethod
    def make() -> "Ridge":
        g = torch.Generator().manual_seed(0)
        x, y, query_x, query_y, theta = (torch.randn(*s, generator=g) for s in [(6, 4), (6,), (5, 4), (5,), (4,)])
        return Ridge(x, y, query_x, query_y, theta, x.T @ x / 6)

    @property
    def tasks(self) -> TaskBatch:
        return one_task((self.x, self.y), (self.query_x, self.query_y))

    @property
    def curvatures(self) -> tuple[float, float]:
        values = torch.linalg.eigvalsh(self.hessian)
        return values[0].item(), values[-1].item()

    def solution(self, theta: Tensor, weight: float) -> Tensor:
        system = self.hessian + weight * torch.eye(4)
        return torch.linalg.solve(system, self.x.T @ self.y / 6 + weight * theta)

    def query_gradient(self, phi: Tensor) -> Tensor:
        return self.query_x.T @ (self.query_x @ phi - self.query_y) / 5

    def exact(self, weight: float) -> Tensor:
        system = self.hessian + weight * torch.eye(4)
        return weight * torch.linalg.solve(system, self.query_gradient(self.solution(self.theta, weight)))


@pytest.fixture
def ridge(float64) -> Ridge:
    return Ridge.make()


def converged_imaml(ridge: Ridge, weight: float, cg_steps: int = 4) -> Algorithm:
    step_size = 1 / (ridge.curvatures[1] + weight)
    return algorithm(implicit(cg_steps), steps=400, step_size=step_size, weight=weight)


def test_implicit_gradient_of_ridge_regression(ridge):
    """RR3: the dense closed form, and central differences of theta -> query loss at the exact inner solution."""
    estimate = meta_step(converged_imaml(ridge, 1.0), {"phi": ridge.theta}, Linear(), ridge.tasks)
    torch.testing.assert_close(estimate.gradient["phi"], ridge.exact(1.0), rtol=1e-10, atol=0)

    def loss(theta: Tensor) -> Tensor:
        return ((ridge.query_x @ ridge.solution(theta, 1.0) - ridge.query_y) ** 2).mean() / 2

    differences = [(loss(ridge.theta + 1e-6 * e) - loss(ridge.theta - 1e-6 * e)) / 2e-6 for e in torch.eye(4)]
    torch.testing.assert_close(estimate.gradient["phi"], torch.stack(differences), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32, 64])
def test_early_stopped_inner_loop(ridge, steps):
    """RR4: unrolled = J_K' slope; implicit is off by no more than (lambda/mu) L |phi_K - phi*| (quadratic support loss)."""
    weight, (low, high), theta = 1.0, ridge.curvatures, {"phi": ridge.theta}
    step_size = 1 / (high + weight)
    unrolled = algorithm(Unrolled(), steps=steps, step_size=step_size, weight=weight)
    stopped = algorithm(implicit(20), steps=steps, step_size=step_size, weight=weight)
    phi = adapt(stopped, theta, Linear(), ridge.tasks)["phi"][0]

    system = ridge.hessian + weight * torch.eye(4)
    inverse = torch.linalg.inv(system)
    shrinking = torch.linalg.matrix_power(torch.eye(4) - step_size * system, steps)
    jacobian = weight * inverse + shrinking @ ridge.hessian @ inverse
    actual = meta_step(unrolled, theta, Linear(), ridge.tasks).gradient["phi"]
    torch.testing.assert_close(actual, jacobian.T @ ridge.query_gradient(phi), rtol=1e-12, atol=1e-13)

    actual = meta_step(stopped, theta, Linear(), ridge.tasks).gradient["phi"]
    smoothness = torch.linalg.eigvalsh(ridge.query_x.T @ ridge.query_x / 5)[-1]
    distance = (phi - ridge.solution(ridge.theta, weight)).norm()
    assert (actual - ridge.exact(weight)).norm() <= weight / (low + weight) * smoothness * distance + 1e-12


def test_large_weight_limit_is_one_maml_step(ridge):
    """RR5: the difference to MAML with one step of 1/lambda falls as lambda^-2, so that times lambda^2 it is constant."""
    theta, scaled = {"phi": ridge.theta}, []
    for weight in (1e2, 1e3, 1e4):
        implicit_gradient = meta_step(converged_imaml(ridge, weight), theta, Linear(), ridge.tasks).gradient["phi"]
        maml = algorithm(Unrolled(), steps=1, step_size=1 / weight)
        maml_gradient = meta_step(maml, theta, Linear(), ridge.tasks).gradient["phi"]
        scaled.append((implicit_gradient - maml_gradient).norm().item() * weight**2)
    assert scaled[0] > 0.1
    assert scaled[1] == pytest.approx(scaled[0], rel=0.1)
    assert scaled[2] == pytest.approx(scaled[1], rel=0.01)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_regression_has_no_half(ridge, curvature):
    """`Regression` is the mean squared error itself, so H, the linear term and the query slope double."""
    module = nn.Linear(4, 1, bias=False)
    problem = Regression(Learner(module).to("cpu", torch.float64))
    theta = {"weight": ridge.theta[None]}
    tasks = one_task((ridge.x, ridge.y[:, None]), (ridge.query_x, ridge.query_y[:, None]))
    weight = 1.0
    step_size = 1 / (2 * ridge.curvatures[1] + weight)
    system = 2 * ridge.hessian + weight * torch.eye(4)
    phi = torch.linalg.solve(system, 2 * ridge.x.T @ ridge.y / 6 + weight * ridge.theta)
    expected = weight * torch.linalg.solve(system, 2 * ridge.query_gradient(phi))
    chosen = algorithm(implicit(4, curvature), steps=800, step_size=step_size, weight=weight)
    actual = meta_step(chosen, theta, problem, tasks).gradient["weight"][0]
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)


# A bilinear net: output w b, support 1/2 (w b - 1)^2, query 1/2 (w b - 3)^2, theta = (w, b) = (1, 2).


def toy_by_newton(curvature: str, weight: float = 2.0) -> tuple[Tensor, Tensor]:
    """phi* of the proximal problem, and the meta-gradient by a dense solve there."""
    theta = torch.tensor([1.0, 2.0])
    phi = theta.clone()
    for _ in range(50):
        w, b = phi
        slope = (w * b - 1) * torch.stack([b, w]) + weight * (phi - theta)
        hessian = torch.stack([torch.stack([b * b, 2 * w * b - 1]), torch.stack([2 * w * b - 1, w * w])])
        phi = phi - torch.linalg.solve(hessian + weight * torch.eye(2), slope)
    w, b = phi
    jacobian = torch.stack([b, w])
    matrix = hessian if curvature == "hessian" else torch.outer(jacobian, jacobian)
    return phi, torch.linalg.solve(torch.eye(2) + matrix / weight, (w * b - 3) * jacobian)


def converged_toy(curvature: str) -> Algorithm:
    return algorithm(implicit(2, curvature), steps=400, step_size=0.15, weight=2.0)


@pytest.mark.parametrize(("estimator", "expected"), [(Unrolled(), (-1.332, -0.222)), (FirstOrder(), (-2.812, -1.184))])
def test_bilinear_net_after_one_step(estimator, expected):
    """TOY1, TOY2."""
    theta, tasks = toy()
    gradient = meta_step(algorithm(estimator, steps=1, step_size=0.1), theta, Bilinear(), tasks).gradient
    torch.testing.assert_close(torch.cat([gradient["w"], gradient["b"]]), torch.tensor(expected), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("curvature", "published"),
    [("hessian", (-1.07006238, -0.23913971)), ("gauss_newton", (-1.04853143, -0.38785624))],
)
def test_bilinear_net_with_implicit_gradient(curvature, published):
    """TOY5, TOY6: the two curvatures give different gradients, each the one of its dense system."""
    theta, tasks = toy()
    chosen = converged_toy(curvature)
    phi, expected = toy_by_newton(curvature)
    torch.testing.assert_close(phi, torch.tensor([0.69856317, 1.88849723]), rtol=0, atol=6e-9)
    torch.testing.assert_close(expected, torch.tensor(published), rtol=0, atol=6e-9)
    adapted = adapt(chosen, theta, Bilinear(), tasks)
    torch.testing.assert_close(torch.cat([adapted["w"], adapted["b"]])[:, 0], phi, rtol=1e-12, atol=0)
    gradient = meta_step(chosen, theta, Bilinear(), tasks).gradient
    torch.testing.assert_close(torch.cat([gradient["w"], gradient["b"]]), expected, rtol=1e-10, atol=0)


def test_bilinear_curvatures():
    """At theta H = [[4, 3], [3, 1]] and J'MJ = [[4, 2], [2, 1]]; at phi* H is indefinite and H + lambda I is not (TOY7)."""
    theta, tasks = toy()
    chosen = converged_toy("hessian")
    inner = inner_problem(chosen, Bilinear(), tasks, theta)
    like = torch.zeros(())
    hessian = dense(inner.curvature(inner.start, "hessian"), 1, 2, like=like)[0]
    torch.testing.assert_close(hessian, torch.tensor([[4.0, 3.0], [3.0, 1.0]]), rtol=1e-15, atol=0)
    gauss_newton = dense(inner.curvature(inner.start, "gauss_newton"), 1, 2, like=like)[0]
    torch.testing.assert_close(gauss_newton, torch.tensor([[4.0, 2.0], [2.0, 1.0]]), rtol=1e-15, atol=0)

    phi = adapt(chosen, theta, Bilinear(), tasks)
    eigenvalues = torch.linalg.eigvalsh(dense(inner.curvature(phi, "hessian"), 1, 2, like=like)[0])
    torch.testing.assert_close(eigenvalues, torch.tensor([-0.2209, 4.2753]), rtol=0, atol=5e-5)
    stats = meta_step(chosen, theta, Bilinear(), tasks).stats
    assert not stats["system/negative_curvature"].any()
    assert stats["system/residual"].item() < 1e-14


def test_negative_curvature_stops_a_task_where_it_is():
    """At theta, lambda = 1/2: A = I + 2H is indefinite (TOY8), and the query slope is -(2, 1).

    p'Ap = 5 + 2 * 29 = 63 > 0 there, so one step of 5/63 is made; the next direction has curvature < 0 and ends it.
    """
    theta, tasks = toy()
    estimate = meta_step(algorithm(implicit(5), steps=0, step_size=0.1, weight=0.5), theta, Bilinear(), tasks)
    assert estimate.stats["system/negative_curvature"].tolist() == [True]
    assert estimate.stats["system/steps"].tolist() == [1]
    assert estimate.stats["system/min_curvature"].item() < 0
    gradient = torch.cat([estimate.gradient["w"], estimate.gradient["b"]])
    torch.testing.assert_close(gradient, torch.tensor([-10 / 63, -5 / 63]), rtol=1e-14, atol=0)
