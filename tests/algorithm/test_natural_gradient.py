"""The natural direction against matrices formed row by row, and what it promises: invariance, bounded divergence."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from metarun import rng
from metarun.algorithm import (
    Algorithm,
    FirstOrder,
    FreshTasks,
    NaturalGradient,
    Plain,
    StepTasks,
    TaskEmpirical,
    Unrolled,
)
from metarun.maths.trees import Params
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.classification import Classification
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import adapt, meta_step

from .closed_forms import Quadratic, Ridge, WithoutModel, composed, descent, implicit, quadratic, stacked

pytestmark = pytest.mark.usefixtures("float64")


def natural(point: str = "phi", num_fresh_tasks: int = 0, **changes) -> NaturalGradient:
    products = {"point": point, "steps": 60, "rtol": 1e-14, "preconditioner": None, "recompute": False}
    products |= {key: changes.pop(key) for key in list(changes) if key in products}
    if point == "task_empirical":
        metric = TaskEmpirical()
    elif num_fresh_tasks:
        metric = FreshTasks(num_fresh_tasks=num_fresh_tasks, **products)
    else:
        metric = StepTasks(**products)
    settings = {
        "metric": metric,
        "step_size": 1.0,
        "damping": 0.0,
        "max_divergence": None,
        "tries": 0,
        "adapt_damping": False,
        "momentum": 0.0,
    }
    return NaturalGradient(**settings | changes)


# ---- Gaussian tasks: everything is a number --------------------------------------------------------------------------

CENTRES, QUERIES = (1.0, -2.0, 0.5), (2.0, 0.0, 1.0)


def gaussian_tasks() -> TaskBatch:
    """Support 1/2 (phi - c)^2, query 1/2 (phi - e)^2; lambda = 1/2 and theta = 4 in the tests."""
    return stacked(*(quadratic(([1.0], [c]), ([1.0], [e])) for c, e in zip(CENTRES, QUERIES, strict=True)))


def gaussian(direction, estimator=None) -> Algorithm:
    # One step of 1 / (1 + lambda) lands on the minimum.
    return composed(descent(1, 2 / 3), estimator or implicit(1), weight=0.5, direction=direction)


def step_of(chosen: Algorithm, theta: float) -> float:
    return meta_step(chosen, {"phi": torch.tensor([theta])}, Quadratic(), gaussian_tasks()).gradient["phi"].item()


@pytest.mark.parametrize("estimator", [implicit(1), Unrolled()], ids=["implicit", "unrolled"])
def test_the_pulled_back_step_is_newtons(estimator):
    """NG4: theta' = 10/3, where the meta-gradient is zero. Unrolled: P = 1 - alpha (1 + lambda) + alpha lambda = 1/3 too."""
    chosen = gaussian(natural(point="pullback"), estimator)
    theta = 4.0 - step_of(chosen, 4.0)
    assert theta == pytest.approx(10 / 3, rel=1e-14)
    assert step_of(gaussian(Plain(), estimator), theta) == pytest.approx(0.0, abs=1e-14)


def test_the_step_at_phi_contracts():
    """NG4: F = 1 at phi, so theta' = 4 - g = 106/27, and the gradient shrinks by 1 - P^2 = 8/9."""
    chosen = gaussian(natural())
    theta = 4.0 - step_of(chosen, 4.0)
    assert theta == pytest.approx(106 / 27, rel=1e-14)
    plain = gaussian(Plain())
    assert step_of(plain, theta) == pytest.approx(8 / 9 * step_of(plain, 4.0), rel=1e-13)


def test_a_step_reaches_no_further_than_the_divergence_allows():
    """NG6: predicted divergence is 1/2 d' F d; shortened to equality where it binds, untouched where it does not."""
    free = meta_step(gaussian(natural()), {"phi": torch.tensor([4.0])}, Quadratic(), gaussian_tasks())
    divergence = free.gradient["phi"].item() ** 2 / 2
    assert free.stats["direction/divergence"].item() == pytest.approx(divergence, rel=1e-13)
    for allowed in (divergence / 7, 3 * divergence):
        bound = gaussian(natural(max_divergence=allowed))
        estimate = meta_step(bound, {"phi": torch.tensor([4.0])}, Quadratic(), gaussian_tasks())
        reached = estimate.gradient["phi"].item() ** 2 / 2  # for this model the true divergence of the step
        assert reached == pytest.approx(min(allowed, divergence), rel=1e-13)
        assert estimate.stats["direction/divergence"].item() == pytest.approx(reached, rel=1e-13)


