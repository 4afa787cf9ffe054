"""The Hessian-free inner solver against closed forms, and that it finds what other solvers find."""

import dataclasses
import itertools

import pytest
import torch

from metarun import rng
from metarun.algorithm import NewtonCG
from metarun.algorithm.inner.loop import solve
from metarun.algorithm.inner_problem import InnerProblem
from metarun.maths.trees import Params, norm_per_task
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.regression import Regression
from metarun.tasks.sinusoid import Sinusoid
from tests.calls import inner_problem, meta_step

from .closed_forms import Quadratic, composed, descent, implicit, quadratic, stacked

pytestmark = pytest.mark.usefixtures("float64")


def newton(**changes) -> NewtonCG:
    settings = {
        "steps": 1,
        "cg_steps": 3,
        "curvature": "hessian",
        "damping": 0.0,
        "adapt_damping": False,
        "rtol": 0.0,
        "forcing": False,
        "progress_rtol": 0.0,
        "warm_start": 0.0,
        "max_backtracks": 20,
        "tolerance": 0.0,
    }
    return NewtonCG(**settings | changes)


def curved() -> tuple[InnerProblem, Params]:
    """1/2 (phi - 1)' diag(1, 4, 9) (phi - 1), lambda = 1, theta = 0."""
    tasks = quadratic(([1.0, 4.0, 9.0], [1.0, 1.0, 1.0]), ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]))
    theta = {"phi": torch.zeros(3)}
    return inner_problem(Quadratic(), tasks, theta, 1.0), theta


def test_one_newton_step_solves_a_quadratic():
    """HF1: phi* = (1/2, 4/5, 9/10); three distinct eigenvalues, so three CG steps are exact and the whole step is taken."""
    inner, _ = curved()
    solution = solve(newton(), inner)
    torch.testing.assert_close(solution.params["phi"][0], torch.tensor([0.5, 0.8, 0.9]), rtol=1e-13, atol=0)
    assert solution.stats["inner/backtracks"].tolist() == [0.0]
    assert solution.stats["inner/cg_steps"].tolist() == [3.0]
    assert solution.stats["inner/residual"].item() < 1e-14


def test_one_cg_step_is_the_steepest_descent_of_the_model():
    """HF1: the step is (49/446) (1, 4, 9)."""
    inner, _ = curved()
    solution = solve(newton(cg_steps=1), inner)
    expected = 49 / 446 * torch.tensor([1.0, 4.0, 9.0])
    torch.testing.assert_close(solution.params["phi"][0], expected, rtol=1e-13, atol=0)


def test_damping_shrinks_by_two_thirds_where_the_model_is_right(monkeypatch):
    """HF1: the model is that of the undamped objective, so on a quadratic it keeps its promise whatever the damping."""
    inner, _ = curved()
    shifts = []
    from metarun.maths import operators

    shifted = operators.LinearOperator.shifted

    def listening(operator, amount):
        if isinstance(amount, torch.Tensor) and amount.shape == (1, 1):
            shifts.append(amount.item())
        return shifted(operator, amount)

    monkeypatch.setattr(operators.LinearOperator, "shifted", listening)
    solve(newton(steps=4, damping=0.9, adapt_damping=True), inner)
    assert shifts == pytest.approx([0.9, 0.6, 0.4, 0.8 / 3], rel=1e-12)


def test_tasks_end_one_by_one():
    """A task that starts at its solution does not move, whatever the others do; nor does it count CG steps."""
    start = quadratic(([1.0, 4.0, 9.0], [0.0, 0.0, 0.0]), ([1.0] * 3, [0.0] * 3))
    other = quadratic(([1.0, 4.0, 9.0], [1.0, 1.0, 1.0]), ([1.0] * 3, [0.0] * 3))
    tasks = stacked(start, other)
    inner = inner_problem(Quadratic(), tasks, {"phi": torch.zeros(3)}, 1.0)
    solution = solve(newton(steps=2, tolerance=1e-12), inner)
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.8, 0.9]])
    torch.testing.assert_close(solution.params["phi"], expected, rtol=1e-13, atol=0)
    assert solution.stats["inner/cg_steps"].tolist() == [0.0, 1.5]


@dataclasses.dataclass(frozen=True)
class Net:
    """A tanh net on three curves: not convex, smooth."""

    problem: Regression
    theta: Params
    tasks: object

    @staticmethod
    def make() -> "Net":
        with rng.seeded_construction(0, "test"):
            module = MLP(input_shape=(1,), num_outputs=1, hidden=(5,), activation="tanh").double()
        learner = Learner(module)
        source = Sinusoid(amplitude=(0.5, 2.0), phase=(0.0, 3.0), inputs=(-2.0, 2.0))
        tasks = source.sample(0, "train", torch.arange(3), 5, 4)
        return Net(Regression(learner), learner.init(dtype=torch.float64), tasks)

    def inner(self, weight: float) -> InnerProblem:
        return inner_problem(self.problem, self.tasks, self.theta, weight)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("weight", [0.05, 2.0])
@pytest.mark.parametrize("adapt_damping", [False, True])
def test_every_step_descends_and_the_end_is_stationary(curvature, weight, adapt_damping):
    """HF2: with the Hessian and a small lambda directions of negative curvature are met on the way."""
    inner = Net.make().inner(weight)
    chosen = newton(
        cg_steps=16, curvature=curvature, damping=0.1 * adapt_damping, adapt_damping=adapt_damping, tolerance=1e-8
    )
    values = [inner.value(solve(chosen, inner, steps).params) for steps in range(8)]
    for before, after in itertools.pairwise(values):
        assert (after <= before + 1e-13).all()
    # Gauss-Newton converges linearly where residuals remain.
    phi = solve(chosen, inner, 300).params
    start = norm_per_task(inner.gradient(inner.start))
    assert (norm_per_task(inner.gradient(phi)) < 1e-7 * start).all()


def test_the_meta_gradient_does_not_ask_how_phi_was_found():
    """HF2: gradient descent and Newton-CG by both curvatures share the minimum of a strongly convex problem."""
    net = Net.make()
    weight = 5.0
    gradients = []
    for inner in (
        descent(400, 0.1),
        newton(steps=60, cg_steps=16, curvature="gauss_newton"),
        newton(steps=60, cg_steps=16, curvature="hessian", forcing=True, tolerance=1e-13),
        newton(steps=60, cg_steps=40, curvature="gauss_newton", progress_rtol=5e-4, warm_start=0.5),
    ):
        chosen = composed(inner, implicit(16), weight=weight)
        estimate = meta_step(chosen, net.theta, net.problem, net.tasks)
        assert (estimate.stats["inner/residual"] < 1e-10).all()
        gradients.append(torch.cat([leaf.flatten() for leaf in estimate.gradient.values()]))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-8, atol=1e-10)


def test_a_step_that_overflows_is_backed_from():
    """exp grows without end: the whole step lands at infinity in value, the search must come back from there."""

    @dataclasses.dataclass(frozen=True)
    class Steep(Quadratic):
        def loss(self, outputs, targets):
            return torch.where(outputs > 5, torch.inf, (outputs - 4) ** 2 / 50 - outputs * 0.5).sum()

    tasks = quadratic(([1.0], [0.0]), ([1.0], [0.0]))
    inner = inner_problem(Steep(), tasks, {"phi": torch.zeros(1)})
    # slope -0.66, curvature 0.04: the whole step is 16.5, two halvings land at 4.125.
    solution = solve(newton(cg_steps=1), inner)
    assert solution.params["phi"].item() == pytest.approx(4.125, rel=1e-12)
    assert solution.stats["inner/backtracks"].tolist() == [2.0]
