"""Closed forms of the family beyond MAML and iMAML: masks, learned lambda and rates, Reptile, the released code's system."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from metarun import rng
from metarun.algorithm import (
    ConjugateGradient,
    Dense,
    FirstOrder,
    LearnedRates,
    Minres,
    MultiStepLoss,
    NoGradient,
    Prototypes,
    Recursion,
    Reptile,
    Richardson,
    Unrolled,
)
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.classification import Classification
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import adapt, meta_step

from .closed_forms import Bilinear, Linear, Quadratic, Quartic, Ridge, composed, descent, implicit, quadratic, toy

pytestmark = pytest.mark.usefixtures("float64")


def scalar_task() -> TaskBatch:
    """a=2, c=1 in the support, b=3, e=-1 in the query; theta = 0."""
    return quadratic(([2.0], [1.0]), ([3.0], [-1.0]))


def scalar_gradient(chosen, name: str = "phi", theta: float = 0.0) -> float:
    meta = chosen.meta_parameters(None, {"phi": torch.full((1,), theta)})
    return meta_step(chosen, meta, Quadratic(), scalar_task()).gradient[name].item()


def pair(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient["w"], gradient["b"]])


# ---- masks: ANIL, BOIL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapted", "estimator", "expected"),
    [
        pytest.param(["w"], Unrolled(), (-1.68, -0.28), id="TOY3 ANIL"),
        pytest.param(["w"], Recursion(curvature="hessian"), (-1.68, -0.28), id="TOY3 by recursion"),
        pytest.param(["w"], FirstOrder(), (-2.8, -1.12), id="TOY3 first order"),
        pytest.param(["b"], Unrolled(), (-1.76, -0.99), id="TOY4 BOIL"),
        pytest.param(["b"], Recursion(curvature="hessian"), (-1.76, -0.99), id="TOY4 by recursion"),
    ],
)
def test_adapting_one_half_of_a_bilinear_net(adapted, estimator, expected):
    theta, tasks = toy()
    chosen = composed(descent(1, 0.1), estimator, adapted=adapted)
    gradient = meta_step(chosen, theta, Bilinear(), tasks).gradient
    torch.testing.assert_close(pair(gradient), torch.tensor(expected), rtol=1e-13, atol=0)


def test_implicit_gradient_of_a_frozen_parameter():
    """ANIL's w* = (b + lambda w) / (b^2 + lambda) in closed form: its meta-gradient is that of 1/2 (w* b - 3)^2 in (w, b)."""
    weight = 2.0
    theta, tasks = toy()
    w, b = (theta[name].clone().requires_grad_() for name in "wb")
    adapted = (b + weight * w) / (b * b + weight)
    loss = ((adapted * b - 3) ** 2).sum() / 2
    expected = torch.cat(torch.autograd.grad(loss, [w, b]))
    # One step of size 1 / (b^2 + lambda) lands on the minimum.
    chosen = composed(descent(1, 1 / 6), implicit(1), weight=weight, adapted=["w"])
    gradient = meta_step(chosen, theta, Bilinear(), tasks).gradient
    torch.testing.assert_close(pair(gradient), expected, rtol=1e-13, atol=0)


# ---- lambda: its gradient, by layers, learned ------------------------------------------------------------------------


def test_gradient_of_lambda():
    """SC5: d M / d lambda = -15/128 at lambda = 6; the meta-parameter is log lambda, so times 6; implicit and unrolled agree."""
    expected = -15 / 128 * 6
    for estimator, steps, step_size in ((implicit(1), 1, 1 / 8), (Unrolled(), 300, 1 / 16)):
        chosen = composed(descent(steps, step_size), estimator, weight=6.0, learn_proximal_weight="scalar")
        assert scalar_gradient(chosen, "proximal_weight/all") == pytest.approx(expected, rel=1e-12)
        assert scalar_gradient(chosen) == pytest.approx(45 / 16, rel=1e-12)


@pytest.fixture
def ridge(float64) -> Ridge:
    return Ridge.make()


WEIGHTS = torch.tensor([0.3, 1.0, 2.5, 8.0], dtype=torch.float64)


