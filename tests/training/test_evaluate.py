"""metarun.training.evaluate: a measurement is a function of parameters and protocol, and touches nothing."""

import dataclasses
import math
import statistics
from dataclasses import replace

import pytest
import torch

from metarun.training.evaluate import Evaluation

from .small import GLYPHS, QUICK, configuration, trainer_of

SETTINGS = {
    "sinusoid": (*QUICK, "device.dtype=float64"),
    "glyphs": (*QUICK, *GLYPHS, "device.dtype=float64"),
    "glyphs, statistics of the support": (*QUICK, *GLYPHS, "device.dtype=float64", "batch_norm=support"),
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS.keys())
def stored(request, tmp_path):
    """(evaluator, theta)."""
    _, parts = trainer_of(configuration(*request.param), tmp_path)
    return parts.evaluator, parts.theta


def evaluation(**changes) -> Evaluation:
    usual = {"seed": 0, "tasks": 10, "val_tasks": 5, "shots": 1, "queries": 2, "inner_steps": [0, 1]}
    return Evaluation(**usual | changes)


def test_results_do_not_depend_on_the_chunk(stored):
    evaluator, theta = stored
    whole = replace(evaluator, chunk=20)(theta, "test", 20, [0, 1, 3])
    for chunk in (1, 7):
        pieces = replace(evaluator, chunk=chunk)(theta, "test", 20, [0, 1, 3])
        assert [m.inner_steps for m in pieces] == [0, 1, 3]
        for one, other in zip(whole, pieces, strict=True):
            assert one.metrics.keys() == other.metrics.keys()
            for name in one.metrics:
                assert len(other.metrics[name]) == 20
                # float64 with two reorderings of sums: 1e-12 is four digits more than rounding takes
                torch.testing.assert_close(
                    torch.tensor(one.metrics[name]), torch.tensor(other.metrics[name]), rtol=1e-12, atol=1e-12
                )


def test_a_task_does_not_depend_on_how_many_there_are(stored):
    evaluator, theta = stored
    evaluator = replace(evaluator, chunk=5)
    few, many = evaluator(theta, "test", 5, [1]), evaluator(theta, "test", 15, [1])
    for name, values in few[0].metrics.items():
        assert many[0].metrics[name][:5] == values


def test_asking_for_more_inner_steps_moves_no_other_number(stored):
    evaluator, theta = stored
    (alone,) = evaluator(theta, "test", 10, [1])
    among = evaluator(theta, "test", 10, [0, 1, 4])
    assert among[1] == alone


def test_how_much_is_done_is_told_after_each_chunk_and_number_of_inner_steps(stored):
    """Ten tasks, four at a time, after 0, 1 and 4 inner steps: a share of k steps counts k / 4 of its chunk."""
    evaluator, theta = stored
    told = []
    measured = dataclasses.replace(evaluator, chunk=4)(theta, "test", 10, [0, 1, 4], told.append)
    assert told == [done / 10 for done in (0, 1, 4, 4, 5, 8, 8, 8.5, 10)]
    assert measured == dataclasses.replace(evaluator, chunk=4)(theta, "test", 10, [0, 1, 4])
    told.clear()
    dataclasses.replace(evaluator, chunk=5)(theta, "test", 10, [0], told.append)
    assert told == [0.5, 1.0]


def test_the_splits_are_different_tasks(stored):
    evaluator, theta = stored
    (val,), (test,) = evaluator(theta, "val", 10, [0]), evaluator(theta, "test", 10, [0])
    assert val.metrics != test.metrics


def test_zero_inner_steps_evaluate_theta_itself(stored):
    evaluator, theta = stored
    (measured,) = evaluator(theta, "test", 3, [0])
    e, problem = evaluator.evaluation, evaluator.problem
    tasks = evaluator.source.sample(e.seed, "test", torch.arange(3), e.shots, e.queries).to("cpu", torch.float64)
    for k in range(3):
        outputs = problem.outputs(dict(theta), tasks.query.inputs[k], tasks.support.inputs[k])
        for name, value in problem.metrics(outputs, tasks.query.targets[k]).items():
            assert measured.metrics[name][k] == pytest.approx(float(value), rel=1e-12)


def test_nothing_is_touched(stored):
    evaluator, theta = stored
    theta = theta.map(torch.clone).detached(requires_grad=True)
    before = {name: leaf.detach().clone() for name, leaf in theta.items()}
    random_state = torch.get_rng_state()
    evaluator(theta, "test", 6, [0, 2])
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert leaf.grad is None
        assert leaf.requires_grad


def test_a_task_that_is_not_finite_counts_as_wrong(tmp_path):
    """Two images of each of two classes; what makes the loss no number makes the task wrong as a whole."""
    _, parts = trainer_of(configuration(*SETTINGS["glyphs"]), tmp_path)
    targets = torch.tensor([0, 0, 1, 1])
    right = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])

    def accuracy(logits: torch.Tensor) -> float:
        return parts.problem.metrics(logits, targets)["accuracy"].item()

    assert accuracy(right) == 1.0
    for value in (torch.nan, torch.inf, -torch.inf):
        assert accuracy(torch.where(torch.arange(4)[:, None] == 0, value, right)) == 0.0  # one image of four
    assert accuracy(torch.full_like(right, torch.nan)) == 0.0  # whose largest is class 0: half of the images
    absent = torch.full((4, 1), -torch.inf)  # a class that no image of the task has
    assert accuracy(torch.cat([right, absent], -1)) == 1.0


def test_diverged_tasks_are_named(tmp_path):
    """From a theta 30 times as large gradient steps leave, in some tasks beyond the largest double."""
    _, parts = trainer_of(configuration(*QUICK, "device.dtype=float64"), tmp_path)
    measured = parts.evaluator(parts.theta, "test", 20, [0, 1])
    assert [m.diverged for m in measured] == [[], []]
    theta = parts.theta.map(lambda leaf: leaf * 30)
    (measured,) = parts.evaluator(theta, "test", 20, [3])
    scores = measured.metrics["mse"]
    limit = 100 * statistics.median(score for score in scores if score < math.inf)
    assert measured.diverged == [task for task, score in enumerate(scores) if not score <= limit]
    assert 0 < len(measured.diverged) < 20
    assert not measured.summary("mse").is_finite


def test_measured_steps_hold_the_training_number_once_in_order():
    assert evaluation(inner_steps=[10, 0, 1]).measured_steps(5) == [0, 1, 5, 10]
    assert evaluation(inner_steps=[0, 1]).measured_steps(1) == [0, 1]
    assert evaluation(inner_steps=[]).measured_steps(16) == [16]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"tasks": 1}, "tasks must be an integer >= 2, got 1"),  # one task has no interval
        ({"val_tasks": "x"}, "val_tasks must be an integer >= 2, got 'x'"),
        ({"shots": 0}, "shots must be an integer >= 1, got 0"),
        ({"queries": True}, "queries must be an integer >= 1, got True"),
        ({"inner_steps": 3}, "inner_steps must be a list of integers, such as [0,1,10], got 3"),
        ({"inner_steps": "0,1"}, "inner_steps must be a list of integers, such as [0,1,10], got '0,1'"),
        ({"inner_steps": [0, -1]}, "inner_steps must be an integer >= 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError) as raised:
        evaluation(**changes)
    assert str(raised.value) == message