def test_momentum_averages_the_gradient_before_the_system_is_solved():
    """F = 1 at phi: the steps are m_1 = g_1 and m_2 = 0.8 m_1 + 0.2 g_2, with the plain gradients g at the two thetas."""
    chosen, plain = gaussian(natural(momentum=0.8)), gaussian(Plain())
    first, second = step_of(plain, 4.0), step_of(plain, 1.0)
    estimate = meta_step(chosen, {"phi": torch.tensor([4.0])}, Quadratic(), gaussian_tasks())
    assert estimate.gradient["phi"].item() == pytest.approx(first, rel=1e-14)
    estimate = meta_step(chosen, {"phi": torch.tensor([1.0])}, Quadratic(), gaussian_tasks(), state=estimate.state)
    assert estimate.gradient["phi"].item() == pytest.approx(0.8 * first + 0.2 * second, rel=1e-14)


def test_a_gradient_of_zero_is_a_step_of_zero():
    """Where the mean squares of the preconditioner vanish too, with nothing to divide by."""
    tasks = quadratic(([1.0], [2.0]), ([1.0], [2.0]))
    chosen = composed(descent(0, 0.1), FirstOrder(), direction=natural(preconditioner=0.5, max_divergence=1e-3))
    assert meta_step(chosen, {"phi": torch.tensor([2.0])}, Quadratic(), tasks).gradient["phi"].item() == 0.0


def test_the_true_fisher_matrix_and_not_the_empirical_one():
    """NG5: 1/2 (phi - c)^2 with one sample has F = 1 and lands on c; the empirical (phi - c)^2 would step 1 / (phi - c)."""
    tasks = quadratic(([1.0], [0.0]), ([1.0], [0.9]))
    plain = descent(0, 0.1)
    theta = {"phi": torch.tensor([1.0])}
    step = meta_step(composed(plain, FirstOrder(), direction=natural()), theta, Quadratic(), tasks).gradient["phi"]
    assert step.item() == pytest.approx(0.1, rel=1e-14)
    empirical = composed(plain, FirstOrder(), direction=natural(point="task_empirical", damping=1e-12))
    assert meta_step(empirical, theta, Quadratic(), tasks).gradient["phi"].item() == pytest.approx(10.0, rel=1e-6)


def test_levenberg_marquardt_asks_whether_the_promise_was_kept():
    """At `phi` the model promises too little curvature... here too much: F = 1 where the meta-objective has P^2 = 1/9.

    With s = g / (1 + d), predicted = -g s + (1 + d) s^2 / 2 = -g^2 / (2 (1 + d)); actual = -g s + s^2 / 18.
    Ratio = 2 - 1 / (9 (1 + d)) > 3/4, so the damping falls by 2/3.
    """
    chosen = gaussian(natural(damping=0.3, adapt_damping=True))
    theta = {"phi": torch.tensor([4.0])}
    assert chosen.start() == {"damping": 0.3}
    state = None
    for expected in (0.2, 0.4 / 3):
        estimate = meta_step(chosen, theta, Quadratic(), gaussian_tasks(), state=state)
        state = estimate.state
        assert state["damping"] == pytest.approx(expected, rel=1e-12)
    # A step nine times too long overshoots: predicted as before, actual = -g 20 s + 400 s^2 / 18 > 0.
    long = gaussian(natural(damping=0.3, step_size=20.0, adapt_damping=True))
    assert meta_step(long, theta, Quadratic(), gaussian_tasks()).state["damping"] == pytest.approx(0.45, rel=1e-12)