def test_a_lambda_for_each_parameter(ridge):
    """RR6: g = L (H + L)^-1 v and not its transpose (which must miss), and d M / d lambda_j by central differences."""
    chosen = composed(descent(600, 0.09), implicit(4), weight=1.0, learn_proximal_weight="parameter")
    theta = {"phi": ridge.theta, "proximal_weight/phi": WEIGHTS.log()}
    gradient = meta_step(chosen, theta, Linear(), ridge.tasks).gradient
    phi = ridge.solution(WEIGHTS)
    torch.testing.assert_close(adapt(chosen, theta, Linear(), ridge.tasks)["phi"][0], phi, rtol=1e-12, atol=0)
    slope = ridge.query_gradient(phi)
    exact = WEIGHTS * torch.linalg.solve(ridge.hessian + torch.diag(WEIGHTS), slope)
    torch.testing.assert_close(gradient["phi"], exact, rtol=1e-10, atol=0)
    transposed = torch.linalg.solve(torch.eye(4) + ridge.hessian / WEIGHTS[:, None], slope)
    assert (gradient["phi"] - transposed).norm() > 1e-2 * exact.norm()

    differences = []
    for j in range(4):
        shift = 1e-5 * torch.eye(4)[j]
        ahead, behind = (ridge.query_loss(ridge.solution((WEIGHTS.log() + s * shift).exp())) for s in (1, -1))
        differences.append((ahead - behind) / 2e-5)
    torch.testing.assert_close(gradient["proximal_weight/phi"], torch.stack(differences), rtol=1e-7, atol=1e-9)


def test_lambda_by_patterns_is_lambda_by_parameters():
    """Fixed weights by name give the gradient of the same weights learned."""
    theta, tasks = toy()
    by_pattern = composed(descent(400, 0.1), implicit(2), weight={"w": 1.5, "*": 3.0})
    learned = composed(descent(400, 0.1), implicit(2), weight={"w": 1.5, "*": 3.0}, learn_proximal_weight="layer")
    one = meta_step(by_pattern, theta, Bilinear(), tasks).gradient
    other = meta_step(learned, learned.meta_parameters(Bilinear(), theta), Bilinear(), tasks).gradient
    torch.testing.assert_close(pair(one), pair(other), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match=r"no pattern of \['w'\] fits b\. Add"):
        composed(descent(1, 0.1), implicit(2), weight={"w": 1.5}).check(Bilinear(), theta)


# ---- iMAML's released code -------------------------------------------------------------------------------------------


def test_the_released_codes_step_and_system():
    """SC7: one step of 1/4, a pull-back to 1/4, A = 2 + 2/12 = 13/6, and so 15/4 / (13/6) = 45/26."""
    official = implicit(5, negative_curvature="stop", identity=2.0, weight_offset=10.0)
    chosen = composed(descent(1, 1 / 4, proximal="pull_back"), official, weight=2.0)
    adapted = adapt(chosen, {"phi": torch.zeros(1)}, Quadratic(), scalar_task())
    assert adapted["phi"].item() == pytest.approx(1 / 4, rel=1e-14)
    assert scalar_gradient(chosen) == pytest.approx(float(Fraction(45, 26)), rel=1e-14)


def test_lambda_in_evaluation_is_its_own():
    """With lambda 0 at test, two steps of 1/4 are MAML's: phi = 3/4."""
    chosen = composed(descent(2, 1 / 4), implicit(1), weight=2.0, eval_proximal_weight=0.0)
    adapted = adapt(chosen, {"phi": torch.zeros(1)}, Quadratic(), scalar_task())
    assert adapted["phi"].item() == pytest.approx(3 / 4, rel=1e-14)


# ---- learned rates, Reptile, several losses, baselines ---------------------------------------------------------------


def rates(kind: str, steps: int = 1) -> LearnedRates:
    return LearnedRates(steps=steps, step_size=1 / 4, rates=kind)


@pytest.mark.parametrize("kind", ["parameter", "layer", "layer_and_step"])
def test_meta_gradient_of_a_step_size(kind):
    """SC8: -L'(phi_1) L_support'(theta) = 9; and theta's own is MAML's 9/4."""
    chosen = composed(rates(kind), Unrolled())
    assert scalar_gradient(chosen, "inner/step_size/phi") == pytest.approx(9.0, rel=1e-14)
    assert scalar_gradient(chosen) == pytest.approx(9 / 4, rel=1e-14)


