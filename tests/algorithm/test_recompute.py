"""`unrolled` with steps taken anew in the backward pass: the same bits, and memory by the square root of the steps."""

import pytest
import torch

from metarun.algorithm import BacktrackingDescent, GradientDescent, LearnedRates, Unrolled
from tests.calls import bilevel, task_gradients

from .closed_forms import composed
from .compositions import setting
from .held import peak_bytes

SOLVERS = {
    "gradient descent": lambda steps: GradientDescent(steps=steps, step_size=0.1),
    "pull-back": lambda steps: GradientDescent(steps=steps, step_size=0.1, proximal="pull_back"),
    "searched": lambda steps: BacktrackingDescent(steps=steps, step_size=2.0, max_backtracks=10),
    "learned rates": lambda steps: LearnedRates(steps=steps, step_size=0.1, rates="layer_and_step"),
}
TERMS = {
    "no proximal term": {},
    "learned lambda": {"weight": 2.0, "learn_proximal_weight": "layer"},
    "head alone": {"adapted": "head"},
}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_bit(solver, term, steps, dtype):
    here = setting("classification")
    theta = {name: leaf.to(dtype) for name, leaf in here.theta.items()}
    tasks = here.tasks.to("cpu", dtype)
    here.problem.learner.to("cpu", dtype)
    whole, pieces = (
        task_gradients(composed(SOLVERS[solver](steps), Unrolled(recompute=again), **TERMS[term]), theta, here.problem, tasks)
        for again in (False, True)
    )  # fmt: skip
    here.problem.learner.to("cpu", torch.float64)
    assert list(whole.gradient) == list(pieces.gradient)
    for name, leaf in whole.gradient.items():
        assert torch.equal(leaf, pieces.gradient[name]), name
    assert torch.equal(whole.query_loss, pieces.query_loss)
    assert all(torch.equal(leaf, pieces.params[name]) for name, leaf in whole.params.items())
    assert whole.stats.keys() == pieces.stats.keys()
    assert all(torch.equal(value, pieces.stats[name]) for name, value in whole.stats.items())


def test_memory_by_the_square_root():
    """Of 64 steps never more than 8 are held at once, whose graphs are what memory goes to: 64 / 8 times less."""
    here = setting("regression")

    def held(steps: int, recompute: bool) -> int:
        chosen = composed(GradientDescent(steps=steps, step_size=0.05), Unrolled(recompute=recompute))
        at = bilevel(chosen, here.theta, here.problem, here.tasks)
        return peak_bytes(lambda: chosen.meta_gradient.estimate(at))

    assert held(64, True) <= 1.05 * held(8, False)
    assert held(64, False) > 7 * held(8, False)


def test_recompute_is_true_or_false():
    with pytest.raises(ValueError, match="recompute must be true or false, got 8"):
        Unrolled(recompute=8)
