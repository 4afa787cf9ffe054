"""metarun.tasks.environments.bandit: arms and what they pay."""

from functools import partial

import pytest
import torch

from metarun import rng
from metarun.tasks.environments.bandit import Bandit
from metarun.tasks.environments.base import Discrete
from tests.tasks.environments.statistics_of import has_mean, is_uniform

float64 = partial(torch.tensor, dtype=torch.float64)
ARMS = Bandit(num_arms=5, horizon=10)


def test_arms_are_their_uniform_numbers():
    tasks = ARMS.sample(5, "val", torch.tensor([8, 2]), 2, 2)
    assert torch.equal(tasks.latent["arms"], rng.uniform(rng.key(5, "bandit", "val"), torch.tensor([8, 2]), 5))
    arms = ARMS.sample(0, "train", torch.arange(20_000), 2, 2).latent["arms"]
    assert arms.dtype == torch.float64 and all(is_uniform(arms[:, arm]) for arm in range(5))
    correlation = torch.corrcoef(arms.T) - torch.eye(5)
    assert float(correlation.abs().max()) < 4 / 20_000**0.5


def test_pulls_by_hand():
    """Two tasks of three episodes: an arm pays where the uniform number is below its probability, which 0 never has."""
    latent = {"arms": float64([[0.0, 0.5, 0.75], [1.0, 0.25, 0.5]])}
    actions = torch.tensor([[0, 1, 2], [0, 1, 2]])
    units = float64([[0.0, 0.5, 0.7], [1 - 2.0**-53, 0.2, 0.9]])
    state, observations = ARMS.start(latent, torch.zeros(2, 3, 0).double())
    step = ARMS.step(latent, state, actions, units[..., None])
    assert step.rewards.tolist() == [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert torch.equal(observations, torch.ones(2, 3, 1).double()) and torch.equal(step.observations, observations)
    assert not bool(step.is_over.any()) and step.state.shape == (2, 3, 0)


def test_an_arm_pays_with_its_probability():
    tasks = ARMS.sample(0, "train", torch.arange(3), 2, 2)
    state, _ = ARMS.start(tasks.latent, torch.zeros(3, 20_000, 0).double())
    for arm in range(5):
        unit = rng.uniform(rng.key(0, "pulls", arm), torch.arange(3), 20_000, 1)
        rewards = ARMS.step(tasks.latent, state, torch.full((3, 20_000), arm), unit).rewards
        assert bool(((rewards == 0) | (rewards == 1)).all())
        assert all(has_mean(rewards[task], float(tasks.latent["arms"][task, arm])) for task in range(3))


def test_what_a_policy_of_it_is():
    assert ARMS.actions == Discrete(5)
    assert (ARMS.input_shape, ARMS.output_size) == ((1,), 5)
    assert (ARMS.start_noise, ARMS.step_noise, ARMS.horizon) == (0, 1, 10)


@pytest.mark.parametrize("name", ["num_arms", "horizon"])
def test_bad_settings_are_named(name):
    with pytest.raises(ValueError, match=rf"{name} must be an integer >= 1, got 0"):
        Bandit(**{"num_arms": 5, "horizon": 10, name: 0})