def test_each_step_has_a_rate_of_its_own():
    """phi_2 = c + (1 - 2 a_1)(1 - 2 a_2)(theta - c): d M / d a_i = L'(phi_2) * 2 (1 - 2 a) at a = 1/4; L'(3/4) = 21/4."""
    chosen = composed(rates("layer_and_step", 2), Unrolled())
    meta = chosen.meta_parameters(None, {"phi": torch.zeros(1)})
    gradient = meta_step(chosen, meta, Quadratic(), scalar_task()).gradient["inner/step_size/phi"]
    torch.testing.assert_close(gradient, torch.full((2,), 21 / 4), rtol=1e-14, atol=0)
    # A third step, at test, takes the last rate: phi_3 = 7/8.
    third = adapt(chosen, meta, Quadratic(), scalar_task(), 3)["phi"].item()
    assert third == pytest.approx(7 / 8, rel=1e-14)


def test_reptile_is_the_way_gone():
    """SC9: (theta - phi_1) / alpha = -2, the support slope at theta."""
    assert scalar_gradient(composed(descent(1, 1 / 4), Reptile(scale=1 / 4))) == pytest.approx(-2.0, rel=1e-14)
    assert scalar_gradient(composed(descent(3, 1 / 4), Reptile(scale=1.0))) == pytest.approx(-7 / 8, rel=1e-14)


def test_the_loss_of_every_step():
    """Equal weights: the mean of 9/4, 21/16 and 45/64 (SC1 to SC3); annealed away: 45/64; half way: in between."""
    at = {}
    for step in (0, 50, 100, 500):
        chosen = composed(descent(3, 1 / 4), MultiStepLoss(annealed_over=100))
        estimate = meta_step(chosen, {"phi": torch.zeros(1)}, Quadratic(), scalar_task(), step=step)
        at[step] = estimate.gradient["phi"].item()
        assert estimate.query_loss.item() == pytest.approx(1.5 * (7 / 8 + 1) ** 2, rel=1e-14)
    equal, last = (9 / 4 + 21 / 16 + 45 / 64) / 3, 45 / 64
    assert [at[0], at[50], at[100], at[500]] == pytest.approx([equal, (equal + last) / 2, last, last], rel=1e-14)


def test_no_meta_learning_moves_nothing():
    chosen = composed(descent(1, 1 / 4), NoGradient())
    estimate = meta_step(chosen, {"phi": torch.zeros(1)}, Quadratic(), scalar_task())
    assert estimate.gradient["phi"].tolist() == [0.0]
    assert estimate.query_loss.item() == pytest.approx(1.5 * 1.5**2, rel=1e-14)


# ---- the recursion and differences of gradients ----------------------------------------------------------------------


def test_the_recursion_is_the_unrolled_gradient_with_a_proximal_term(ridge):
    """The product of the steps' Jacobians, taken backwards, with what reaches theta through each proximal term."""
    theta = {"phi": ridge.theta}
    for steps in (1, 2, 5):
        unrolled, recursion = (
            meta_step(composed(descent(steps, 0.1), estimator, weight=0.7), theta, Linear(), ridge.tasks).gradient[
                "phi"
            ]
            for estimator in (Unrolled(), Recursion(curvature="hessian"))
        )
        torch.testing.assert_close(recursion, unrolled, rtol=1e-13, atol=1e-15)


def test_differences_of_gradients_are_exact_on_quadratics(ridge):
    """HF3: HF-MAML is MAML there, but for rounding: 1e-16 / 6e-6, the radius."""
    theta = {"phi": ridge.theta}
    exact, differences = (
        meta_step(composed(descent(2, 0.1), estimator), theta, Linear(), ridge.tasks).gradient["phi"]
        for estimator in (Unrolled(), Recursion(curvature="finite_difference"))
    )
    torch.testing.assert_close(differences, exact, rtol=1e-9, atol=0)


def quartic(estimator) -> float:
    tasks = TaskBatch(
        *(Examples(torch.zeros(1, 1), torch.tensor([[power]])) for power in (4.0, 2.0)), {}
    )  # support phi^4/4, query phi^2/2
    return (
        meta_step(composed(descent(1, 0.1), estimator), {"phi": torch.ones(1)}, Quartic(), tasks).gradient["phi"].item()
    )


def test_maml_on_a_quartic():
    """HF4: phi = 0.9 and 0.9 (1 - 0.1 * 3) = 0.63 exactly; differences miss it by rounding, 1e-16 / 1e-7 (`test_operators`)."""
    assert quartic(Unrolled()) == pytest.approx(0.63, rel=1e-14)
    assert quartic(Recursion(curvature="hessian")) == pytest.approx(0.63, rel=1e-14)
    assert quartic(Recursion(curvature="finite_difference")) == pytest.approx(0.63, abs=1e-9)