# ---- the real divergence ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Growing(WithoutModel):
    """Outputs exp(phi) with unit variance, loss -exp(phi): at phi = 0 the gradient is -1 and F is 1."""

    def outputs(self, params, inputs):
        return params["phi"].exp()

    def loss(self, outputs, targets):
        return -outputs.sum()

    def divergence(self, outputs, reference, targets):
        return ((outputs - reference) ** 2).sum() / 2


def grown(direction, state: dict | None = None):
    """One outer step from theta = 0 without inner steps: the step, its statistics, the next state."""
    chosen = composed(descent(0, 0.1), FirstOrder(), direction=direction)
    tasks = quadratic(([1.0], [0.0]), ([1.0], [0.0]))
    estimate = meta_step(chosen, {"phi": torch.zeros(1)}, Growing(), tasks, None, state)
    return -estimate.gradient["phi"].item(), {n: v.item() for n, v in estimate.stats.items()}, estimate.state


def really(length: float) -> float:
    """(e^t - 1)^2 / 2, where t^2 / 2 is predicted."""
    return math.expm1(length) ** 2 / 2


def test_lengths_are_tried_until_the_real_divergence_is_within_the_bound():
    """From sqrt(2 * bound) down, each time to 0.9 of where a quadratic through the last try would meet the bound."""
    bound = 0.08
    length, lengths = math.sqrt(2 * bound), []
    while not lengths or really(lengths[-1]) > bound:
        lengths.append(length)
        length *= 0.9 * math.sqrt(bound / really(length))
    assert len(lengths) == 2
    step, stats, state = grown(natural(max_divergence=bound, tries=5))
    assert step == pytest.approx(lengths[-1], rel=1e-13)
    assert stats["direction/divergence"] == pytest.approx(really(step), rel=1e-12)
    assert stats["direction/tries"] == 2
    assert stats["direction/shortened"] == pytest.approx(step, rel=1e-13)  # of a step of 1
    # The next step begins where the last one's excess over the prediction says.
    excess = really(step) / (step**2 / 2)
    assert state["excess"].item() == stats["direction/excess"] == pytest.approx(excess, rel=1e-12)
    after, stats, _ = grown(natural(max_divergence=bound, tries=5), state)
    assert after == pytest.approx(0.9 * math.sqrt(2 * bound / excess), rel=1e-12)
    assert stats["direction/tries"] == 1
    assert really(after) <= bound


def test_where_no_length_is_within_the_bound_theta_stays():
    step, stats, _ = grown(natural(max_divergence=0.08, tries=1))
    assert step == stats["direction/divergence"] == stats["direction/shortened"] == 0.0
    assert stats["direction/tries"] == 1


def test_without_tries_the_prediction_alone_counts():
    step, stats, _ = grown(natural(max_divergence=0.08))
    assert step == pytest.approx(0.4, rel=1e-13)
    assert stats["direction/divergence"] == pytest.approx(0.08, rel=1e-13)
    assert really(step) > 0.12


@dataclasses.dataclass(frozen=True)
class Saturated(Growing):
    """Softmax of logits (phi, 0), as sure as 1 - e^-phi."""

    def outputs(self, params, inputs):
        return torch.cat([params["phi"], torch.zeros_like(params["phi"])])

    def loss(self, outputs, targets):
        return -outputs.log_softmax(0)[1]

    def divergence(self, outputs, reference, targets):
        return (reference.softmax(0) * (reference.log_softmax(0) - outputs.log_softmax(0))).sum()


@pytest.mark.parametrize("logit", [1.0, 6.0, 10.0, 14.0])
def test_the_predicted_divergence_survives_cancellation(logit):
    """F = p (1 - p) vanishes beside the damping: s'g - damping s's is rounding in float32, and a product is not.

    What is left of the error is that of p - p^2 in float32, 6e-8 of 8e-7 at a logit of 14.
    """
    damping = 100.0
    chosen = composed(descent(0, 0.1), FirstOrder(), direction=natural(damping=damping, steps=5))
    tasks = quadratic(([1.0], [0.0]), ([1.0], [0.0]))
    theta = {"phi": torch.tensor([logit], dtype=torch.float32)}
    found = meta_step(chosen, theta, Saturated(), tasks).stats["direction/divergence"].item()
    p = 1 / (1 + math.exp(-logit))
    curvature = p / (1 + math.exp(logit))
    assert found == pytest.approx(curvature * (p / (curvature + damping)) ** 2 / 2, rel=1e-2)


