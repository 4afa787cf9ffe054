"""Hessian and Gauss-Newton products against matrices that are formed explicitly, task by task."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev, vmap

from metarun.maths import operators
from metarun.maths.cg import Status, conjugate_gradient
from metarun.maths.operators import LinearOperator, dense, differences, gauss_newton, hessian, hessian_by_jvp
from metarun.maths.trees import Params, expand, gradient, ravel

pytestmark = pytest.mark.usefixtures("float64")

B, S, IN, HIDDEN, WAYS = 3, 4, 2, 3, 3
SIZE = HIDDEN * IN + HIDDEN + WAYS * HIDDEN + WAYS
SHAPES = {"w1": (HIDDEN, IN), "b1": (HIDDEN,), "w2": (WAYS, HIDDEN), "b2": (WAYS,)}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def params() -> Params:
    return {name: random(B, *shape, seed=10 + i) for i, (name, shape) in enumerate(SHAPES.items())}


def of_task(b: int) -> Params:
    return {name: leaf[b] for name, leaf in params().items()}


def inputs() -> Tensor:
    return random(B, S, IN, seed=1)


def targets() -> Tensor:
    return torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2], [2, 0, 1, 1]])


def network(p: Params, x: Tensor) -> Tensor:
    return torch.tanh(x @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"]


def network_flat(vector: Tensor, x: Tensor) -> Tensor:
    pieces = vector.split([HIDDEN * IN, HIDDEN, WAYS * HIDDEN, WAYS])
    return network({name: p.reshape(shape) for (name, shape), p in zip(SHAPES.items(), pieces, strict=True)}, x)


def squared(outputs: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(outputs, F.one_hot(target, WAYS).to(outputs))


LOSSES = {"cross_entropy": F.cross_entropy, "squared": squared}


def kl(outputs: Tensor, reference: Tensor) -> Tensor:
    log_reference = reference.log_softmax(-1)
    return (log_reference.exp() * (log_reference - outputs.log_softmax(-1))).sum(-1).mean()


DIVERGENCES = {"cross_entropy": kl, "squared": F.mse_loss}


def hessian_operator(loss) -> LinearOperator:
    def losses(p: Params) -> Tensor:
        return vmap(loss)(vmap(network)(p, inputs()), targets())

    return hessian(lambda p: gradient(losses, p), params())


def gauss_newton_operator(divergence) -> LinearOperator:
    return gauss_newton(lambda p: vmap(network)(p, inputs()), vmap(divergence), params())


def jacobian(b: int) -> Tensor:
    """[S * WAYS, D] of task b."""
    return jacrev(lambda v: network_flat(v, inputs()[b]).flatten())(ravel(params())[b])


OPERATORS = {f"hessian, {name}": (hessian_operator, loss) for name, loss in LOSSES.items()} | {
    f"gauss_newton, {name}": (gauss_newton_operator, divergence) for name, divergence in DIVERGENCES.items()
}


@pytest.mark.parametrize("loss", LOSSES)
def test_hessian_is_the_dense_one(loss):
    matrices = dense(hessian_operator(LOSSES[loss]), B, SIZE, like=inputs())
    for b in range(B):

        def one(vector: Tensor, b: int = b) -> Tensor:
            return LOSSES[loss](network_flat(vector, inputs()[b]), targets()[b])

        expected = jacrev(grad(one))(ravel(params())[b])
        torch.testing.assert_close(matrices[b], expected, rtol=1e-12, atol=1e-14)
    assert (torch.linalg.eigvalsh(matrices)[:, 0] < -1e-4).all()  # a case in which it differs from Gauss-Newton


@pytest.mark.parametrize("loss", LOSSES)
def test_gauss_newton_is_the_dense_product(loss):
    """J' M J with M the Hessian of the *loss* in output space, which the divergence's must equal."""
    matrices = dense(gauss_newton_operator(DIVERGENCES[loss]), B, SIZE, like=inputs())
    for b in range(B):
        outputs = network(of_task(b), inputs()[b])

        def of_outputs(flat: Tensor, b: int = b) -> Tensor:
            return LOSSES[loss](flat.reshape(S, WAYS), targets()[b])

        metric = jacrev(grad(of_outputs))(outputs.flatten())
        torch.testing.assert_close(matrices[b], jacobian(b).T @ metric @ jacobian(b), rtol=1e-12, atol=1e-14)


def test_gauss_newton_of_softmax_is_the_fisher_matrix():
    """NG1: mean over examples of sum_c p_c s_c s_c', s_c the score of class c. Rank n(C-1); a common bias shift has none."""
    matrices = dense(gauss_newton_operator(kl), B, SIZE, like=inputs())
    for b in range(B):
        fisher = torch.zeros(SIZE, SIZE)
        for s in range(S):
            scores = jacrev(lambda v, b=b, s=s: network_flat(v, inputs()[b, s]).log_softmax(-1))(ravel(params())[b])
            probabilities = network(of_task(b), inputs()[b, s]).softmax(-1)
            fisher += torch.einsum("c,ci,cj->ij", probabilities, scores, scores) / S
        torch.testing.assert_close(matrices[b], fisher, rtol=1e-12, atol=1e-14)
        assert torch.linalg.matrix_rank(matrices[b], rtol=1e-10) == S * (WAYS - 1)
    assert (torch.linalg.eigvalsh(matrices) > -1e-14).all()
    shift = torch.zeros(B, SIZE)
    shift[:, -WAYS:] = 1
    assert gauss_newton_operator(kl).apply(shift).abs().max() < 1e-15


