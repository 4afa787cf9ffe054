"""Small problems with known meta-gradients, and a bench around them."""

import torch
from torch import Tensor, nn

from metarun.algorithm import Algorithm, FirstOrder, GradientDescent, Plain
from metarun.gradients.measure import Bench, GradientSettings
from metarun.maths.trees import Params, ravel
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch

WEIGHT = 0.7
SIZE, NUM_TASKS, SUPPORT, QUERY = 4, 3, 6, 5


def grid(**changes) -> GradientSettings:
    settings = {
        "run": None,
        "tasks": NUM_TASKS,
        "inner_steps": [1, 2],
        "cg_steps": [0, 1, 2, 3, SIZE],
        "curvatures": ["hessian", "gauss_newton"],
        "dtype": "float64",
        "solver_steps": 100,
        "newton_steps": 30,
        "within": 0.1,
        "repeats": 1,
    }
    return GradientSettings(**settings | changes)


def algorithm(step_size: float = 0.05, weight: float = WEIGHT, meta_gradient=None, **others) -> Algorithm:
    inner = GradientDescent(steps=2, step_size=step_size)
    part = meta_gradient or FirstOrder()
    return Algorithm(inner=inner, meta_gradient=part, direction=Plain(), proximal_weight=weight, **others)


def examples(generator: torch.Generator, count: int, size: int) -> Examples:
    shape = (NUM_TASKS, count)
    draw = {"generator": generator, "dtype": torch.float64}
    return Examples(torch.randn(*shape, size, **draw), torch.randn(*shape, 1, **draw))


def bench_of(module: nn.Module, chosen: Algorithm, seed: int = 0) -> Bench:
    generator = torch.Generator().manual_seed(seed)
    size = module[0].in_features if isinstance(module, nn.Sequential) else 1
    tasks = TaskBatch(examples(generator, SUPPORT, size), examples(generator, QUERY, size), {})
    head = "0" if isinstance(module, nn.Sequential) else "layers.3"
    learner = Learner(module, head=head).to("cpu", torch.float64)
    theta = {
        name: torch.randn(leaf.shape, generator=generator, dtype=torch.float64) / 2
        for name, leaf in learner.init(dtype=torch.float64).items()
    }
    problem = Regression(learner)
    return Bench(chosen, problem, learner, chosen.meta_parameters(problem, theta), tasks)


def ridge(**changes) -> Bench:
    """Linear regression without bias: loss mean((X phi - y)^2), so H = 2 X'X / n."""
    return bench_of(nn.Sequential(nn.Linear(SIZE, 1, bias=False)), algorithm(**changes))


def smooth_net(**changes) -> Bench:
    return bench_of(MLP(input_shape=(1,), num_outputs=1, hidden=(5,), activation="tanh"), algorithm(**changes))


def hessians(bench: Bench) -> Tensor:
    """Of ridge's support losses: [B, D, D]."""
    inputs = bench.tasks.support.inputs
    return 2 * inputs.mT @ inputs / SUPPORT


def closed_form(bench: Bench, weight: float = WEIGHT) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge's phi* [B, D], A = I + H / lambda [B, D, D] and the exact meta-gradient A^-1 dloss/dphi [B, D]."""
    support, query = bench.tasks.support, bench.tasks.query
    identity = torch.eye(SIZE, dtype=torch.float64)
    curvature = hessians(bench)
    pull = 2 * support.inputs.mT @ support.targets / SUPPORT + weight * flat_theta(bench)[:, None]
    phi = torch.linalg.solve(curvature + weight * identity, pull)
    slope = 2 * query.inputs.mT @ (query.inputs @ phi - query.targets) / QUERY
    system = identity + curvature / weight
    return phi[..., 0], system, torch.linalg.solve(system, slope)[..., 0]


def flat_theta(bench: Bench) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in bench.theta.values()])


def flat(leaves: Params) -> Tensor:
    return ravel(leaves)
