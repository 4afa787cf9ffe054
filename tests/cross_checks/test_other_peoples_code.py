"""Gradients, curvature products and solvers against libraries that nobody here wrote, on the same weights and data.

higher and torchopt for MAML's meta-gradient, torchopt for the implicit one, curvlinops for curvature matrices, SciPy for Krylov
solvers. They run one task at a time; their nets hold PyTorch's own batch norm where ours hold `TaskBatchNorm`. The extra
`crosscheck` installs them; a test whose library is missing is skipped.
"""

import copy
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metarun import rng
from metarun.algorithm import (
    Algorithm,
    ConjugateGradient,
    FirstOrder,
    GradientDescent,
    Implicit,
    Kfac,
    Plain,
    Unrolled,
)
from metarun.algorithm.direction.metric.base import Asked
from metarun.algorithm.protocols import AdaptedTasks
from metarun.device.ranks import ALONE
from metarun.maths.cg import conjugate_gradient
from metarun.maths.minres import minres
from metarun.maths.operators import LinearOperator, dense
from metarun.maths.trees import expand, ravel
from metarun.models.conv4 import Conv4
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.models.norm import TaskBatchNorm
from metarun.problems.classification import Classification
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import bilevel, inner_problem, meta_step, task_gradients

pytestmark = [
    pytest.mark.crosscheck,
    pytest.mark.filterwarnings("ignore:We've integrated functorch into PyTorch:FutureWarning"),  # torchopt
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # einconv, for curvlinops
]

NUM_TASKS, WAYS, STEPS, STEP_SIZE = 2, 3, 3, 0.1
# Rounding of either type, through three steps of a net with batch norm.
RTOL = {torch.float32: 1e-5, torch.float64: 1e-10}


def library(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"needs {name}: pip install -c constraints.txt -e '.[crosscheck]'")


@dataclass(frozen=True)
class Twin:
    """A net as PyTorch's own layers make it, the problem that we make of it, and tasks."""

    module: nn.Module
    problem: Classification | Regression
    tasks: TaskBatch
    loss: type[nn.Module]

    def each(self):
        """(support inputs, support targets, query inputs, query targets) of each task."""
        support, query = self.tasks.support, self.tasks.query
        return zip(support.inputs, support.targets, query.inputs, query.targets, strict=True)


def twin(net: str, dtype: torch.dtype, kind: str = "classification") -> Twin:
    generator = torch.Generator().manual_seed(0)
    shape = (2,) if net == "mlp" else (1, 16, 16)
    num_outputs = WAYS if kind == "classification" else 2
    with rng.seeded_construction(0, "test"):
        if net == "mlp":
            module = MLP(input_shape=shape, num_outputs=num_outputs, hidden=(5, 4), activation="tanh")
        else:
            norm = "none" if net == "conv4, no norm" else "batch"
            module = with_fused_norms(Conv4(input_shape=shape, num_outputs=WAYS, width=8, norm=norm))
    module.to(dtype)
    learner = Learner(copy.deepcopy(module)).to("cpu", dtype)

    def examples(size: int) -> Examples:
        inputs = torch.randn(NUM_TASKS, WAYS * size, *shape, generator=generator, dtype=dtype)
        if kind == "regression":
            return Examples(inputs, torch.randn(NUM_TASKS, WAYS * size, num_outputs, generator=generator, dtype=dtype))
        return Examples(inputs, torch.arange(WAYS).repeat_interleave(size).expand(NUM_TASKS, -1))

    problem, loss = (Classification, nn.CrossEntropyLoss) if kind == "classification" else (Regression, nn.MSELoss)
    return Twin(module, problem(learner), TaskBatch(examples(2), examples(3), {}), loss)