# ---- solvers of the implicit system ----------------------------------------------------------------------------------


def solver_gradient(ridge: Ridge, solver, weight: float = 1.0, curvature: str = "hessian") -> torch.Tensor:
    chosen = composed(descent(400, 0.15), implicit(0, curvature, solver=solver), weight=weight)
    return meta_step(chosen, {"phi": ridge.theta}, Linear(), ridge.tasks).gradient["phi"]


def test_every_solver_finds_the_same_gradient(ridge):
    weights = torch.ones(4)
    exact = torch.linalg.solve(ridge.hessian + torch.eye(4), ridge.query_gradient(ridge.solution(weights)))
    largest = 1 + torch.linalg.eigvalsh(ridge.hessian)[-1].item()
    solvers = {
        "cg": ConjugateGradient(steps=4, rtol=0.0, atol=0.0, negative_curvature="raise"),
        "minres": Minres(steps=4, rtol=0.0),
        "dense": Dense(),
        "fixed_point": Richardson(steps=400, step_size=1 / largest),
    }
    for solver in solvers.values():
        torch.testing.assert_close(solver_gradient(ridge, solver), exact, rtol=1e-10, atol=0)


def test_the_neumann_series_is_its_partial_sum(ridge):
    """x_k = sum_{j<=k} (-H/lambda)^j v, which converges for lambda above the largest curvature."""
    weight = 20.0
    phi = ridge.solution(torch.full((4,), weight))
    v, matrix = ridge.query_gradient(phi), -ridge.hessian / weight
    expected = sum(torch.linalg.matrix_power(matrix, j) @ v for j in range(4))
    chosen = composed(descent(400, 0.03), implicit(0, solver=Richardson(steps=3, step_size=1.0)), weight=weight)
    actual = meta_step(chosen, {"phi": ridge.theta}, Linear(), ridge.tasks).gradient["phi"]
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_more_cg_steps_are_never_worse(ridge):
    """CG5: the error in the A-norm does not grow with the steps, and is at rounding after D of them; none is the slope itself."""
    system = torch.eye(4) + ridge.hessian
    slope = ridge.query_gradient(ridge.solution(torch.ones(4)))
    exact = torch.linalg.solve(system, slope)
    errors = []
    for steps in range(5):
        solver = ConjugateGradient(steps=steps, rtol=0.0, atol=0.0, negative_curvature="raise")
        error = solver_gradient(ridge, solver) - exact
        errors.append((error @ system @ error).sqrt().item())
        if steps == 0:
            torch.testing.assert_close(error + exact, slope, rtol=1e-10, atol=0)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10 * exact.norm()


@pytest.mark.parametrize("policy", ["stop", "abs", "minres", "gauss_newton", "damp"])
def test_policies_at_negative_curvature(policy):
    """A = I + 2 H(theta), H = [[4, 3], [3, 1]], is indefinite (TOY8); the query slope is -(2, 1).

    CG makes one step of 5/63 and then meets negative curvature.
    """
    theta, tasks = toy()
    chosen = composed(descent(0, 0.1), implicit(2, negative_curvature=policy), weight=0.5)
    estimate = meta_step(chosen, theta, Bilinear(), tasks)
    assert estimate.stats["system/negative_curvature"].tolist() == [True]
    matrix = torch.eye(2) + 2 * torch.tensor([[4.0, 3.0], [3.0, 1.0]])
    rhs = torch.tensor([-2.0, -1.0])
    # Of all tries; the first three of damp stop after one step, as the very first does.
    steps = {"stop": 1, "abs": 2, "minres": 1 + 2, "gauss_newton": 1 + 2, "damp": 1 + 1 + 1 + 1 + 2}
    assert estimate.stats["system/steps"].tolist() == [steps[policy]]
    if policy == "stop":
        wanted = 5 / 63 * rhs
    elif policy == "minres":
        wanted = torch.linalg.solve(matrix, rhs)
    elif policy == "gauss_newton":
        jacobian = torch.tensor([2.0, 1.0])
        wanted = torch.linalg.solve(torch.eye(2) + 2 * torch.outer(jacobian, jacobian), rhs)
    elif policy == "damp":
        # 1e-3, 1e-2, 1e-1, 1 and 10 are tried; the smallest eigenvalue is 1 - 2 * 0.854 = -0.708, so 1 is the first to do.
        wanted = torch.linalg.solve(matrix + torch.eye(2), rhs)
    else:
        # The first step as above; the second along its conjugate direction with |p'Ap| in place of p'Ap.
        first, residual = 5 / 63 * rhs, rhs - 5 / 63 * (matrix @ rhs)
        direction = residual + (residual @ residual) / (rhs @ rhs) * rhs
        wanted = first + (residual @ residual) / (direction @ matrix @ direction).abs() * direction
    torch.testing.assert_close(pair(estimate.gradient), wanted, rtol=1e-12, atol=1e-14)
    if policy == "stop":
        left = (rhs - matrix @ wanted).norm() / rhs.norm()
        assert estimate.stats["system/residual"].item() == pytest.approx(left.item(), rel=1e-12)
    elif policy != "abs":
        assert estimate.stats["system/residual"].item() < 1e-12, "of the system that was solved in the end"


