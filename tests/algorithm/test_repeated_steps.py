"""Several steps of Adam on the same tasks: torch's own Adam on gradients that a plain loop takes of the same data."""

import pytest
import torch

from metarun.algorithm import FirstOrder, Plain, RepeatedSteps, Unrolled
from metarun.tasks.types import TaskBatch
from tests.calls import meta_step
from tests.training.small import configuration

from .closed_forms import Quadratic, composed, descent, quadratic, stacked
from .test_collected_data import ALPHA, GOALS, STEPS, THETA, B, Pursuit, samples, tasks

pytestmark = pytest.mark.usefixtures("float64")


def repeated(steps: int, lr: float = 0.01) -> RepeatedSteps:
    return RepeatedSteps(steps=steps, lr=lr, clip=0.3)


def stored() -> TaskBatch:
    """Support 1/2 (phi - c)^2, query 1/2 (phi - e)^2."""
    return stacked(
        *(quadratic(([1.0], [c]), ([1.0], [e])) for c, e in zip((1.0, -2.0, 0.5), (2.0, 0.0, 1.0), strict=True))
    )


def estimate(direction, theta, state=None):
    chosen = composed(descent(1, 2 / 3), Unrolled(), direction=direction)
    return meta_step(chosen, theta, Quadratic(), stored(), state=state)


def test_one_step_is_adams():
    """Three outer steps, each a step of torch's Adam on the meta-gradient; its averages go on from step to step."""
    theta, reference = {"phi": torch.tensor([4.0])}, torch.tensor([4.0], requires_grad=True)
    adam = torch.optim.Adam([reference], lr=0.5)
    state = None
    for step in range(3):
        found = estimate(repeated(1, 0.5), theta, state)
        reference.grad = estimate(Plain(), {"phi": reference.detach()}).gradient["phi"]
        adam.step()
        theta, state = {"phi": theta["phi"] - found.gradient["phi"]}, found.state
        torch.testing.assert_close(theta["phi"], reference.detach(), rtol=1e-14, atol=0)
        assert "direction/change" not in found.stats
        kept = adam.state[reference]
        assert state["step"].item() == step + 1
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[name].flatten(), kept[name], rtol=1e-14, atol=0)


def test_several_steps_estimate_the_gradient_anew_after_each():
    """Two outer steps of three each, on tasks that are stored: six steps of torch's Adam."""
    theta, reference = {"phi": torch.tensor([4.0])}, torch.tensor([4.0], requires_grad=True)
    adam = torch.optim.Adam([reference], lr=0.5)
    state = None
    for _ in range(2):
        found = estimate(repeated(3, 0.5), theta, state)
        losses = []
        for _ in range(3):
            plain = estimate(Plain(), {"phi": reference.detach()})
            losses.append(plain.query_loss.mean())
            reference.grad = plain.gradient["phi"]
            adam.step()
        theta, state = {"phi": theta["phi"] - found.gradient["phi"]}, found.state
        torch.testing.assert_close(theta["phi"], reference.detach(), rtol=1e-14, atol=0)
        torch.testing.assert_close(found.stats["direction/change"], losses[2] - losses[0], rtol=1e-13, atol=0)
    assert state["step"].item() == 6


def collected(theta):
    """Of each task the samples of the inner steps and of the query set, as the policy at theta makes them."""
    found = []
    for task in range(B):
        index, phi, mine = torch.tensor([task]), theta.detach(), []
        for step in range(STEPS):
            mine.append(samples(index, phi[None], "support", step)[0])
            phi = phi - ALPHA * (phi + mine[-1] - GOALS[task])
        found.append([*mine, samples(index, phi[None], "query", STEPS)[0]])
    return found


def loss_on(data, theta, is_first_order):
    """Mean query loss of theta on samples that another theta made."""
    total = 0.0
    start = theta.detach() if is_first_order else theta
    for task, (*support, query) in enumerate(data):
        phi = start
        for sample in support:
            phi = phi - ALPHA * (phi + sample - GOALS[task])
        if is_first_order:
            phi = theta + (phi - start)  # d phi / d theta = I
        total = total + ((phi + query - GOALS[task]) ** 2).sum() / 2
    return total / B


@pytest.mark.parametrize("estimator", [Unrolled(), FirstOrder()], ids=["unrolled", "first order"])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_all_steps_are_on_what_was_collected_at_the_first(estimator, chunk):
    """Two outer steps of four; the second collects anew, where the first has led. Chunks change nothing but rounding."""
    reference = THETA["phi"].clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.05)
    chosen = composed(descent(STEPS, ALPHA), estimator, direction=repeated(4, 0.05))
    theta, state = dict(THETA), None
    for _ in range(2):
        problem = Pursuit()
        found = meta_step(chosen, theta, problem, tasks(), chunk, state)
        data = collected(reference)
        for _ in range(4):
            adam.zero_grad()
            loss_on(data, reference, isinstance(estimator, FirstOrder)).backward()
            adam.step()
        theta, state = {"phi": theta["phi"] - found.gradient["phi"]}, found.state
        torch.testing.assert_close(theta["phi"], reference.detach(), rtol=1e-12, atol=0)
        assert len([call for call in problem.calls if call[0] == "query"]) == -(-B // (chunk or B))


def test_data_that_are_stored_have_no_ratios_to_clip():
    with pytest.raises(ValueError, match="this problem's data are stored"):
        repeated(1).check_problem(Quadratic(), {})
    repeated(1).check_problem(Pursuit(), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"lr": 0.0}, "lr must be a number > 0, got 0.0"),
        ({"clip": -0.1}, "clip must be a number > 0, got -0.1"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError) as refused:
        RepeatedSteps(**{"steps": 5, "lr": 1e-3, "clip": 0.3} | changes)
    assert str(refused.value) == message


def test_the_problem_clips_as_the_direction_says():
    """And where another direction is chosen, not at all."""
    clipped = configuration("dataset=bandit", "algorithm/direction=clipped_steps", "algorithm.direction.clip=0.2")
    assert clipped["dataset"]["problem"]["clip"] == 0.2
    assert configuration("dataset=bandit")["dataset"]["problem"]["clip"] is None