# ---- a small softmax net: matrices row by row ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Net:
    problem: Classification
    theta: Params
    tasks: TaskBatch

    @staticmethod
    def make(num_tasks: int = 2) -> "Net":
        with rng.seeded_construction(0, "test"):
            module = MLP(input_shape=(2,), num_outputs=3, hidden=(3,), activation="tanh").double()
        learner = Learner(module)
        g = torch.Generator().manual_seed(1)
        inputs = torch.randn(num_tasks, 10, 2, generator=g)
        targets = torch.randint(3, (num_tasks, 10), generator=g)
        tasks = TaskBatch(Examples(inputs[:, :4], targets[:, :4]), Examples(inputs[:, 4:], targets[:, 4:]), {})
        return Net(Classification(learner), learner.init(dtype=torch.float64), tasks)

    def fisher(self, params: Params, inputs: Tensor) -> Tensor:
        """1/n sum_x sum_c p_c s_c s_c' with s_c the gradient of log p_c, each by autograd."""
        total = torch.zeros(self.size, self.size)
        for x in inputs:
            leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in params.items()}
            log_p = self.problem.outputs(leaves, x[None], None)[0].log_softmax(-1)
            for each in log_p:
                score = flat(
                    dict(zip(leaves, torch.autograd.grad(each, list(leaves.values()), retain_graph=True), strict=True))
                )
                total += each.exp().detach() * torch.outer(score, score)
        return total / len(inputs)

    @property
    def size(self) -> int:
        return sum(leaf.numel() for leaf in self.theta.values())


def flat(params: Params) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in params.values()])


@pytest.fixture
def net(float64) -> Net:
    return Net.make()


@pytest.mark.parametrize("chunk", [1, None])
@pytest.mark.parametrize("preconditioner", [None, 0.5])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("point", ["phi", "theta"])
def test_the_direction_is_the_dense_solve(point, recompute, preconditioner, chunk, net):
    """NG1: the Fisher matrix is sum_c p_c s_c s_c' on the query inputs, at phi or at theta; its mean over tasks is solved."""
    damping = 0.05
    settings = {"weight": 2.0}
    plain = composed(descent(3, 0.2), implicit(6), **settings)
    gradient = flat(meta_step(plain, net.theta, net.problem, net.tasks).gradient)
    phi = adapt(plain, net.theta, net.problem, net.tasks)
    matrix = torch.zeros(net.size, net.size)
    for b in range(2):
        params = net.theta if point == "theta" else {name: leaf[b] for name, leaf in phi.items()}
        matrix += net.fisher(params, net.tasks.query.inputs[b]) / 2
    assert torch.linalg.matrix_rank(matrix) <= 2 * 6 * 2  # n (C - 1) for each task
    expected = torch.linalg.solve(matrix + damping * torch.eye(net.size), gradient)
    direction = natural(point=point, damping=damping, recompute=recompute, preconditioner=preconditioner)
    chosen = composed(descent(3, 0.2), implicit(6), direction=direction, **settings)
    actual = flat(meta_step(chosen, net.theta, net.problem, net.tasks, chunk).gradient)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def test_truncated_and_preconditioned(net):
    """One CG step is t M^-1 g, t = g'M^-1 g / (M^-1 g)'(F + damping I)(M^-1 g); the divergence is that of the dense F."""
    damping, power = 0.05, 0.75
    plain = composed(descent(3, 0.2), implicit(6), weight=2.0)
    each = [flat(meta_step(plain, net.theta, net.problem, net.tasks[b : b + 1]).gradient) for b in range(2)]
    gradient = (each[0] + each[1]) / 2
    phi = adapt(plain, net.theta, net.problem, net.tasks)
    matrix = sum(
        net.fisher({name: leaf[b] for name, leaf in phi.items()}, net.tasks.query.inputs[b]) / 2 for b in range(2)
    )

    def taken(steps: int, state: dict | None = None):
        direction = natural(damping=damping, preconditioner=power, steps=steps)
        chosen = composed(descent(3, 0.2), implicit(6), weight=2.0, direction=direction)
        return meta_step(chosen, net.theta, net.problem, net.tasks, 1, state)

    now = (each[0] ** 2 + each[1] ** 2) / 2
    before = torch.linspace(0.1, 1.0, net.size)
    for state, squares in ((None, now), ({"squares": before[None]}, 0.99 * before + 0.01 * now)):
        turned = gradient / (squares + 1e-4 * squares.mean()) ** power
        length = (gradient @ turned) / (turned @ (matrix @ turned + damping * turned))
        one = taken(1, state)
        torch.testing.assert_close(flat(one.gradient), length * turned, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.state["squares"][0], squares, rtol=1e-10, atol=0)
    for steps in (1, 2, 4):
        estimate = taken(steps)
        step = flat(estimate.gradient)
        assert estimate.stats["direction/divergence"].item() == pytest.approx(
            (step @ matrix @ step).item() / 2, rel=1e-9
        )


