"""The warnings in words, where every residual is a power counted by hand."""

import pytest
import torch

from metarun.algorithm import BacktrackingDescent
from tests.calls import meta_step

from .closed_forms import Quadratic, composed, descent, implicit, quadratic

pytestmark = pytest.mark.usefixtures("float64")


def advice_for(inner, curvature: float, centre: float = 0.0) -> str | None:
    """Of one task with support loss curvature/2 (phi - centre)^2, from theta = 1 with lambda = 1."""
    algorithm = composed(inner, implicit(1, negative_curvature="stop"), weight=1.0)
    tasks = quadratic(([curvature], [centre]), ([1.0], [0.0]))
    stats = meta_step(algorithm, {"phi": torch.tensor([1.0])}, Quadratic(), tasks).stats
    return algorithm.diagnosis({f"train/{name}": values.double().mean().item() for name, values in stats.items()})


def searched(steps: int) -> BacktrackingDescent:
    return BacktrackingDescent(steps=steps, step_size=0.1, max_backtracks=20)


@pytest.mark.parametrize(
    ("inner", "residual"),
    [
        (descent(0, 0.1), "1.00"),
        (descent(2, 0.1), "0.64"),  # |1 - 0.1 (1 + 1)|^2
        (descent(4, 1.1), "2.07"),  # |1 - 1.1 (1 + 1)|^4
    ],
)
def test_far_from_stationary_by_steps_of_one_size(inner, residual):
    text = advice_for(inner, 1.0)
    assert f"is still {residual} times that at the start" in text
    for key in ("algorithm.inner.step_size", "algorithm.inner.steps", "algorithm.proximal_weight"):
        assert key in text


def test_searched_steps_are_never_too_large():
    text = advice_for(searched(3), 1.0)
    assert "is still 0.51 times that at the start. Likely causes: too few inner steps (algorithm.inner.steps)" in text
    assert "step_size" not in text


def test_near_enough():
    assert advice_for(descent(6, 0.1), 1.0) is None  # 0.8^6 = 0.26


def test_at_the_solution_already():
    """Support loss and proximal term are stationary at theta: nothing is left, of nothing."""
    for inner in (descent(1, 0.1), searched(1)):
        assert advice_for(inner, 1.0, centre=1.0) is None


def test_an_indefinite_system():
    """1 + (-2) / 1 < 0 at phi = theta = 1, where the support loss is stationary."""
    text = advice_for(descent(1, 0.1), -2.0, centre=1.0)
    assert "the implicit system is indefinite in 100 % of the tasks" in text
    assert "algorithm.meta_gradient.curvature=gauss_newton" in text
