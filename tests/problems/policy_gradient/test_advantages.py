"""Baseline, generalised advantages and masks, by hand."""

import numpy as np
import pytest
import torch

from metarun.problems.policy_gradient.advantages import (
    generalised_advantages,
    linear_baseline,
    returns_to_go,
    standardised,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_returns_to_go_of_three_steps():
    """RL3: with discount 1/2, 3 is 3, 2 + 3/2 is 3.5, 1 + 2/2 + 3/4 is 2.75."""
    assert returns_to_go(torch.tensor([1.0, 2.0, 3.0]), 0.5).tolist() == [2.75, 3.5, 3.0]


def test_advantages_of_three_steps():
    """RL3: deltas 1 + 2/2 - 1 = 1, 2 + 4/2 - 2 = 2, 3 + 0 - 4 = -1; with discount * decay = 1/4 they add up to 1.4375, 1.75, -1."""
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0])
    found = generalised_advantages(rewards, values, torch.ones(3), 0.5, 0.5)
    assert found.tolist() == [1.4375, 1.75, -1.0]


def test_with_a_decay_of_one_advantages_are_returns_less_the_baseline():
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0])
    found = generalised_advantages(rewards, values, torch.ones(3), 0.5, 1.0)
    assert found.tolist() == [2.75 - 1, 3.5 - 2, 3.0 - 4]


def test_an_episode_that_ends_early_has_no_value_after_its_end():
    """Two steps of three: deltas 1 + 2/2 - 1 = 1 and 2 + 0 - 2 = 0; the 99 past the end is nobody's."""
    rewards, values = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 99.0])
    found = generalised_advantages(rewards, values, torch.tensor([1.0, 1.0, 0.0]), 0.5, 1.0)
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_advantages_are_standardised_over_each_tasks_own_steps():
    """Task 0: steps 1, 3 and 5 of four: mean 3, deviation sqrt(8/3). Task 1 has two equal steps: 0, whatever is masked."""
    values = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 9.0], [2.0, 9.0]]])
    mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    found = standardised(values, mask)
    side = 2 / (8 / 3) ** 0.5
    torch.testing.assert_close(
        found, torch.tensor([[[-side, 0], [side, 0]], [[0, 0], [0, 0.0]]]), rtol=1e-7, atol=1e-15
    )


def test_the_baseline_is_least_squares_of_each_task_by_itself():
    """Against NumPy, task by task, with the ridge as rows of the system; masked steps are left out of the fit."""
    g = torch.Generator().manual_seed(0)
    observations = 6 * torch.randn(3, 4, 5, 2, generator=g)  # some beyond 10, which are clipped
    returns = torch.randn(3, 4, 5, generator=g)
    mask = (torch.rand(3, 4, 5, generator=g) > 0.2).double()
    found = linear_baseline(observations, returns, mask)
    for task in range(3):
        seen = np.clip(observations[task].numpy(), -10, 10)
        t = np.broadcast_to(np.arange(5)[:, None] / 100, (4, 5, 1))
        features = np.concatenate([seen, seen**2, t, t**2, t**3, np.ones_like(t)], -1).reshape(20, -1)
        kept = mask[task].flatten().numpy() > 0
        system = np.concatenate([features[kept], np.sqrt(1e-5) * np.eye(8)])
        target = np.concatenate([returns[task].flatten().numpy()[kept], np.zeros(8)])
        weights = np.linalg.lstsq(system, target, rcond=None)[0]
        np.testing.assert_allclose(found[task].flatten().numpy(), features @ weights, rtol=1e-7, atol=1e-7)


def test_a_baseline_does_not_know_other_tasks():
    g = torch.Generator().manual_seed(0)
    observations, returns = torch.randn(2, 4, 5, 2, generator=g), torch.randn(2, 4, 5, generator=g)
    mask = torch.ones(2, 4, 5)
    together = linear_baseline(observations, returns, mask)
    returns = torch.stack([returns[0], 100 * returns[1]])
    assert torch.equal(together[0], linear_baseline(observations, returns, mask)[0])