@pytest.mark.parametrize("estimator", [Unrolled(), implicit(40, "gauss_newton")], ids=["unrolled", "implicit"])
def test_the_pullback_is_the_fisher_matrix_of_the_adapted_predictor(estimator, net):
    """P' F P with P by differences of theta -> phi (unrolled) or by a dense solve at phi (implicit)."""
    damping, weight = 0.05, 2.0
    plain = composed(descent(2, 0.2), estimator, weight=weight)
    gradient = flat(meta_step(plain, net.theta, net.problem, net.tasks).gradient)
    phi = adapt(plain, net.theta, net.problem, net.tasks)
    matrix = torch.zeros(net.size, net.size)
    for b in range(2):
        at = {name: leaf[b] for name, leaf in phi.items()}
        if isinstance(estimator, Unrolled):
            jacobian = differences(plain, net, b)
        else:
            support = net.fisher(at, net.tasks.support.inputs[b])
            jacobian = torch.linalg.inv(torch.eye(net.size) + support / weight)
        matrix += jacobian.T @ net.fisher(at, net.tasks.query.inputs[b]) @ jacobian / 2
    expected = torch.linalg.solve(matrix + damping * torch.eye(net.size), gradient)
    chosen = composed(descent(2, 0.2), estimator, weight=weight, direction=natural(point="pullback", damping=damping))
    for chunk in (1, None):
        actual = flat(meta_step(chosen, net.theta, net.problem, net.tasks, chunk).gradient)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def differences(chosen: Algorithm, net: Net, task: int) -> Tensor:
    """d phi / d theta of one task by central differences, [D, D]."""
    columns = []
    tasks = net.tasks[task : task + 1]
    for name, leaf in net.theta.items():
        for i in range(leaf.numel()):
            shift = torch.zeros(leaf.numel())
            shift[i] = 1e-5
            ahead, behind = (
                flat(adapt(chosen, net.theta | {name: leaf + s * shift.view_as(leaf)}, net.problem, tasks))
                for s in (1, -1)
            )
            columns.append((ahead - behind) / 2e-5)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("chunk", [1, None])
def test_fresh_tasks_are_the_dense_solve_with_other_tasks(chunk, net):
    """The gradient is of the step's tasks, and F of 3 others, each adapted from theta."""
    damping, settings = 0.05, {"weight": 2.0}
    others = Net.make(num_tasks=5).tasks[2:]
    plain = composed(descent(3, 0.2), implicit(6), **settings)
    gradient = flat(meta_step(plain, net.theta, net.problem, net.tasks).gradient)
    phi = adapt(plain, net.theta, net.problem, others)
    matrix = sum(net.fisher({n: leaf[b] for n, leaf in phi.items()}, others.query.inputs[b]) / 3 for b in range(3))
    expected = torch.linalg.solve(matrix + damping * torch.eye(net.size), gradient)
    chosen = composed(descent(3, 0.2), implicit(6), direction=natural(num_fresh_tasks=3, damping=damping), **settings)
    actual = flat(meta_step(chosen, net.theta, net.problem, net.tasks, chunk, fresh=others).gradient)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="fresh must be 3 tasks, got none"):
        meta_step(chosen, net.theta, net.problem, net.tasks)


