"""Theorems that hold for every problem: derivatives of the whole pipeline, limits between algorithms, order, memory."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from metarun import rng
from metarun.algorithm import (
    Algorithm,
    ConjugateGradient,
    FirstOrder,
    GradientDescent,
    Implicit,
    Plain,
    Recursion,
    Unrolled,
)
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.proximal import ProximalTerm
from metarun.maths.trees import Params, axpy
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.regression import Regression
from metarun.tasks.sinusoid import Sinusoid
from metarun.tasks.types import Examples, TaskBatch
from metarun.training.evaluate import Evaluation, Evaluator
from tests.calls import adapt, bilevel, meta_step, sorted_theta

from .held import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")

NUM_TASKS = 3


def algorithm(meta_gradient, *, steps: int, step_size: float, weight: float = 0.0) -> Algorithm:
    inner = GradientDescent(steps=steps, step_size=step_size)
    return Algorithm(inner=inner, meta_gradient=meta_gradient, direction=Plain(), proximal_weight=weight)


def implicit(cg_steps: int = 30, **changes) -> Implicit:
    solver = {"steps": cg_steps, "rtol": 1e-13, "atol": 0.0, "negative_curvature": "raise"}
    solver |= {name: changes.pop(name) for name in list(changes) if name in solver}
    return Implicit(**{"curvature": "hessian", "solver": ConjugateGradient(**solver), "damping": 0.0} | changes)


@dataclasses.dataclass(frozen=True)
class Net:
    """A tanh net of 10 parameters on curves; smooth, so that every limit below is sharp."""

    problem: Regression
    theta: Params
    tasks: TaskBatch

    @staticmethod
    def make(hidden: int = 3) -> "Net":
        with rng.seeded_construction(0, "test"):
            module = MLP(input_shape=(1,), num_outputs=1, hidden=(hidden,), activation="tanh").double()
        learner = Learner(module, head="layers.3")
        return Net(Regression(learner), learner.init(dtype=torch.float64), curves())


def curves() -> TaskBatch:
    source = Sinusoid(amplitude=(0.5, 2.0), phase=(0.0, 3.0), inputs=(-2.0, 2.0))
    return source.sample(0, "train", torch.arange(NUM_TASKS), 5, 4)


@pytest.fixture
def net(float64) -> Net:
    return Net.make()


def flat(params: Params) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in params.values()])


def differences(chosen: Algorithm, net: Net, radius: float = 1e-5) -> Tensor:
    """Central differences of theta -> mean query loss after adaptation, one parameter at a time."""
    result = []
    for name, leaf in net.theta.items():
        for i in range(leaf.numel()):
            shift = torch.zeros(leaf.numel())
            shift[i] = radius
            losses = [
                meta_step(chosen, net.theta | {name: leaf + sign * shift.view_as(leaf)}, net.problem, net.tasks)
                for sign in (1, -1)
            ]
            result.append((losses[0].query_loss - losses[1].query_loss).mean() / (2 * radius))
    return torch.stack(result)


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(algorithm(Unrolled(), steps=1, step_size=0.1), id="maml-1"),
        pytest.param(algorithm(Unrolled(), steps=3, step_size=0.1), id="maml-3"),
        pytest.param(algorithm(Unrolled(), steps=3, step_size=0.1, weight=2.0), id="maml-3-proximal"),
        # The rate is about 0.5 here, so 60 steps leave 1e-16 of the distance to the inner solution.
        pytest.param(algorithm(implicit(), steps=60, step_size=0.1, weight=5.0), id="imaml-converged"),
    ],
)
def test_meta_gradient_is_the_derivative_of_the_query_loss(chosen, net):
    """S2. Central differences of radius 1e-5 err by about 1e-10 times third derivatives."""
    estimate = meta_step(chosen, net.theta, net.problem, net.tasks)
    torch.testing.assert_close(flat(estimate.gradient), differences(chosen, net), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("adapted", ["all", "head", "body"])
@pytest.mark.parametrize(
    ("estimator", "weight"),
    [(lambda c: Recursion(curvature=c), 0.0), (lambda c: implicit(curvature=c), 5.0)],
    ids=["recursion", "implicit"],
)
def test_differences_take_no_second_derivative(estimator, weight, adapted, net, monkeypatch):
    """What is frozen, too, gets its gradient without one: the same as with the Hessian, but for differences' 1e-10."""

    def gradient_by(curvature: str) -> Tensor:
        chosen = dataclasses.replace(
            algorithm(estimator(curvature), steps=3, step_size=0.1, weight=weight), adapted=adapted
        )
        return flat(meta_step(chosen, net.theta, net.problem, net.tasks).gradient)

    exact = gradient_by("hessian")
    differentiate = torch.autograd.grad

    def once(*arguments, create_graph: bool = False, **others):
        assert not create_graph, "a gradient is made to be differentiated"
        return differentiate(*arguments, **others)

    monkeypatch.setattr(torch.autograd, "grad", once)
    with pytest.raises(AssertionError, match="made to be differentiated"):
        gradient_by("hessian")
    torch.testing.assert_close(gradient_by("finite_difference"), exact, rtol=1e-7, atol=1e-9)


