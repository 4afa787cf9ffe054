"""Data that depend on parameters: each inner step collects anew, the query set is collected at phi; held against a plain loop."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from metarun import rng
from metarun.algorithm import (
    BacktrackingDescent,
    FirstOrder,
    Implicit,
    MultiStepLoss,
    Recursion,
    Reptile,
    Unrolled,
)
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import meta_step, sorted_theta

from .closed_forms import WithoutModel, composed, descent, implicit

pytestmark = pytest.mark.usefixtures("float64")

ALPHA, STEPS, B = 0.1, 3, 4
THETA = {"phi": torch.tensor([0.7, -0.4], dtype=torch.float64)}
GOALS = torch.tensor([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.3], [2.0, -2.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Pursuit(WithoutModel):
    """Tasks have a goal. Where phi is, noise is drawn; samples lie at cos(phi) + noise, and phi shall go from there to the goal.

    A sample is a constant once it has been collected, as a policy's actions are: the loss 1/2 |phi - goal + sample|^2 has no
    derivative through it. There are no stored sets.
    """

    data_depend_on_params: ClassVar[bool] = True
    calls: list = dataclasses.field(default_factory=list, compare=False)

    def support(self, tasks: TaskBatch, params, step: int) -> Examples:
        self.calls.append(("support", step))
        return self._collected(tasks, params, "support", step)

    def query(self, tasks: TaskBatch, params, step: int) -> Examples:
        self.calls.append(("query", step))
        return self._collected(tasks, params, "query", step)

    def _collected(self, tasks: TaskBatch, params, name: str, step: int) -> Examples:
        assert not params["phi"].requires_grad
        return Examples(samples(tasks.latent["index"], params["phi"], name, step), tasks.latent["goal"])

    def outputs(self, params, inputs):
        return params["phi"] + inputs

    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).sum() / 2

    def divergence(self, outputs, reference, targets):
        return ((outputs - reference) ** 2).sum() / 2

    def metrics(self, outputs, targets):
        return {"loss": self.loss(outputs, targets)}


def samples(index: Tensor, phi: Tensor, name: str, step: int) -> Tensor:
    return phi.cos() + rng.uniform(rng.key(0, name, step), index, phi.shape[-1])


def tasks() -> TaskBatch:
    return TaskBatch(None, None, {"index": torch.arange(B), "goal": GOALS})


def plain_loop(task: int, weight: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """theta as a leaf, phi with its graph, and the query loss, of one task."""
    index, theta = torch.tensor([task]), THETA["phi"].clone().requires_grad_()
    phi = theta
    for step in range(STEPS):
        sample = samples(index, phi.detach()[None], "support", step)[0]
        phi = phi - ALPHA * (phi + sample - GOALS[task] + weight * (phi - theta))
    sample = samples(index, phi.detach()[None], "query", STEPS)[0]
    return theta, phi, ((phi + sample - GOALS[task]) ** 2).sum() / 2


def exact(task: int, weight: float) -> tuple[Tensor, Tensor]:
    theta, _, loss = plain_loop(task, weight)
    return torch.autograd.grad(loss, theta)[0], loss.detach()


def first_order(task: int, weight: float) -> tuple[Tensor, Tensor]:
    _, phi, loss = plain_loop(task, weight)
    return torch.autograd.grad(loss, phi)[0], loss.detach()


def displacement(task: int, weight: float) -> tuple[Tensor, Tensor]:
    theta, phi, loss = plain_loop(task, weight)
    return (theta - phi).detach(), loss.detach()


def implied(task: int, weight: float) -> tuple[Tensor, Tensor]:
    """C = I."""
    slope, loss = first_order(task, weight)
    return weight / (1 + weight) * slope, loss


ESTIMATORS: dict[str, tuple[object, Callable, float]] = {
    "unrolled": (Unrolled(), exact, 0.0),
    "unrolled, proximal": (Unrolled(), exact, 2.0),
    "unrolled, recomputed": (Unrolled(recompute=True), exact, 2.0),
    "recursion": (Recursion(curvature="hessian"), exact, 2.0),
    "first order": (FirstOrder(), first_order, 0.0),
    "reptile": (Reptile(scale=1.0), displacement, 0.0),
    "implicit": (implicit(3), implied, 2.0),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_each_step_has_its_data(name, chunk):
    part, oracle, weight = ESTIMATORS[name]
    found = meta_step(composed(descent(STEPS, ALPHA), part, weight=weight), THETA, Pursuit(), tasks(), chunk)
    gradients, losses = zip(*(oracle(task, weight) for task in range(B)), strict=True)
    torch.testing.assert_close(found.query_loss, torch.stack(losses), rtol=1e-13, atol=0)
    torch.testing.assert_close(found.gradient["phi"], torch.stack(gradients).mean(0), rtol=1e-12, atol=1e-14)


def test_a_learned_lambda_is_recomputed_with_the_data_of_its_steps():
    """lambda's gradient of all steps, the steps taken again and not: the same bits."""
    parts = (Unrolled(recompute=again) for again in (False, True))
    one, other = (
        meta_step(composed(descent(STEPS, ALPHA), part, weight=2.0, learn_proximal_weight="layer"), THETA, Pursuit(), tasks())
        for part in parts
    )  # fmt: skip
    assert one.gradient["proximal_weight/phi"] != 0
    assert all(torch.equal(leaf, other.gradient[name]) for name, leaf in one.gradient.items())


