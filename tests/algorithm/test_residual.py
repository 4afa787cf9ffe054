"""How far from stationary phi is said to be: on a parabola, h/2 (phi - 1)^2 + lambda/2 (phi - theta)^2, against its derivative."""

import pytest
import torch

from metarun.algorithm import BacktrackingDescent, Recursion, Unrolled
from tests.calls import task_gradients

from .closed_forms import Quadratic, composed, descent, implicit, quadratic, stacked
from .test_newton_cg import newton

pytestmark = pytest.mark.usefixtures("float64")

CURVATURES, WEIGHT, START = torch.tensor([1.0, 3.0], dtype=torch.float64), 0.5, 3.0
TASKS = stacked(*(quadratic(([h], [1.0]), ([1.0], [0.0])) for h in CURVATURES.tolist()))


def estimate(inner, meta_gradient, start: float = START):
    algorithm = composed(inner, meta_gradient, weight=WEIGHT)
    return task_gradients(algorithm, {"phi": torch.tensor([start])}, Quadratic(), TASKS)


@pytest.mark.parametrize(
    "inner",
    [
        descent(0, 0.1),
        descent(1, 0.1),
        descent(3, 0.1),
        descent(3, 0.1, proximal="pull_back"),
        BacktrackingDescent(steps=2, step_size=0.1, max_backtracks=5),
        newton(steps=1, damping=2.0),
    ],
)
def test_the_residual_is_measured_at_phi(inner):
    found = estimate(inner, implicit(1))
    phi = found.params["phi"][:, 0]
    left = (CURVATURES * (phi - 1) + WEIGHT * (phi - START)).abs() / (CURVATURES * (START - 1))
    torch.testing.assert_close(found.stats["inner/residual"], left, rtol=1e-13, atol=0)


def test_without_the_implicit_gradient_the_last_step_alone_is_told():
    """The gradient of step k is that at phi_(k-1): |1 - alpha (h + lambda)|^(k-1) of the first."""
    for steps in (1, 3):
        for estimator in (Unrolled(), Recursion(curvature="hessian")):
            stats = estimate(descent(steps, 0.1), estimator).stats
            assert list(stats) == ["inner/last_step"]
            wanted = (1 - 0.1 * (CURVATURES + WEIGHT)) ** (steps - 1)
            torch.testing.assert_close(stats["inner/last_step"], wanted, rtol=1e-12, atol=0)


def test_a_task_that_starts_stationary_has_nothing_left():
    """A start within the rounding of phi, or within Newton's own tolerance."""
    eps = torch.finfo(torch.float64).eps
    assert estimate(descent(1, 0.1), implicit(1), 1.0).stats["inner/residual"].tolist() == [0.0, 0.0]
    assert estimate(descent(1, 0.1), implicit(1), 1 + eps).stats["inner/residual"][0] == 0.0
    tolerant = newton(tolerance=1e-6)
    assert estimate(tolerant, implicit(1), 1 + 3e-7).stats["inner/residual"].tolist() == [0.0, 0.0]
    assert (estimate(newton(steps=0), implicit(1), 1 + 3e-7).stats["inner/residual"] == 1.0).all()