def test_cg_on_the_fisher_system_takes_rank_plus_one_steps():
    """NG2: I + F / lambda has at most n(C-1) + 1 = 9 distinct eigenvalues."""
    system = gauss_newton_operator(kl).scaled(1 / 0.1).shifted(1.0)
    rhs = random(B, SIZE, seed=5)
    result = conjugate_gradient(system, rhs, max_steps=S * (WAYS - 1) + 1, rtol=1e-9)
    assert result.status.tolist() == [Status.CONVERGED] * B
    torch.testing.assert_close(
        result.solution, torch.linalg.solve(dense(system, B, SIZE, like=rhs), rhs), rtol=1e-7, atol=1e-8
    )


def test_hessian_equals_gauss_newton_in_the_last_layer():
    """NG8: outputs are linear in the last layer's parameters, so there the second term of the Hessian is zero."""
    block = slice(HIDDEN * IN + HIDDEN, SIZE)
    full = dense(hessian_operator(F.cross_entropy), B, SIZE, like=inputs())
    semi = dense(gauss_newton_operator(kl), B, SIZE, like=inputs())
    torch.testing.assert_close(full[:, block, block], semi[:, block, block], rtol=1e-12, atol=1e-14)
    assert (full - semi).abs().max() > 1e-2


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_symmetric_and_repeatable(name):
    """CG4; the pullback is used again for each product and must not wear out."""
    make, argument = OPERATORS[name]
    system = make(argument)
    u, w = random(B, SIZE, seed=3), random(B, SIZE, seed=4)
    first = system.apply(u)
    assert ((first * w).sum(1) - (system.apply(w) * u).sum(1)).abs().max() < 1e-12
    assert torch.equal(system.apply(u), first)
    assert not first.requires_grad
    assert torch.equal(make(argument).apply(u), first)


@pytest.mark.parametrize("name", OPERATORS)
def test_rows_are_independent(name):
    """A vector for one task gives nothing for the others."""
    make, argument = OPERATORS[name]
    u = random(B, SIZE, seed=3)
    alone = torch.zeros_like(u)
    alone[1] = u[1]
    product = make(argument).apply(alone)
    assert product[[0, 2]].abs().max() == 0
    torch.testing.assert_close(product[1], make(argument).apply(u)[1], rtol=1e-13, atol=1e-15)


