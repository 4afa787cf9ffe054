"""What of its promise each metric of the natural gradient keeps: the same step in predictions, in whatever coordinates of a layer.

A layer is given fixed matrices before and after it, R and L; its weights are such that the model is the same function. From there
one outer step is taken in either form, and the two models are compared again. There are no inner steps: phi is theta, whatever the
coordinates (gradient descent inside is not invariant).
"""

import pytest
import torch
from torch import Tensor, nn

from metarun.algorithm import FirstOrder, FreshTasks, Kfac, NaturalGradient, StepTasks, TaskEmpirical
from metarun.models.learner import Learner
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import meta_step

from .closed_forms import composed, descent

pytestmark = pytest.mark.usefixtures("float64")

SOLVED = {"point": "phi", "steps": 120, "rtol": 1e-14, "preconditioner": None, "recompute": False}
FACTORS = {"memory": 0.0, "num_tasks": None, "num_fresh_tasks": 0, "samples": None}
METRICS = {
    "step tasks": StepTasks(**SOLVED),
    "step tasks, preconditioned": StepTasks(**SOLVED | {"preconditioner": 0.5}),
    "step tasks, two CG steps": StepTasks(**SOLVED | {"steps": 2, "preconditioner": 0.5}),
    "fresh tasks": FreshTasks(num_fresh_tasks=2, **SOLVED),
    "kfac": Kfac(corrected=False, **FACTORS),
    "ekfac": Kfac(corrected=True, **FACTORS),
    "task empirical": TaskEmpirical(),
}


class Turned(nn.Module):
    """tanh net 2-3-2 whose first layer stands between constant matrices: y = L (V R x + c)."""

    def __init__(self, before: Tensor, after: Tensor) -> None:
        super().__init__()
        self.register_buffer("before", before)
        self.register_buffer("after", after)
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(inputs @ self.before.T) @ self.after.T))


def examples(seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(2, 12, 2, generator=generator), torch.randn(2, 12, 2, generator=generator))


TASKS, FRESH = (lambda: TaskBatch(examples(0), examples(1), {})), (lambda: TaskBatch(examples(2), examples(3), {}))


def matrices(kind: str) -> tuple[Tensor, Tensor]:
    """R and L."""
    generator = torch.Generator().manual_seed(7)
    mixed = [torch.randn(n, n, generator=generator) + 2 * torch.eye(n) for n in (2, 3)]
    if kind == "mixed":
        return mixed[0], mixed[1]
    if kind == "turned":
        return torch.linalg.qr(mixed[0]).Q, torch.linalg.qr(mixed[1]).Q
    assert kind == "scaled"
    return torch.diag(torch.tensor([0.5, 3.0])), torch.diag(torch.tensor([2.0, 0.3, 1.5]))


def predictions_after(direction: NaturalGradient, before: Tensor, after: Tensor) -> Tensor:
    """Of the model that one outer step leads to, written with these matrices."""
    torch.manual_seed(11)
    plain = Turned(torch.eye(2), torch.eye(3)).double()
    module = Turned(before, after).double()
    module.load_state_dict(plain.state_dict() | {"before": before, "after": after})
    with torch.no_grad():
        module.first.weight.copy_(torch.linalg.solve(after, plain.first.weight) @ torch.linalg.inv(before))
        module.first.bias.copy_(torch.linalg.solve(after, plain.first.bias))
    problem = Regression(Learner(module, head="second"))
    theta = problem.learner.init(dtype=torch.float64)
    inputs = TASKS().query_set.inputs[0]
    torch.testing.assert_close(problem.outputs(theta, inputs), plain(inputs))
    chosen = composed(descent(0, 0.1), FirstOrder(), direction=direction)
    fresh = FRESH() if direction.num_fresh_tasks else None
    step = meta_step(chosen, theta, problem, TASKS(), fresh=fresh).gradient
    return problem.outputs({name: leaf - 0.1 * step[name] for name, leaf in theta.items()}, inputs).detach()


# What changes nothing but rounding, without damping: Fisher matrices solved to the end whatever the matrices, K-FAC a layer's.
# EKFAC's eigenbasis turns with a layer, and is another one when it is stretched. The rest is only as good as its coordinates.
INVARIANT = {
    ("step tasks", 0.0): {"mixed", "turned", "scaled"},
    ("step tasks, preconditioned", 0.0): {"mixed", "turned", "scaled"},
    ("step tasks, two CG steps", 0.0): set(),
    ("fresh tasks", 0.0): {"mixed", "turned", "scaled"},
    ("kfac", 0.0): {"mixed", "turned", "scaled"},
    ("ekfac", 0.0): {"turned"},
    # With damping I in the layer's own coordinates only turning them is left.
    ("step tasks", 0.1): {"turned"},
    ("fresh tasks", 0.1): {"turned"},
    ("kfac", 0.1): {"turned"},
    ("ekfac", 0.1): {"turned"},
    ("task empirical", 0.1): {"turned"},
}


@pytest.mark.parametrize("kind", ["mixed", "turned", "scaled"])
@pytest.mark.parametrize(("which", "damping"), list(INVARIANT))
def test_a_layer_in_other_coordinates(which, damping, kind):
    direction = NaturalGradient(
        metric=METRICS[which],
        step_size=1.0,
        damping=damping,
        max_divergence=None,
        tries=0,
        adapt_damping=False,
        momentum=0.0,
    )
    here = predictions_after(direction, torch.eye(2), torch.eye(3))
    there = predictions_after(direction, *matrices(kind))
    apart = ((here - there).norm() / here.norm()).item()
    assert apart < 1e-8 if kind in INVARIANT[which, damping] else apart > 1e-5