def test_negative_curvature_can_end_the_run():
    theta, tasks = toy()
    chosen = composed(descent(0, 0.1), implicit(2, negative_curvature="raise"), weight=0.5)
    with pytest.raises(RuntimeError, match=r"1 of 1 tasks is not positive definite.*curvature=gauss_newton"):
        meta_step(chosen, theta, Bilinear(), tasks)


# ---- prototypes ------------------------------------------------------------------------------------------------------


def test_prototypes_are_a_linear_head():
    """S10: softmax of 2 c_k'e - |c_k|^2 is that of -|e - c_k|^2, with e and c_k computed by hand."""
    with rng.seeded_construction(0, "test"):
        module = MLP(input_shape=(3,), num_outputs=2, hidden=(4,), activation="tanh").double()
    problem = Classification(Learner(module, head="layers.3"))
    theta = problem.learner.init(dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 6, 3, generator=g)
    tasks = TaskBatch(Examples(inputs[:, :3], torch.tensor([[0, 1, 1]])), None, {})
    chosen = composed(Prototypes(steps=1), Unrolled())
    chosen.check(problem, theta)
    params = adapt(chosen, theta, problem, tasks)
    embed = nn.Sequential(*list(module.layers)[:-1])
    support_e, query_e = embed(inputs[0, :3]), embed(inputs[0, 3:])
    centres = torch.stack([support_e[0], (support_e[1] + support_e[2]) / 2])
    expected = (-((query_e[:, None] - centres) ** 2).sum(-1)).softmax(-1)
    logits = problem.outputs({name: leaf[0] for name, leaf in params.items()}, inputs[0, 3:], None)
    torch.testing.assert_close(logits.softmax(-1), expected.detach(), rtol=1e-12, atol=0)


def test_meta_gradient_of_prototypes_is_that_of_the_distances():
    """Autograd through the distances, written out."""
    with rng.seeded_construction(0, "test"):
        module = MLP(input_shape=(3,), num_outputs=2, hidden=(4,), activation="tanh").double()
    problem = Classification(Learner(module, head="layers.3"))
    theta = problem.learner.init(dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(1, 8, 3, generator=g), torch.tensor([[0, 1, 0, 1, 0, 1, 1, 0]])
    tasks = TaskBatch(Examples(inputs[:, :4], targets[:, :4]), Examples(inputs[:, 4:], targets[:, 4:]), {})
    actual = meta_step(composed(Prototypes(steps=1), Unrolled()), theta, problem, tasks).gradient

    embed = nn.Sequential(*list(module.layers)[:-1])
    e = embed(inputs[0])
    centres = torch.stack([(e[0] + e[2]) / 2, (e[1] + e[3]) / 2])
    logits = -((e[4:, None] - centres) ** 2).sum(-1)
    loss = nn.functional.cross_entropy(logits, targets[0, 4:])
    expected = torch.autograd.grad(loss, list(embed.parameters()))
    for (name, leaf), value in zip(list(theta.items())[:2], expected, strict=True):
        torch.testing.assert_close(actual[name], value, rtol=1e-12, atol=1e-15)
        assert leaf.shape == value.shape
    assert all(float(actual[name].abs().max()) == 0.0 for name in list(theta)[2:])  # the head is not learned
    assert math.isfinite(loss.item())
