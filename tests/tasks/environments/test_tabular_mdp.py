"""metarun.tasks.environments.tabular_mdp: tables from their uniform numbers, and where they lead."""

from functools import partial
from statistics import NormalDist

import pytest
import torch

from metarun import rng
from metarun.tasks.environments.base import Discrete
from metarun.tasks.environments.tabular_mdp import TabularMDP, simplex
from tests.tasks.environments.statistics_of import counts_as, has_mean, is_uniform

float64 = partial(torch.tensor, dtype=torch.float64)
DUAN = {
    "num_states": 10,
    "num_actions": 5,
    "horizon": 10,
    "reward_mean": 1.0,
    "reward_deviation": 1.0,
    "reward_noise": 1.0,
}
TABLES = TabularMDP(**DUAN)
SMALL = TabularMDP(**{**DUAN, "num_states": 3, "num_actions": 2})
NORMAL = NormalDist()
# From state 0: action 0 always to 2, action 1 to 0 or 1; from 1 to all three; from 2 nowhere else.
HAND = {
    "transitions": float64(
        [[[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]], [[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]
    )[None],
    "rewards": float64([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]),
}


def test_pieces_of_the_interval_by_hand():
    found = simplex(float64([[0.75, 0.25], [0.5, 0.5], [0.0, 0.25]]))
    assert found.tolist() == [[0.25, 0.5, 0.25], [0.5, 0.0, 0.5], [0.0, 0.25, 0.75]]
    assert simplex(torch.zeros(4, 0).double()).tolist() == [[1.0]] * 4


def test_tables_are_made_of_their_uniform_numbers():
    tasks = SMALL.sample(5, "val", torch.tensor([8, 2]), 2, 2)
    unit = rng.uniform(rng.key(5, "tabular_mdp", "val"), torch.tensor([8, 2]), 3, 2, 3)
    for task in range(2):
        for state in range(3):
            for action in range(2):
                first, second, last = unit[task, state, action].tolist()
                low, high = sorted((first, second))
                row = tasks.latent["transitions"][task, state, action].tolist()
                assert row == [low, high - low, 1 - high]
                reward = float(tasks.latent["rewards"][task, state, action])
                assert reward == pytest.approx(1 + NORMAL.inv_cdf(last), abs=1e-12)


def test_rows_are_uniform_on_the_simplex():
    """Each probability is Beta(1, 9), any two have covariance -1/1100, and a row sums to 1."""
    rows = TABLES.sample(0, "train", torch.arange(400), 2, 2).latent["transitions"].reshape(-1, 10)
    assert len(rows) == 20_000 and float(rows.min()) >= 0
    assert float((rows.sum(-1) - 1).abs().max()) <= 10 * 2.0**-53
    for column in range(10):
        assert is_uniform((1 - rows[:, column]) ** 9)
    for other in range(1, 10):
        assert has_mean((rows[:, 0] - 0.1) * (rows[:, other] - 0.1), -1 / 1100)


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 1.0), (-3.0, 0.5)])
def test_mean_rewards_are_normal(mean, deviation):
    tables = TabularMDP(**{**DUAN, "reward_mean": mean, "reward_deviation": deviation})
    rewards = tables.sample(0, "train", torch.arange(400), 2, 2).latent["rewards"]
    assert rewards.shape == (400, 10, 5)
    assert is_uniform(torch.special.ndtr((rewards - mean) / deviation))


def test_an_episode_by_hand():
    """0 -1-> 1 -0-> 1 -0-> 0 -0-> 2 -1-> 2; a reward is of the state that is left, and half is the normal's mean."""
    state, observations = SMALL.start(HAND, torch.zeros(1, 1, 0).double())
    assert state.tolist() == [[0]] and observations.tolist() == [[[1.0, 0.0, 0.0]]]
    arrived, rewards = [], []
    for action, place in ((1, 0.5), (0, 0.74), (0, 0.2), (0, 0.0), (1, 0.999)):
        noise = float64([[[place, 0.5]]])
        step = SMALL.step(HAND, state, torch.tensor([[action]]), noise)
        state = step.state
        assert step.observations.tolist() == [[[float(number == int(state)) for number in range(3)]]]
        assert step.is_over.tolist() == [[False]]
        arrived.append(int(state))
        rewards.append(float(step.rewards))
    assert arrived == [1, 1, 0, 2, 2]
    assert rewards == pytest.approx([2.0, 3.0, 3.0, 1.0, 6.0], abs=1e-12)


