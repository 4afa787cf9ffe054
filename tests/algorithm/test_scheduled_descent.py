"""Step sizes of evaluation: a quadratic of curvature 1 shrinks by 1 - size in each step."""

import pytest
import torch

from metarun.algorithm import Unrolled
from tests.calls import meta_step, sorted_theta

from .closed_forms import Quadratic, composed, descent, quadratic

pytestmark = pytest.mark.usefixtures("float64")
TASKS = quadratic(([1.0], [0.0]), ([1.0], [0.0]))
THETA = {"phi": torch.tensor([8.0])}


def test_each_step_has_its_size_and_the_last_one_goes_on():
    """8, times 1/2, times 3/4, times 3/4 again; 0.125 in training."""
    chosen = composed(descent(1, 0.125, eval_step_sizes=[0.5, 0.25]), Unrolled())
    theta = sorted_theta(chosen, THETA, Quadratic())
    found = [params["phi"].item() for params in chosen.adaptations(theta, Quadratic(), TASKS, [0, 1, 2, 3])]
    assert found == [8.0, 4.0, 3.0, 2.25]
    assert meta_step(chosen, THETA, Quadratic(), TASKS).query_loss.item() == 7.0**2 / 2


def test_a_pull_back_is_of_the_last_steps_size():
    """Descending the loss alone, 8 -> 4 -> 3; then towards theta by 0.25 * lambda * (3 - 8)."""
    inner = descent(2, 0.125, eval_step_sizes=[0.5, 0.25], proximal="pull_back")
    chosen = composed(inner, Unrolled(), weight=2.0)
    assert chosen.adapt(sorted_theta(chosen, THETA, Quadratic()), Quadratic(), TASKS)["phi"].item() == 3 + 0.25 * 2 * 5


@pytest.mark.parametrize("wrong", [[], 0.5, [0.5, 0.0], [0.5, "a"], "0.5"])
def test_sizes_are_a_list_of_numbers(wrong):
    with pytest.raises(ValueError, match=r"eval_step_sizes(\[1\])? must be"):
        descent(1, 0.1, eval_step_sizes=wrong)
