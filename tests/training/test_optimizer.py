"""metarun.training.optimizer: what is refused, by name and by trial."""

import pytest
import torch
from torch.optim import lr_scheduler

from metarun.training.optimizer import check_ranges, tried_optimizer, try_schedule, watches_score


def theta() -> dict[str, torch.Tensor]:
    return {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr must be a number > 0, got 0"),
        ({"lr": -1.0}, "lr must be a number > 0, got -1.0"),
        ({"lr": 1, "momentum": 5}, "momentum must be a number >= 0 and < 1, got 5"),
        ({"eps": 0.0}, "eps must be a number > 0, got 0.0"),
        ({"weight_decay": -1}, "weight_decay must be a number >= 0, got -1"),
        (
            {"lr": 0.5, "weight_decay": 2},
            "lr * weight_decay must be < 1, or a step's decay carries every parameter past 0, got 0.5 * 2",
        ),
        ({"maximize": True}, "maximize must be false: the query loss is to fall, got True"),
    ],
)
def test_an_optimizers_setting_out_of_range(settings, message):
    with pytest.raises(ValueError) as raised:
        check_ranges(settings, is_schedule=False)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0}, "factor must be a number > 0, got 0"),
        ({"T_max": 0}, "T_max must be an integer >= 1, got 0"),
        ({"total_iters": -1}, "total_iters must be an integer >= 0, got -1"),
        ({"gamma": -0.5}, "gamma must be a number > 0, got -0.5"),
        ({"min_lr": [0.1, -1]}, "min_lr must be a number >= 0, got -1"),
        ({"last_epoch": 3}, "last_epoch must be -1: a run goes on from its checkpoint, got 3"),
    ],
)
def test_a_schedules_setting_out_of_range(settings, message):
    with pytest.raises(ValueError) as raised:
        check_ranges(settings, is_schedule=True)
    assert str(raised.value) == message


def test_a_change_of_the_rate_may_be_as_small_as_it_likes():
    check_ranges({"eps": 0}, is_schedule=True)


def test_the_trial_takes_three_steps_and_leaves_theta():
    before = theta()
    tried = tried_optimizer(lambda leaves: torch.optim.SGD(leaves, lr=0.5), before)
    for leaf, start in zip(tried.param_groups[0]["params"], theta().values(), strict=True):
        assert torch.equal(leaf.detach(), start - 1.5)
    assert all(torch.equal(leaf, theta()[name]) for name, leaf in before.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            torch.optim.LBFGS,
            "LBFGS evaluates the loss several times in a step (a closure), and a meta-gradient is of one",
        ),
        (torch.optim.SparseAdam, "SparseAdam cannot take a step along a dense gradient of ones: SparseAdam does not"),
        (
            lambda p: torch.optim.SGD(p, lr=1e39),
            "SGD cannot take a step along a dense gradient of ones: value cannot be",
        ),
        (lambda p: torch.optim.SGD(p, lr=3e38), "theta is not finite after 3 steps of SGD along a gradient of ones"),
    ],
)
def test_an_optimizer_that_cannot_be_used(make, message):
    with pytest.raises(ValueError) as raised:
        tried_optimizer(make, theta())
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "steps", "message"),
    [
        (
            lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.0),
            5,
            "LambdaLR keeps the learning rate at 0 for all 5 steps",
        ),
        (lambda o: lr_scheduler.LambdaLR(o, lambda step: 3 - step), 5, "and LambdaLR makes it -0.1 at step 4"),
        (lambda o: lr_scheduler.ExponentialLR(o, 1e100), 5, "and ExponentialLR makes it inf at step 4"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=4), 5, "The specified number of total steps is 4"),
        (lambda o: o.not_there, 5, "AttributeError: 'SGD' object has no attribute 'not_there'"),
    ],
)
def test_a_schedule_that_cannot_be_used(make, steps, message):
    with pytest.raises(ValueError) as raised:
        try_schedule(make, optimizer(), steps)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.ConstantLR(o, factor=1.0, total_iters=0),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=7),  # comes down to 0 and goes up again
        lambda o: lr_scheduler.StepLR(o, step_size=1, gamma=1e-3),  # ends in 0
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=200, cycle_momentum=False),
        lr_scheduler.ReduceLROnPlateau,
    ],
)
def test_a_schedule_that_can(make):
    """All its rates are looked at: the last is that of as many steps by hand; one that watches the score takes none."""
    tried, by_hand = optimizer(), optimizer()
    try_schedule(make, tried, 200)
    schedule = make(by_hand)
    for _ in range(0 if watches_score(schedule) else 200):
        schedule.step()
    assert tried.param_groups[0]["lr"] == by_hand.param_groups[0]["lr"]


def test_who_watches_the_score():
    assert watches_score(lr_scheduler.ReduceLROnPlateau)
    assert watches_score(lr_scheduler.ReduceLROnPlateau(optimizer()))
    assert not watches_score(lr_scheduler.StepLR(optimizer(), 1))
    assert not watches_score(float)