def with_fused_norms(module: nn.Module) -> nn.Module:
    """With PyTorch's batch norm, on batch statistics, in place of ours."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TaskBatchNorm):
                setattr(parent, name, nn.BatchNorm2d(len(child.weight), eps=child.eps, track_running_stats=False))
    return module


def mean(gradients: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(leaves).mean(0) for leaves in zip(*gradients, strict=True)]


def assert_same(ours: dict[str, Tensor], theirs: list[Tensor], rtol: float) -> None:
    """Each leaf, to `rtol` of the whole gradient."""
    scale = torch.cat([leaf.flatten() for leaf in theirs]).norm()
    for (name, leaf), other in zip(ours.items(), theirs, strict=True):
        error = (leaf - other).norm() / scale
        assert error <= rtol, f"{name}: relative error {error:.1e}"


# ---- MAML ------------------------------------------------------------------------------------------------------------


def by_higher(here: Twin) -> list[Tensor]:
    higher, gradients = library("higher"), []
    for inputs, targets, query_inputs, query_targets in here.each():
        optimizer = torch.optim.SGD(here.module.parameters(), STEP_SIZE)
        with higher.innerloop_ctx(here.module, optimizer, copy_initial_weights=False) as (net, inner):
            for _ in range(STEPS):
                inner.step(here.loss()(net(inputs), targets))
            loss = here.loss()(net(query_inputs), query_targets)
            gradients.append(torch.autograd.grad(loss, list(here.module.parameters())))
    return mean(gradients)


def by_torchopt(here: Twin) -> list[Tensor]:
    torchopt, gradients = library("torchopt"), []
    for inputs, targets, query_inputs, query_targets in here.each():
        net = copy.deepcopy(here.module)
        theta, inner = list(net.parameters()), torchopt.MetaSGD(net, lr=STEP_SIZE)
        for _ in range(STEPS):
            inner.step(here.loss()(net(inputs), targets))
        gradients.append(torch.autograd.grad(here.loss()(net(query_inputs), query_targets), theta))
    return mean(gradients)


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("net", ["mlp", "conv4"])
@pytest.mark.parametrize("theirs", [by_higher, by_torchopt])
def test_meta_gradient_of_maml(theirs, net, dtype):
    here = twin(net, dtype)
    algorithm = Algorithm(
        inner=GradientDescent(steps=STEPS, step_size=STEP_SIZE),
        meta_gradient=Unrolled(),
        direction=Plain(),
        proximal_weight=0.0,
    )
    estimate = meta_step(algorithm, dict(here.module.named_parameters()), here.problem, here.tasks)
    assert_same(estimate.gradient, theirs(here), RTOL[dtype])


# ---- the implicit gradient -------------------------------------------------------------------------------------------


def implicitly_by_torchopt(here: Twin, weight: float, steps: int, step_size: float) -> list[Tensor]:
    """torchopt's implicit differentiation of the root of the proximal objective's gradient, by its conjugate gradients."""
    torchopt = library("torchopt")
    names, theta = zip(*here.module.named_parameters(), strict=True)

    def loss(params, inputs, targets):
        return here.loss()(functional_call(here.module, dict(zip(names, params, strict=True)), (inputs,)), targets)

    def objective(phi, theta, inputs, targets):
        distance = sum(((a - b) ** 2).sum() for a, b in zip(phi, theta, strict=True))
        return loss(phi, inputs, targets) + weight / 2 * distance

    root_of = torch.func.grad(objective)
    solve = torchopt.linear_solve.solve_cg(rtol=1e-14, maxiter=200)

    @torchopt.diff.implicit.custom_root(root_of, argnums=1, solve=solve)
    def minimum(phi, theta, inputs, targets):
        for _ in range(steps):
            phi = tuple(p - step_size * g for p, g in zip(phi, root_of(phi, theta, inputs, targets), strict=True))
        return phi

    gradients = []
    for inputs, targets, query_inputs, query_targets in here.each():
        start = tuple(leaf.detach().clone() for leaf in theta)
        phi = minimum(start, theta, inputs, targets)
        gradients.append(torch.autograd.grad(loss(phi, query_inputs, query_targets), theta))
    return mean(gradients)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_implicit_gradient_at_convergence(kind):
    """300 steps at a rate of 0.7 and less end at the minimum to rounding; so do 60 CG steps on 50 parameters and less."""
    here, weight, steps, step_size = twin("mlp", torch.float64, kind), 2.0, 300, 0.2
    solver = ConjugateGradient(steps=60, rtol=1e-14, atol=0.0, negative_curvature="raise")
    algorithm = Algorithm(
        inner=GradientDescent(steps=steps, step_size=step_size),
        meta_gradient=Implicit(curvature="hessian", solver=solver, damping=0.0),
        direction=Plain(),
        proximal_weight=weight,
    )
    estimate = meta_step(algorithm, dict(here.module.named_parameters()), here.problem, here.tasks)
    assert (estimate.stats["inner/residual"] < 1e-13).all()
    assert_same(estimate.gradient, implicitly_by_torchopt(here, weight, steps, step_size), 1e-10)


# ---- curvature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curvature", "theirs", "rtol"),
    [
        ("hessian", "HessianLinearOperator", 1e-12),
        ("hessian_forward", "HessianLinearOperator", 1e-12),
        ("finite_difference", "HessianLinearOperator", 1e-8),  # 1e-16 / 6e-6 of rounding, as much of truncation
        ("gauss_newton", "GGNLinearOperator", 1e-12),
    ],
)
@pytest.mark.parametrize(
    ("net", "kind"),
    [("mlp", "classification"), ("mlp", "regression"), ("conv4, no norm", "classification")],
)
def test_curvature_products(net, kind, curvature, theirs, rtol):
    """Whole matrices of the small net; products with five vectors where there are thousands of parameters."""
    curvlinops, here = library("curvlinops"), twin(net, torch.float64, kind)
    theta = dict(here.module.named_parameters())
    params = {name: leaf.detach() for name, leaf in expand(theta, NUM_TASKS).items()}
    operator = inner_problem(
        here.problem, here.tasks, {name: leaf.detach() for name, leaf in theta.items()}, 1.0
    ).curvature(params, curvature)
    size = ravel(params).shape[1]
    generator = torch.Generator().manual_seed(1)
    vectors = torch.eye(size) if net == "mlp" else torch.randn(size, 5, generator=generator)
    vectors = vectors.double()
    ours = torch.stack([operator.apply(vector.expand(NUM_TASKS, -1)) for vector in vectors.T], dim=-1)
    for b, (inputs, targets, *_) in enumerate(here.each()):
        other = getattr(curvlinops, theirs)(here.module, here.loss(), list(theta.values()), [(inputs, targets)])
        expected = (other @ vectors).detach()
        assert (ours[b] - expected).norm() <= rtol * expected.norm()


@pytest.mark.parametrize("corrected", [False, True], ids=["KFAC", "EKFAC"])
@pytest.mark.parametrize(
    ("net", "kind"), [("mlp", "classification"), ("mlp", "regression"), ("conv4, no norm", "classification")]
)
def test_kronecker_factors(net, kind, corrected):
    """The matrix of curvlinops, of the exact Fisher matrix with a term for each place of a window, times vectors; task by task."""
    curvlinops, here = library("curvlinops"), twin(net, torch.float64, kind)
    theta = dict(here.module.named_parameters())
    like = {name: leaf.detach()[None] for name, leaf in theta.items()}
    algorithm = Algorithm(
        inner=GradientDescent(steps=0, step_size=0.1),
        meta_gradient=FirstOrder(),
        direction=Plain(),
        proximal_weight=0.0,
    )
    metric = Kfac(corrected=corrected, memory=0.0, num_tasks=None, num_fresh_tasks=0, samples=None)
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(1, ravel(like).shape[1], generator=generator, dtype=torch.float64)
    for b, (_, _, inputs, targets) in enumerate(here.each()):
        one = here.tasks[b : b + 1]
        given = {name: leaf[0] for name, leaf in like.items()}
        chunk = AdaptedTasks(
            bilevel(algorithm, given, here.problem, one), task_gradients(algorithm, given, here.problem, one)
        )
        matrix, _ = metric.at(Asked(like, [chunk], [], FirstOrder(), ALONE), {})
        kind_of_matrix = curvlinops.EKFACLinearOperator if corrected else curvlinops.KFACLinearOperator
        other = kind_of_matrix(
            here.module, here.loss(), list(theta.values()), [(inputs, targets)],
            fisher_type="type-2", kfac_approx="expand", separate_weight_and_bias=False, check_deterministic=False,
        )  # fmt: skip
        expected = (other @ vector[0]).detach()
        assert (matrix.apply(vector)[0] - expected).norm() <= 1e-8 * expected.norm()


# ---- linear solvers --------------------------------------------------------------------------------------------------


def matrices(spectra: list[list[float]]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(spectra, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(*values.shape, values.shape[1], generator=generator, dtype=torch.float64)).Q
    return basis * values[:, None] @ basis.mT


POSITIVE = [[1, 2, 3, 5, 8, 13, 21, 34], [0.1, 0.5, 1, 1.5, 2, 2.5, 3, 3.5], [1, 1, 1, 4, 4, 4, 9, 9]]
INDEFINITE = [[-3, -2, -1, 1, 2, 4, 6, 8], [-0.5, 0.2, 1, 1.5, 2, 3, 5, 7], [-1, -1, 2, 2, 2, 5, 5, 5]]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("name", "spectra"), [("cg", POSITIVE), ("minres", POSITIVE), ("minres", INDEFINITE)])
def test_krylov_solvers_step_by_step(name, spectra, steps):
    """x after so many steps; the third matrix has three eigenvalues, so that it is solved in three and nothing moves after."""
    library("scipy")
    from scipy.sparse import linalg

    a = matrices(spectra)
    rhs = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    operator = LinearOperator(lambda vectors: torch.einsum("bij,bj->bi", a, vectors))
    torch.testing.assert_close(dense(operator, 3, 8, like=rhs), a, rtol=1e-14, atol=1e-14)
    solve = {"cg": conjugate_gradient, "minres": minres}[name]
    ours = solve(operator, rhs, max_steps=steps, rtol=1e-14).solution
    for b in range(3):
        settings = {"atol": 0.0} if name == "cg" else {}
        expected, _ = getattr(linalg, name)(a[b].numpy(), rhs[b].numpy(), rtol=1e-14, maxiter=steps, **settings)
        np.testing.assert_allclose(ours[b].numpy(), expected, rtol=0, atol=1e-10 * np.linalg.norm(expected))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_preconditioned_conjugate_gradients_step_by_step(steps):
    """SciPy's M is the inverse of the preconditioner, S^2 here."""
    library("scipy")
    from scipy.sparse import linalg

    a = matrices(POSITIVE)
    generator = torch.Generator().manual_seed(2)
    rhs = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    s = 0.2 + torch.rand(3, 8, generator=generator, dtype=torch.float64)
    operator = LinearOperator(lambda vectors: torch.einsum("bij,bj->bi", a, vectors))
    ours = conjugate_gradient(operator, rhs, max_steps=steps, preconditioner=s).solution
    for b in range(3):
        m = np.diag((s[b] ** 2).numpy())
        expected, _ = linalg.cg(a[b].numpy(), rhs[b].numpy(), M=m, rtol=1e-14, atol=0.0, maxiter=steps)
        np.testing.assert_allclose(ours[b].numpy(), expected, rtol=0, atol=1e-10 * np.linalg.norm(expected))


# ---- batch norm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 3), (6, 3, 4), (5, 3, 4, 2)])
def test_batch_norm_of_one_task(shape):
    """Forward, and first derivatives in inputs, weight and bias, of PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    inputs, cotangent = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, bias = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    norm = TaskBatchNorm(3)
    leaves = [leaf.requires_grad_() for leaf in (inputs, weight, bias)]
    ours = functional_call(norm, {"weight": weight, "bias": bias}, (inputs,))
    theirs = F.batch_norm(inputs, None, None, weight, bias, training=True, eps=norm.eps)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    slopes = (torch.autograd.grad(out, leaves, cotangent) for out in (ours, theirs))
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)
