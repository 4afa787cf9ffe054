"""The batched engine, composed as `conf/algorithm` composes it, against the naive algorithms of `tests/reference`.

The references see the models as functions written out below with PyTorch's functional layers (fused batch norm included,
which plain autograd of one task differentiates rightly), so models, `vmap` and engine are checked together. Tolerance:
rounding of float64, amplified by batch norm and by a few conjugate gradient steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun import rng
from metarun.algorithm import Algorithm
from metarun.models.conv4 import Conv4
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.classification import Classification
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import meta_step
from tests.reference import imaml, maml

pytestmark = pytest.mark.usefixtures("float64")

NUM_TASKS = 5
CHUNKS = (1, 2, 3, None)
RTOL = 1e-10
CONVERGED = 200

ALGORITHMS = {
    "maml": ("maml", {}),
    "fomaml": ("fomaml", {}),
    "imaml, Hessian, 5 CG steps": ("imaml", {"curvature": "hessian", "cg_steps": 5}),
    "imaml, Gauss-Newton, 5 CG steps": ("imaml", {"curvature": "gauss_newton", "cg_steps": 5}),
    "imaml, Hessian, converged": ("imaml", {"curvature": "hessian", "cg_steps": CONVERGED}),
    "imaml, Gauss-Newton, converged": ("imaml", {"curvature": "gauss_newton", "cg_steps": CONVERGED}),
}


def classes(generator: torch.Generator, shape: tuple[int, ...], ways: int, per_class: int) -> Examples:
    targets = torch.arange(ways).repeat_interleave(per_class).expand(NUM_TASKS, -1)
    centres = torch.randn(NUM_TASKS, ways, 1, *shape, generator=generator)
    noise = torch.randn(NUM_TASKS, ways, per_class, *shape, generator=generator)
    return Examples((centres + noise).flatten(1, 2), targets)


def image_tasks(size: int) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    shape = (1, size, size)
    return TaskBatch(classes(generator, shape, 3, 1), classes(generator, shape, 3, 2), {})


def curve_tasks() -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    shift = torch.rand(NUM_TASKS, 1, 1, generator=generator) * 3
    inputs = torch.rand(NUM_TASKS, 10, 1, generator=generator) * 6 - 3
    targets = torch.sin(inputs - shift)
    return TaskBatch(Examples(inputs[:, :6], targets[:, :6]), Examples(inputs[:, 6:], targets[:, 6:]), {})


def listed(tasks: TaskBatch) -> list:
    return [
        ((tasks.support.inputs[b], tasks.support.targets[b]), (tasks.query.inputs[b], tasks.query.targets[b]))
        for b in range(len(tasks))
    ]


def mlp_forward(params, inputs, support):
    hidden = torch.tanh(F.linear(inputs.flatten(1), params["layers.1.weight"], params["layers.1.bias"]))
    return F.linear(hidden, params["layers.3.weight"], params["layers.3.bias"])


def conv4_forward(downsample: str, batch_norm: str):
    """Conv4 by hand. With support statistics the support goes through beside the query, layer by layer."""
    depth = 4 if downsample == "max_pool" else 3  # layers of a block in the names of the parameters

    def forward(params, inputs, support):
        x, s = inputs, support
        for block in range(4):
            weight, bias = params[f"features.{depth * block}.weight"], params[f"features.{depth * block}.bias"]
            x, s = (F.conv2d(h, weight, bias, stride=2 if downsample == "stride" else 1, padding=1) for h in (x, s))
            affine = params[f"features.{depth * block + 1}.weight"], params[f"features.{depth * block + 1}.bias"]
            if batch_norm == "transductive":
                x = F.batch_norm(x, None, None, *affine, training=True)
            else:
                mean, variance = s.mean((0, 2, 3)), s.var((0, 2, 3), unbiased=False)
                x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5) ** 0.5
                x = x * affine[0][:, None, None] + affine[1][:, None, None]
            s = F.batch_norm(s, None, None, *affine, training=True)
            x, s = F.relu(x), F.relu(s)
            if downsample == "max_pool":
                x, s = F.max_pool2d(x, 2), F.max_pool2d(s, 2)
        return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])

    return forward


@dataclass(frozen=True)
class Case:
    """A model, the same model by hand, and its tasks. With `weight` (lambda) every system is positive definite: asserted."""

    module: nn.Module
    forward: Callable[..., Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    problem: type
    tasks: TaskBatch
    weight: float = 20.0
    batch_norm: str = "transductive"

    def check(self, name: str, steps: int, algorithm_of: Callable[..., Algorithm], device: torch.device) -> None:
        learner = Learner(self.module, self.batch_norm).to(device, torch.float64)
        problem, theta = self.problem(learner), learner.init(device, torch.float64)
        tasks = self.tasks.to(device, torch.float64)
        choice, implicit = ALGORITHMS[name]
        inner = {"steps": steps, "step_size": 0.05 if choice != "imaml" else 0.2 / self.weight}  # none is halved
        if choice == "imaml":
            rtol = 1e-13 if implicit["cg_steps"] == CONVERGED else 0.0
            solver = {"steps": implicit["cg_steps"], "rtol": rtol, "negative_curvature": "raise"}
            estimator = {"curvature": implicit["curvature"], "solver": solver}
            values = {"inner": inner, "meta_gradient": estimator, "proximal_weight": self.weight}
            cg_steps = None if implicit["cg_steps"] == CONVERGED else implicit["cg_steps"]
            known = inner | implicit | {"cg_steps": cg_steps, "weight": self.weight}
            reference = imaml.meta_gradient
        else:
            values = {"inner": inner}
            known = inner | {"first_order": choice == "fomaml"}
            reference = maml.meta_gradient
        expected_loss, expected = reference(self.forward, self.loss, theta, listed(tasks), **known)
        algorithm = algorithm_of(choice, values)
        scale = torch.cat([leaf.flatten() for leaf in expected.values()]).norm()
        for chunk in CHUNKS:
            estimate = meta_step(algorithm, theta, problem, tasks, chunk)
            assert estimate.query_loss.shape == (NUM_TASKS,)
            torch.testing.assert_close(estimate.query_loss.mean(), expected_loss, rtol=RTOL, atol=0)
            if choice == "imaml":
                assert not estimate.stats["system/negative_curvature"].any()
            assert list(estimate.gradient) == list(theta)
            for key, leaf in expected.items():
                error = (estimate.gradient[key] - leaf).norm() / scale
                assert error < RTOL, f"{key}, task_chunk={chunk}: relative error {error:.1e}"


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_regression_with_an_mlp(name, steps, algorithm_of, device):
    with rng.seeded_construction(0, "test"):
        module = MLP(input_shape=(1,), num_outputs=1, hidden=(6,), activation="tanh")
    Case(module, mlp_forward, F.mse_loss, Regression, curve_tasks()).check(name, steps, algorithm_of, device)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_classification_with_an_mlp(name, steps, algorithm_of, device):
    with rng.seeded_construction(0, "test"):
        module = MLP(input_shape=(1, 3, 3), num_outputs=3, hidden=(4,), activation="tanh")
    Case(module, mlp_forward, F.cross_entropy, Classification, image_tasks(3)).check(name, steps, algorithm_of, device)


# Batch norm over three images and one pixel, as in the last block of stride 2, has large curvature of both signs.
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("batch_norm", ["transductive", "support"])
@pytest.mark.parametrize(("downsample", "size", "weight"), [("stride", 12, 1000.0), ("max_pool", 16, 100.0)])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "converged" not in name])
def test_classification_with_conv4(name, downsample, size, weight, batch_norm, steps, algorithm_of, device):
    with rng.seeded_construction(0, "test"):
        module = Conv4(input_shape=(1, size, size), num_outputs=3, width=8, downsample=downsample)
    forward = conv4_forward(downsample, batch_norm)
    case = Case(module, forward, F.cross_entropy, Classification, image_tasks(size), weight, batch_norm)
    case.check(name, steps, algorithm_of, device)