def test_every_step_collects_once_and_the_query_set_at_the_end():
    problem = Pursuit()
    meta_step(composed(descent(STEPS, ALPHA), Unrolled()), THETA, problem, tasks())
    assert [call for call in problem.calls if call[0] == "query"] == [("query", STEPS)]
    assert {call[1] for call in problem.calls if call[0] == "support"} >= set(range(STEPS))


def test_the_loss_of_every_step_is_on_data_of_its_own():
    part = MultiStepLoss(annealed_over=0)
    found = meta_step(composed(descent(2, ALPHA), part), THETA, Pursuit(), tasks()[:1])
    theta = THETA["phi"].clone().requires_grad_()
    phi, total, index = theta, 0.0, torch.tensor([0])
    for step in range(2):
        phi = phi - ALPHA * (phi + samples(index, phi.detach()[None], "support", step)[0] - GOALS[0])
        sample = samples(index, phi.detach()[None], "query", step + 1)[0]
        total = total + ((phi + sample - GOALS[0]) ** 2).sum() / 4
    torch.testing.assert_close(found.gradient["phi"], torch.autograd.grad(total, theta)[0], rtol=1e-13, atol=0)


def test_evaluation_reads_one_trajectory():
    """phi after 0, 1 and 3 steps, each as its own run of so many steps."""
    chosen, problem = composed(descent(STEPS, ALPHA), Unrolled()), Pursuit()
    theta = sorted_theta(chosen, THETA, problem)
    together = [params["phi"] for params in chosen.adaptations(theta, problem, tasks(), [0, 1, 3])]
    alone = [chosen.adapt(theta, problem, tasks(), steps)["phi"] for steps in (0, 1, 3)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    for task in range(B):
        torch.testing.assert_close(together[2][task], plain_loop(task)[1].detach(), rtol=1e-13, atol=0)


def test_a_search_compares_values_on_the_data_of_its_step():
    """The objective is a parabola of curvature 1 on each step's data: a first length of 2.5 is halved once, to 1.25."""
    chosen = composed(BacktrackingDescent(steps=2, step_size=2.5, max_backtracks=5), FirstOrder())
    phi = sorted_theta(chosen, THETA, Pursuit())
    found = chosen.adapt(phi, Pursuit(), tasks())["phi"]
    for task in range(B):
        expected, index = THETA["phi"], torch.tensor([task])
        for step in range(2):
            sample = samples(index, expected[None], "support", step)[0]
            expected = expected - 1.25 * (expected + sample - GOALS[task])
        torch.testing.assert_close(found[task], expected, rtol=1e-12, atol=0)


def test_tasks_without_stored_sets_are_cut_and_moved_by_what_defines_them():
    batch = tasks()
    assert len(batch) == B
    assert [len(piece) for piece in batch.chunks(3)] == [3, 1]
    assert batch.to("cpu", torch.float32).latent["goal"].dtype == torch.float64
    assert batch.num_bytes == B * 8 + 2 * B * 8
    with pytest.raises(ValueError, match="hold no examples"):
        batch.support_set  # noqa: B018


def test_the_implicit_gradient_is_taken_on_data_collected_at_phi():
    """Support data of step `steps` belong to phi; the residual is measured on them."""
    problem = Pursuit()
    chosen = composed(descent(STEPS, ALPHA), implicit(3), weight=2.0)
    assert isinstance(chosen.meta_gradient, Implicit)
    stats = meta_step(chosen, THETA, problem, tasks()).stats
    for task in range(B):
        theta, phi, _ = plain_loop(task, 2.0)
        sample = samples(torch.tensor([task]), phi.detach()[None], "support", STEPS)[0]
        left = (phi + sample - GOALS[task] + 2.0 * (phi - theta)).norm()
        first = (theta + samples(torch.tensor([task]), theta.detach()[None], "support", 0)[0] - GOALS[task]).norm()
        torch.testing.assert_close(stats["inner/residual"][task], (left / first).detach(), rtol=1e-12, atol=0)


def test_vmap_lifts_the_leaf_functions_of_collected_data():
    """Nothing of the above goes by way of `Learner`."""
    assert Pursuit.lift is vmap