def test_no_state_of_probability_0_is_ever_reached():
    """At the ends of the uniform numbers and at every cut; and a row that sums to less than 1 has a last state."""
    ends = float64([0.0, 2.0**-53, 0.25, 0.5, 0.75, 1 - 2.0**-53])
    noise = torch.stack([ends, torch.full((6,), 0.5).double()], -1)[None]
    for state, action, expected in ((0, 0, [2] * 6), (0, 1, [0, 0, 0, 1, 1, 1]), (1, 0, [0, 0, 1, 1, 2, 2])):
        step = SMALL.step(HAND, torch.full((1, 6), state), torch.full((1, 6), action), noise)
        assert step.state.tolist() == [expected]
    tenths = {
        "transitions": torch.full((1, 10, 5, 10), 0.1, dtype=torch.float64),
        "rewards": torch.zeros(1, 10, 5).double(),
    }
    assert float(tenths["transitions"][0, 0, 0].cumsum(-1)[-1]) < 1
    last = TABLES.step(tenths, torch.zeros(1, 6).long(), torch.zeros(1, 6).long(), noise).state
    assert last[0, -1] == 9


def test_noise_of_rewards_is_the_inverse_of_the_normal():
    quiet = TabularMDP(**{**DUAN, "num_states": 3, "num_actions": 2, "reward_noise": 0.25})
    units = float64([0.025, 0.31, 0.975])
    noise = torch.stack([torch.zeros(3).double(), units], -1)[None]
    step = quiet.step(HAND, torch.tensor([[1, 1, 2]]), torch.tensor([[0, 1, 0]]), noise)
    expected = [mean + 0.25 * NORMAL.inv_cdf(unit) for mean, unit in zip((3, 4, 5), units.tolist(), strict=True)]
    assert step.rewards[0].tolist() == pytest.approx(expected, abs=1e-12)
    silent = TabularMDP(**{**DUAN, "num_states": 3, "num_actions": 2, "reward_noise": 0.0})
    assert silent.step(HAND, torch.tensor([[1, 1, 2]]), torch.tensor([[0, 1, 0]]), noise).rewards.tolist() == [
        [3, 4, 5]
    ]


def test_next_states_are_as_likely_as_the_tables_say():
    """Two tasks side by side, every state and action of each."""
    tasks = SMALL.sample(0, "train", torch.arange(2), 2, 2)
    for state in range(3):
        for action in range(2):
            noise = rng.uniform(rng.key(0, "next", state, action), torch.arange(2), 20_000, 2)
            step = SMALL.step(tasks.latent, torch.full((2, 20_000), state), torch.full((2, 20_000), action), noise)
            for task in range(2):
                counts = step.state[task].bincount(minlength=3).double()
                assert counts_as(counts, tasks.latent["transitions"][task, state, action])
                assert has_mean(step.rewards[task], float(tasks.latent["rewards"][task, state, action]))


def test_the_return_of_a_policy_is_that_of_the_bellman_equation():
    """Of a policy that chooses evenly, over whole episodes of Duan's sizes."""
    latent = TABLES.sample(2, "test", torch.arange(3), 2, 2).latent
    value = torch.zeros(3, 10).double()
    for _ in range(TABLES.horizon):
        value = (latent["rewards"] + torch.einsum("bsak,bk->bsa", latent["transitions"], value)).mean(-1)
    state, _ = TABLES.start(latent, torch.zeros(3, 20_000, 0).double())
    returns = torch.zeros(3, 20_000).double()
    for t in range(TABLES.horizon):
        unit = rng.uniform(rng.key(0, "episodes", t), torch.arange(3), 20_000, 3)
        step = TABLES.step(latent, state, (5 * unit[..., 2]).long(), unit[..., :2])
        state, returns = step.state, returns + step.rewards
    assert all(has_mean(returns[task], float(value[task, 0])) for task in range(3))


def test_what_a_policy_of_it_is():
    assert TABLES.actions == Discrete(5)
    assert (TABLES.input_shape, TABLES.output_size) == ((10,), 5)
    assert (TABLES.start_noise, TABLES.step_noise, TABLES.horizon) == (0, 2, 10)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_states", 0, r"num_states must be an integer >= 1, got 0"),
        ("num_actions", 2.5, r"num_actions must be an integer >= 1, got 2\.5"),
        ("horizon", True, r"horizon must be an integer >= 1, got True"),
        ("reward_mean", float("nan"), r"reward_mean must be a number"),
        ("reward_deviation", -1.0, r"reward_deviation must be a number >= 0, got -1\.0"),
        ("reward_noise", float("inf"), r"reward_noise must be a number >= 0, got inf"),
    ],
)
def test_bad_settings_are_named(name, value, words):
    with pytest.raises(ValueError, match=words):
        TabularMDP(**{**DUAN, name: value})