def test_other_estimators_are_not_that_derivative(net):
    """So that the test above can fail: first order, Gauss-Newton and one CG step are approximations."""
    exact = flat(meta_step(algorithm(Unrolled(), steps=1, step_size=0.1), net.theta, net.problem, net.tasks).gradient)
    first = flat(meta_step(algorithm(FirstOrder(), steps=1, step_size=0.1), net.theta, net.problem, net.tasks).gradient)
    assert (first - exact).norm() > 1e-2 * exact.norm()
    settings = {"steps": 60, "step_size": 0.1, "weight": 5.0}
    exact = flat(meta_step(algorithm(implicit(), **settings), net.theta, net.problem, net.tasks).gradient)
    for estimator in (implicit(curvature="gauss_newton"), implicit(cg_steps=1), implicit(damping=1.0)):
        other = flat(meta_step(algorithm(estimator, **settings), net.theta, net.problem, net.tasks).gradient)
        assert (other - exact).norm() > 1e-4 * exact.norm()


def test_implicit_equals_unrolled_at_convergence(net):
    settings = {"steps": 80, "step_size": 0.1, "weight": 5.0}
    unrolled = meta_step(algorithm(Unrolled(), **settings), net.theta, net.problem, net.tasks)
    estimate = meta_step(algorithm(implicit(), **settings), net.theta, net.problem, net.tasks)
    torch.testing.assert_close(flat(estimate.gradient), flat(unrolled.gradient), rtol=1e-10, atol=1e-12)
    assert (estimate.stats["inner/residual"] < 1e-14).all()