def test_scaled_and_shifted():
    matrices = random(2, 3, 3, seed=1)
    operator = LinearOperator(lambda v: torch.einsum("bij,bj->bi", matrices, v))
    built = dense(operator.scaled(0.5).shifted(3.0), 2, 3, like=matrices)
    torch.testing.assert_close(built, 0.5 * matrices + 3.0 * torch.eye(3), rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(dense(operator, 2, 3, like=matrices), matrices, rtol=0, atol=0)


def test_parameters_that_do_not_matter_have_zero_curvature():
    """A leaf that the loss ignores, one in which it is linear, and a loss that is linear in all."""
    leaves = {"used": random(B, 2, seed=1), "linear": random(B, 1, seed=2), "unused": random(B, 1, seed=3)}

    def losses(p: Params) -> Tensor:
        return (p["used"] ** 2).sum(1) + p["linear"].sum(1)

    matrices = dense(hessian(lambda p: gradient(losses, p), leaves), B, 4, like=leaves["used"])
    torch.testing.assert_close(matrices, torch.diag(torch.tensor([2.0, 2.0, 0.0, 0.0])).expand(B, 4, 4), rtol=0, atol=0)

    linear = hessian(lambda p: gradient(lambda q: q["linear"].sum(1), p), leaves)
    assert torch.equal(linear.apply(torch.ones(B, 4)), torch.zeros(B, 4))

    def outputs(p: Params) -> Tensor:
        return p["used"] * 3

    semi = gauss_newton(outputs, lambda o, reference: ((o - reference) ** 2).sum(1) / 2, leaves)
    expected = torch.diag(torch.tensor([9.0, 9.0, 0.0, 0.0])).expand(B, 4, 4)
    torch.testing.assert_close(dense(semi, B, 4, like=leaves["used"]), expected, rtol=0, atol=0)


def test_forward_mode_takes_parameters_that_the_tasks_share():
    """Before the first inner step phi is theta, expanded: B views of one memory, which PyTorch's dual tensors refuse."""

    def losses(p: Params, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(network(p, x), target)

    shared = expand(of_task(0), B)
    forward = hessian_by_jvp(lambda p: vmap(grad(losses))(p, inputs(), targets()), shared)
    reverse = hessian(lambda p: gradient(lambda q: vmap(losses)(q, inputs(), targets()), p), shared)
    vectors = random(B, SIZE, seed=5)
    torch.testing.assert_close(forward.apply(vectors), reverse.apply(vectors), rtol=1e-12, atol=1e-14)


def test_differences_of_a_cube():
    """(1 + s)^3 - (1 - s)^3 = 2 s (3 + s^2), and the one-sided ones disagree by 6 s of 2 (3 + s^2); s = radius (1 + |x|)."""
    apart: list[Tensor] = []
    along = differences(lambda p: {"x": p["x"] ** 3}, {"x": torch.ones(1, 1)}, [0.01], apart)
    vector, s = torch.tensor([[0.9]]), 0.02
    assert along(vector).item() == pytest.approx(0.9 * (3 + s**2), rel=1e-12)
    assert apart[0].item() == pytest.approx(3 * s / (3 + s**2), rel=1e-12)


def bent(at: list[float]) -> tuple[Callable[[Params], Params], Params]:
    """max(x - c, 0) for kinks c, at x = 1: each task's step of radius r is 2 r long."""
    kinks = torch.tensor(at)[:, None]
    return lambda p: {"x": (p["x"] - kinks).relu()}, {"x": torch.ones(len(at), 1)}


def test_a_kink_within_the_step_asks_for_a_shorter_one(monkeypatch):
    """Steps of 2e-7 and 2e-9. Kinks: none near; 1e-7 behind (ahead 2, behind 1 of 3 parts); 1e-9 behind; at the point itself."""
    function, point = bent([0.0, 1 - 1e-7, 1 - 1e-9, 1.0])
    found = {}
    for asks in (True, False):
        monkeypatch.setattr(operators, "may_read_values", lambda like, asks=asks: asks)
        apart: list[Tensor] = []
        along = differences(function, point, [1e-7, 1e-9], apart)
        found[asks] = along(torch.ones(4, 1)), apart[0]
    assert torch.equal(found[True][0], found[False][0])
    assert torch.equal(found[True][1], found[False][1])
    products, apart = found[True]
    torch.testing.assert_close(products[:, 0], torch.tensor([1.0, 1.0, 0.75, 0.5]), rtol=0, atol=1e-6)
    torch.testing.assert_close(apart, torch.tensor([0.0, 0.0, 1 / 3, 1.0]), rtol=0, atol=1e-6)
    alone = differences(function, point, [1e-7])(torch.ones(4, 1))[:, 0]
    torch.testing.assert_close(alone, torch.tensor([1.0, 0.75, (2 + 0.01) / 4, 0.5]), rtol=0, atol=1e-6)


def test_differences_along_nothing_are_nothing():
    apart: list[Tensor] = []
    function, point = bent([0.0, 1.0])
    assert differences(function, point, [1e-7, 1e-9], apart)(torch.zeros(2, 1)).tolist() == [[0.0], [0.0]]
    assert apart[0].tolist() == [0.0, 0.0]