def test_task_empirical_is_the_dense_solve(net):
    """NG7: (1/B) sum g g' + damping I, by Woodbury; with one task s = g / (|g|^2 + damping)."""
    damping = 0.03
    chosen = composed(descent(1, 0.2), Unrolled(), direction=natural(point="task_empirical", damping=damping))
    plain = composed(descent(1, 0.2), Unrolled())
    each = [flat(meta_step(plain, net.theta, net.problem, net.tasks[b : b + 1]).gradient) for b in range(2)]
    matrix = sum(torch.outer(g, g) for g in each) / 2
    expected = torch.linalg.solve(matrix + damping * torch.eye(net.size), (each[0] + each[1]) / 2)
    actual = flat(meta_step(chosen, net.theta, net.problem, net.tasks).gradient)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)
    alone = flat(meta_step(chosen, net.theta, net.problem, net.tasks[:1]).gradient)
    torch.testing.assert_close(alone, each[0] / (each[0] @ each[0] + damping), rtol=1e-11, atol=0)


def test_cg_needs_no_more_steps_than_the_rank(net):
    """NG2: I + F/lambda on 4 support examples of 3 classes has 4 * 2 eigenvalues other than one."""
    one = net.tasks[:1]
    few = meta_step(composed(descent(3, 0.2), implicit(9, "gauss_newton"), weight=2.0), net.theta, net.problem, one)
    many = meta_step(composed(descent(3, 0.2), implicit(17, "gauss_newton"), weight=2.0), net.theta, net.problem, one)
    torch.testing.assert_close(flat(few.gradient), flat(many.gradient), rtol=1e-9, atol=1e-12)


# ---- invariance ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mixed(WithoutModel):
    """Linear regression in coordinates psi, theta = T psi."""

    transform: Tensor

    def outputs(self, params, inputs):
        return inputs @ (self.transform @ params["phi"])

    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).mean() / 2

    def divergence(self, outputs, reference, targets):
        return ((outputs - reference) ** 2).mean() / 2


def reached(transform: Tensor, direction, theta: Tensor, tasks: TaskBatch) -> Tensor:
    """Where one outer step from theta ends, in theta's coordinates."""
    psi = torch.linalg.solve(transform, theta)
    chosen = composed(descent(0, 0.1), FirstOrder(), direction=direction)
    step = meta_step(chosen, {"phi": psi}, Mixed(transform), tasks).gradient["phi"]
    return transform @ (psi - step)


def test_a_linear_change_of_coordinates_changes_nothing():
    """NG3: to 1e-8 without damping; with it, and for the plain gradient, the change is seen."""
    ridge = Ridge.make()
    transform = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) + 2 * torch.eye(4)
    for direction, invariant in ((natural(), True), (natural(damping=0.1), False), (Plain(), False)):
        here = reached(torch.eye(4), direction, ridge.theta, ridge.tasks)
        there = reached(transform, direction, ridge.theta, ridge.tasks)
        assert ((here - there).norm() < 1e-8 * here.norm()) == invariant


def test_fisher_is_the_hessian_where_outputs_are_linear():
    """NG8: softmax regression; and not for the net above."""
    with rng.seeded_construction(0, "test"):
        module = MLP(input_shape=(2,), num_outputs=3, hidden=(), activation="tanh").double()
    linear = dataclasses.replace(Net.make(), problem=Classification(Learner(module)))
    linear = dataclasses.replace(linear, theta=linear.problem.learner.init(dtype=torch.float64))
    for net, equal in ((linear, True), (Net.make(), False)):
        gradients = [
            flat(
                meta_step(
                    composed(descent(3, 0.2), implicit(20, kind), weight=5.0), net.theta, net.problem, net.tasks
                ).gradient
            )
            for kind in ("hessian", "gauss_newton")
        ]
        assert ((gradients[0] - gradients[1]).norm() < 1e-10 * gradients[0].norm()) == equal
