"""Searched gradient steps on parabolas, where every halving can be counted by hand."""

import dataclasses

import pytest
import torch

from metarun.algorithm import BacktrackingDescent
from metarun.algorithm.inner.loop import solve
from metarun.algorithm.inner_problem import InnerProblem
from tests.calls import inner_problem

from .closed_forms import Quadratic, descent, quadratic, stacked

pytestmark = pytest.mark.usefixtures("float64")

# Support 1/2 h (phi - 1)^2 with h = 1, 4 and 1/4.
TASKS = stacked(*(quadratic(([h], [1.0]), ([1.0], [0.0])) for h in (1.0, 4.0, 0.25)))
START = 5.0


def inner(weight: float = 0.0) -> InnerProblem:
    return inner_problem(Quadratic(), TASKS, {"phi": torch.tensor([START])}, weight)


def searched(steps: int, step_size: float, max_backtracks: int = 20) -> BacktrackingDescent:
    return BacktrackingDescent(steps=steps, step_size=step_size, max_backtracks=max_backtracks)


def test_each_task_halves_its_own_step():
    """Step 5: 1 - 5 h is -4, -19, -1/4. The third is taken whole, the first after two halvings, the second after four."""
    solution = solve(searched(1, 5.0), inner())
    assert solution.params["phi"].flatten().tolist() == pytest.approx([1 - (5 / 4 - 1) * (START - 1)] * 3, abs=1e-14)
    assert solution.stats["inner/backtracks"].tolist() == [2.0, 4.0, 0.0]
    again = solve(searched(2, 5.0), inner())
    assert again.stats["inner/residual"].tolist() == pytest.approx([0.25**2] * 3, rel=1e-13)


def test_where_no_step_is_short_enough_nothing_moves():
    solution = solve(searched(3, 5.0, max_backtracks=1), inner())
    assert solution.params["phi"].flatten().tolist()[:2] == [START, START]
    assert solution.stats["inner/residual"].tolist()[:2] == [1.0, 1.0]


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_steps_that_are_short_enough_are_plain_descent(steps):
    """2 / (h + lambda) > 0.1 for every task: the same phi as with a fixed size."""
    plain = solve(descent(steps, 0.1), inner(2.0))
    solution = solve(searched(steps, 0.1), inner(2.0))
    torch.testing.assert_close(solution.params, plain.params, rtol=1e-14, atol=0)
    if steps:
        assert solution.stats["inner/backtracks"].tolist() == [0.0, 0.0, 0.0]
        left = inner(2.0).residual(plain.params)
        torch.testing.assert_close(solution.stats["inner/residual"], left, rtol=1e-13, atol=0)


@pytest.mark.parametrize("step_size", [0.1, 5.0])
def test_a_forward_pass_serves_the_search_and_the_next_gradient(step_size):
    """Passes: one at theta and one for each length tried; the gradients need none of their own."""

    class Counted(Quadratic):
        passes = 0

        def outputs(self, params, inputs):
            Counted.passes += 1
            return super().outputs(params, inputs)

    counted = dataclasses.replace(inner(), problem=Counted())
    solution = solve(searched(3, step_size), counted)
    lengths_tried = {0.1: [1, 1, 1], 5.0: [5, 5, 5]}[step_size]
    assert solution.stats["inner/backtracks"].max() == lengths_tried[0] - 1
    assert Counted.passes == 1 + sum(lengths_tried)


def test_a_step_size_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"step_size must be a number > 0, got 0"):
        searched(1, 0)


def test_a_step_that_jumps_across_the_valley_is_too_long():
    """lambda 1e4 and h = 1, 4, 1/4: a step of 1.75 / (h + lambda), which 1e-4 would accept and which leaves 3/4, is halved: 1/8."""
    solution = solve(searched(3, 1.75e-4), inner(1e4))
    left = (1 - 1.75e-4 / 2 * (1e4 + torch.tensor([1.0, 4.0, 0.25]))).abs() ** 3
    torch.testing.assert_close(
        inner(1e4).residual(solution.params), left, rtol=1e-7, atol=0
    )  # 1e4 times the rounding of phi
    assert solution.stats["inner/backtracks"].tolist() == [1.0, 1.0, 1.0]