def test_maml_minus_first_order_is_minus_alpha_hessian_gradient(net):
    """S2: exactly, after one step; H g by differentiating the support gradient at theta along g."""
    settings = {"steps": 1, "step_size": 0.1}
    maml = meta_step(algorithm(Unrolled(), **settings), net.theta, net.problem, net.tasks).gradient
    first = algorithm(FirstOrder(), **settings)
    expected = torch.zeros_like(flat(net.theta))
    for b in range(NUM_TASKS):
        task = net.tasks[b : b + 1]
        slope = flat(meta_step(first, net.theta, net.problem, task).gradient)
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in net.theta.items()}
        outputs = net.problem.outputs(leaves, task.support.inputs[0], None)
        loss = net.problem.loss(outputs, task.support.targets[0])
        support = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        product = torch.autograd.grad(torch.cat([s.flatten() for s in support]) @ slope, list(leaves.values()))
        expected -= 0.1 * torch.cat([p.flatten() for p in product]) / NUM_TASKS
    difference = flat(maml) - flat(meta_step(first, net.theta, net.problem, net.tasks).gradient)
    torch.testing.assert_close(difference, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("steps", [0, 4])
def test_every_way_to_the_hessian_is_the_same(steps, net):
    """Double backward and forward over reverse to rounding; differences to their own error, 1e-10 of third derivatives."""
    settings = {"steps": steps, "step_size": 0.05, "weight": 3.0}
    by = {
        kind: flat(
            meta_step(algorithm(implicit(curvature=kind), **settings), net.theta, net.problem, net.tasks).gradient
        )
        for kind in ("hessian", "hessian_forward", "finite_difference")
    }
    torch.testing.assert_close(by["hessian_forward"], by["hessian"], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(by["finite_difference"], by["hessian"], rtol=1e-6, atol=1e-8)
    assert not torch.equal(by["finite_difference"], by["hessian"])


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_no_cg_steps_are_first_order(curvature, net):
    settings = {
        "steps": 4,
        "step_size": 0.05,
        "weight": 4.0,
    }  # z = g / lambda, times lambda again: exact for powers of two
    estimate = meta_step(algorithm(implicit(0, curvature=curvature), **settings), net.theta, net.problem, net.tasks)
    first = meta_step(algorithm(FirstOrder(), **settings), net.theta, net.problem, net.tasks)
    assert torch.equal(flat(estimate.gradient), flat(first.gradient))


def test_large_weight_limit_is_one_maml_step(net):
    """iMAML(lambda) = MAML(one step of 1/lambda) + O(lambda^-2): ten times lambda, a hundredth of the difference."""
    distances = []
    for weight in (1e3, 1e4):
        # Step size 1/lambda: the rate is h/lambda, so 12 steps are at rounding.
        chosen = algorithm(implicit(), steps=12, step_size=1 / weight, weight=weight)
        maml = algorithm(Unrolled(), steps=1, step_size=1 / weight)
        gradients = [flat(meta_step(a, net.theta, net.problem, net.tasks).gradient) for a in (chosen, maml)]
        distances.append((gradients[0] - gradients[1]).norm().item())
    assert distances[0] / distances[1] == pytest.approx(100, rel=0.05)


def test_damping_is_an_addition_to_the_curvature(net):
    """(I + (H + d)/lambda) x = v is (I + H/(lambda + d)) x = v lambda/(lambda + d): iMAML's system at lambda + d, scaled."""
    weight, damping, steps = 4.0, 2.0, 5
    phi_settings = {"steps": steps, "step_size": 0.05, "weight": weight}
    damped = meta_step(algorithm(implicit(damping=damping), **phi_settings), net.theta, net.problem, net.tasks)
    # phi of weight 4 as theta of an inner loop of no steps, task by task, with weight 6.
    phi = adapt(algorithm(FirstOrder(), **phi_settings), net.theta, net.problem, net.tasks)
    expected = torch.zeros_like(flat(net.theta))
    heavier = algorithm(implicit(), steps=0, step_size=1.0, weight=weight + damping)
    for b in range(NUM_TASKS):
        theta = {name: leaf[b] for name, leaf in phi.items()}
        expected += flat(meta_step(heavier, theta, net.problem, net.tasks[b : b + 1]).gradient) / NUM_TASKS
    scale = weight / (weight + damping)
    torch.testing.assert_close(flat(damped.gradient), scale * expected, rtol=1e-9, atol=1e-12)


ALL = {
    "maml": algorithm(Unrolled(), steps=2, step_size=0.1),
    "fomaml": algorithm(FirstOrder(), steps=2, step_size=0.1),
    "imaml": algorithm(implicit(5, rtol=0.0), steps=4, step_size=0.05, weight=3.0),
}


def indexed(tasks: TaskBatch, order: list[int]) -> TaskBatch:
    def pick(examples: Examples) -> Examples:
        return Examples(examples.inputs[order], examples.targets[order])

    return TaskBatch(pick(tasks.support), pick(tasks.query), {name: v[order] for name, v in tasks.latent.items()})


@pytest.mark.parametrize("name", ALL)
def test_order_chunks_and_copies_of_tasks_do_not_matter(name, net):
    """S3: permuted, chunked and doubled batches; statistics come in the tasks' order."""
    chosen = ALL[name]
    whole = meta_step(chosen, net.theta, net.problem, net.tasks)
    order = [2, 0, 1]
    permuted = meta_step(chosen, net.theta, net.problem, indexed(net.tasks, order))
    torch.testing.assert_close(flat(permuted.gradient), flat(whole.gradient), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(permuted.query_loss, whole.query_loss[order], rtol=1e-12, atol=0)
    doubled = meta_step(chosen, net.theta, net.problem, indexed(net.tasks, [0, 1, 2, 0, 1, 2]))
    torch.testing.assert_close(flat(doubled.gradient), flat(whole.gradient), rtol=1e-12, atol=1e-14)
    for chunk in (1, 2, 3, 4, None):
        pieces = meta_step(chosen, net.theta, net.problem, net.tasks, chunk)
        torch.testing.assert_close(flat(pieces.gradient), flat(whole.gradient), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(pieces.query_loss, whole.query_loss, rtol=1e-12, atol=0)
        assert set(pieces.stats) == set(whole.stats)
        for key, values in whole.stats.items():
            assert values.shape == (NUM_TASKS,)
            torch.testing.assert_close(pieces.stats[key], values, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_meta_step_is_repeatable_to_the_bit(name, net):
    first, again = (meta_step(ALL[name], net.theta, net.problem, net.tasks) for _ in range(2))
    assert torch.equal(flat(first.gradient), flat(again.gradient))
    assert torch.equal(first.query_loss, again.query_loss)
    assert not first.query_loss.requires_grad
    assert not any(leaf.requires_grad for leaf in first.gradient.values())


def bytes_of(chosen: Algorithm, net: Net) -> int:
    return peak_bytes(lambda: meta_step(chosen, net.theta, net.problem, net.tasks))


def test_memory_of_maml_is_affine_in_inner_steps(net):
    """S1."""
    held = [bytes_of(algorithm(Unrolled(), steps=steps, step_size=0.01), net) for steps in (2, 4, 6, 8)]
    growth = [after - before for before, after in itertools.pairwise(held)]
    assert growth[0] == growth[1] == growth[2] > 0


@pytest.mark.parametrize("name", ["fomaml", "imaml", "imaml_ng", "imaml_hf", "hf_maml", "reptile"])
def test_memory_of_the_others_does_not_know_the_inner_steps(name, net, algorithm_of):
    """S1, for the algorithms as conf/ composes them."""
    weight = {"proximal_weight": 2.0} if name.startswith("imaml") else {}
    held = set()
    for steps in (2, 4, 16):
        held.add(bytes_of(algorithm_of(name, {"inner": {"steps": steps}} | weight), net))
    assert len(held) == 1


@pytest.mark.parametrize("name", ALL)
def test_evaluation_changes_nothing_and_repeats_itself(name, net):
    """S4."""
    source = Sinusoid(amplitude=(0.5, 2.0), phase=(0.0, 3.0), inputs=(-2.0, 2.0))
    evaluation = Evaluation(seed=0, tasks=5, val_tasks=5, shots=5, queries=4, inner_steps=[0, 1, 3])
    evaluator = Evaluator(ALL[name], net.problem, source, evaluation, torch.device("cpu"), torch.float64, 2)
    before = {key: leaf.clone() for key, leaf in net.theta.items()}
    state = torch.get_rng_state()
    theta = sorted_theta(ALL[name], net.theta, net.problem)
    first, again = (evaluator(theta, "test", 5, [0, 1, 3]) for _ in range(2))
    assert first == again
    assert [m.inner_steps for m in first] == [0, 1, 3]
    assert all(len(m.metrics["mse"]) == 5 for m in first)
    assert first[0].metrics["mse"] != first[1].metrics["mse"]
    assert torch.equal(torch.get_rng_state(), state)
    for key, leaf in net.theta.items():
        assert torch.equal(leaf, before[key])
        assert leaf.grad is None
        assert not leaf.requires_grad
    whole = dataclasses.replace(evaluator, chunk=5)(theta, "test", 5, [0, 1, 3])
    for mine, other in zip(first, whole, strict=True):
        assert mine.metrics["mse"] == pytest.approx(other.metrics["mse"], rel=1e-12)


def test_adapt_takes_the_steps_it_is_told(net):
    """Zero steps leave theta, one is a gradient step, and the numbers nest."""
    chosen = ALL["imaml"]
    tasks = net.tasks
    start = adapt(chosen, net.theta, net.problem, tasks, 0)
    assert all(torch.equal(start[name][b], leaf) for name, leaf in net.theta.items() for b in range(NUM_TASKS))
    default, four = (adapt(chosen, net.theta, net.problem, tasks, steps) for steps in (None, 4))
    assert all(torch.equal(default[name], four[name]) for name in default)
    one = adapt(chosen, net.theta, net.problem, tasks, 1)
    by_maml = adapt(algorithm(Unrolled(), steps=1, step_size=0.05), net.theta, net.problem, tasks)
    assert all(torch.equal(one[name], by_maml[name]) for name in one)  # at theta the proximal term has no slope
    assert not any(leaf.requires_grad for leaf in default.values())


def test_proximal_term_draws_back_to_theta(net):
    """`value` is loss + lambda/2 |phi - theta|^2, and `gradient` its derivative along a direction."""
    inner = bilevel(ALL["imaml"], net.theta, net.problem, net.tasks).inner
    phi = {name: leaf + 0.3 for name, leaf in inner.start.items()}
    free = InnerProblem.of(net.problem, net.tasks, inner.theta, ProximalTerm(0.0))
    size = flat(net.theta).numel()
    torch.testing.assert_close(inner.value(phi), free.value(phi) + 1.5 * size * 0.09, rtol=1e-12, atol=0)
    direction = {name: torch.ones_like(leaf) for name, leaf in phi.items()}
    slopes = sum(leaf.flatten(1).sum(1) for leaf in inner.gradient(phi).values())
    difference = (inner.value(axpy(1e-5, direction, phi)) - inner.value(axpy(-1e-5, direction, phi))) / 2e-5
    torch.testing.assert_close(slopes, difference, rtol=1e-7, atol=0)


def test_implicit_needs_a_proximal_weight():
    with pytest.raises(ValueError, match=r"proximal_weight must be > 0.*Set algorithm\.proximal_weight"):
        algorithm(implicit(), steps=1, step_size=0.1, weight=0.0)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "2", None, True])
def test_proximal_weight_is_a_number_that_is_not_negative(weight):
    with pytest.raises(ValueError, match="proximal_weight must be a number >= 0, got"):
        algorithm(FirstOrder(), steps=1, step_size=0.1, weight=weight)


def test_unrolled_needs_a_solver_that_can_be_differentiated():
    class Opaque(GradientDescent):
        is_differentiable = False

    with pytest.raises(ValueError, match=r"Opaque cannot be\. Choose algorithm/meta_gradient=implicit"):
        Algorithm(
            inner=Opaque(steps=1, step_size=0.1),
            meta_gradient=Unrolled(),
            direction=Plain(),
            proximal_weight=0.0,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"curvature": "fisher"},
            "curvature must be one of hessian, hessian_forward, gauss_newton, finite_difference, got 'fisher'",
        ),
        ({"steps": -1}, "steps must be an integer >= 0, got -1"),
        ({"steps": 2.5}, "steps must be an integer >= 0, got 2.5"),
        ({"rtol": -1e-3}, "rtol must be a number >= 0"),
        ({"damping": "much"}, "damping must be a number >= 0, got 'much'"),
    ],
)
def test_bad_settings_of_the_implicit_gradient(changes, message):
    with pytest.raises(ValueError, match=message):
        implicit(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps must be an integer >= 0, got -1"),
        ({"steps": True}, "steps must be an integer >= 0, got True"),
        ({"step_size": 0.0}, "step_size must be a number > 0, got 0.0"),
        ({"step_size": float("nan")}, "step_size must be a number > 0, got nan"),
    ],
)
def test_bad_settings_of_gradient_descent(changes, message):
    with pytest.raises(ValueError, match=message):
        GradientDescent(**{"steps": 1, "step_size": 0.1} | changes)
