"""TRPO's step where everything is a number: its length, its direction, and when theta stays."""

import math

import pytest
import torch

from metarun.algorithm import Plain, TrustRegion, Unrolled
from metarun.device.course import Course, course
from tests.calls import adapt, meta_step

from .closed_forms import Linear, Quadratic, Ridge, composed, descent, implicit, quadratic, stacked

pytestmark = pytest.mark.usefixtures("float64")


def region(max_divergence: float, **changes) -> TrustRegion:
    settings = {"damping": 0.0, "steps": 20, "rtol": 0.0, "shrink": 0.8, "tries": 15, "recompute": False}
    return TrustRegion(**{"max_divergence": max_divergence} | settings | changes)


# ---- Support 1/2 (phi - c)^2, query 1/2 (phi - e)^2, lambda 1/2, theta 4: phi = (2 c + theta) / 3, so P = 1/3. The mean query loss
# is a parabola in theta with its minimum at 10/3, and the divergence of a step s is s^2 / 18.


def tasks():
    return stacked(
        *(quadratic(([1.0], [c]), ([1.0], [e])) for c, e in zip((1.0, -2.0, 0.5), (2.0, 0.0, 1.0), strict=True))
    )


def step_of(direction, estimator=None):
    chosen = composed(descent(1, 2 / 3), estimator or Unrolled(), weight=0.5, direction=direction)
    return meta_step(chosen, {"phi": torch.tensor([4.0])}, Quadratic(), tasks())


@pytest.mark.parametrize("estimator", [Unrolled(), implicit(1)], ids=["unrolled", "implicit"])
def test_the_divergence_of_a_whole_step_is_the_radius(estimator):
    """RL2: exactly, where it is quadratic; theta goes against the gradient by 3 sqrt(2 delta)."""
    found = step_of(region(1e-3), estimator)
    assert found.gradient["phi"].item() == pytest.approx(3 * math.sqrt(2e-3), rel=1e-12)
    assert found.stats["direction/length"].item() == 1.0
    assert found.stats["direction/divergence"].item() == pytest.approx(1e-3, rel=1e-12)


def test_a_step_is_shortened_until_the_loss_falls():
    """The parabola is as high as here 4/3 further on. A whole step of 4 and one of 2 are too long; 1 is not."""
    found = step_of(region(16 / 18, shrink=0.5))
    assert found.gradient["phi"].item() == pytest.approx(1.0, rel=1e-12)
    assert found.stats["direction/length"].item() == 0.25
    plain = step_of(Plain()).query_loss.mean()
    there = composed(descent(1, 2 / 3), Unrolled(), weight=0.5)
    after = meta_step(there, {"phi": torch.tensor([3.0])}, Quadratic(), tasks()).query_loss.mean()
    assert found.stats["direction/change"].item() == pytest.approx((after - plain).item(), rel=1e-12)


def test_where_no_length_will_do_theta_stays_to_the_bit():
    found = step_of(region(16 / 18, shrink=0.5, tries=2))
    assert found.gradient["phi"].item() == 0.0
    assert [found.stats[f"direction/{name}"].item() for name in ("length", "change", "divergence")] == [0, 0, 0]


def test_all_lengths_are_tried_where_values_may_not_be_read():
    with course(Course.STATIC):
        found = step_of(region(16 / 18, shrink=0.5))
    assert found.gradient["phi"].item() == pytest.approx(1.0, rel=1e-12)
    assert found.stats["direction/length"].item() == 0.25


def test_a_gradient_of_zero_is_a_step_of_zero():
    chosen = composed(descent(1, 2 / 3), Unrolled(), weight=0.5, direction=region(0.01))
    same = stacked(quadratic(([1.0], [1.0]), ([1.0], [1.0])))
    assert meta_step(chosen, {"phi": torch.tensor([1.0])}, Quadratic(), same).gradient["phi"].item() == 0.0


def test_a_gradient_that_is_not_finite_is_passed_on():
    chosen = composed(descent(1, 2 / 3), Unrolled(), weight=0.5, direction=region(0.01))
    found = meta_step(chosen, {"phi": torch.tensor([torch.nan])}, Quadratic(), tasks())
    assert found.gradient["phi"].isnan().all()


def test_the_direction_solves_the_fisher_matrix_of_the_adapted_model():
    """RL2, in four dimensions: F = P' X_q' X_q P / 5 with P = 1 - alpha H; the step is sqrt(2 delta / g' F^-1 g) F^-1 g."""
    ridge, alpha = Ridge.make(), 0.3
    jacobian = torch.eye(4) - alpha * ridge.hessian
    phi = ridge.theta - alpha * (ridge.hessian @ ridge.theta - ridge.x.T @ ridge.y / 6)
    gradient = jacobian.T @ ridge.query_gradient(phi)
    # The divergence is half the mean squared difference: its Hessian is 1/5 for each of the 5 outputs.
    fisher = jacobian.T @ (ridge.query_x.T @ ridge.query_x / 5) @ jacobian
    solved = torch.linalg.solve(fisher, gradient)
    expected = (2e-4 / (gradient @ solved)).sqrt() * solved
    chosen = composed(descent(1, alpha), Unrolled(), direction=region(1e-4))
    found = meta_step(chosen, {"phi": ridge.theta}, Linear(), ridge.tasks)
    torch.testing.assert_close(found.gradient["phi"], expected, rtol=1e-9, atol=0)
    moved = adapt(chosen, {"phi": ridge.theta - expected}, Linear(), ridge.tasks)["phi"][0]
    reached = ((ridge.query_x @ (moved - phi)) ** 2).mean() / 2
    assert found.stats["direction/divergence"].item() == pytest.approx(reached.item(), rel=1e-9)
    assert reached.item() == pytest.approx(1e-4, rel=1e-9)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_chunks_change_nothing_but_rounding(chunk):
    chosen = composed(descent(1, 2 / 3), Unrolled(), weight=0.5, direction=region(1e-3))
    found = meta_step(chosen, {"phi": torch.tensor([4.0])}, Quadratic(), tasks(), chunk)
    assert found.gradient["phi"].item() == pytest.approx(3 * math.sqrt(2e-3), rel=1e-12)
