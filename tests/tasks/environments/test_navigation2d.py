"""metarun.tasks.environments.navigation2d: episodes by hand, and the goals."""

import math
from functools import partial

import pytest
import torch

from metarun.tasks.environments.base import Continuous
from metarun.tasks.environments.navigation2d import Navigation2D
from tests.tasks.environments.statistics_of import has_mean, is_uniform

float64 = partial(torch.tensor, dtype=torch.float64)
PLAIN = {"goals": (-0.5, 0.5), "horizon": 100, "max_step": 0.1, "action_scale": 1.0, "reached": 0.01}
NAVIGATION = Navigation2D(**PLAIN)


def walk(environment, goals, actions):
    """Observations after each step, rewards, ends: [T, B, E, ...]; actions [T, B, E, 2]."""
    latent, nothing = {"goal": float64(goals)}, torch.zeros(*actions.shape[1:3], 0).double()
    state, observations = environment.start(latent, nothing)
    assert torch.equal(observations, torch.zeros(*actions.shape[1:]).double())
    steps = []
    for each in actions:
        steps.append(environment.step(latent, state, each, nothing))
        state = steps[-1].state
        assert torch.equal(state, steps[-1].observations)
    return [torch.stack([getattr(step, name) for step in steps]) for name in ("observations", "rewards", "is_over")]


def test_an_episode_by_hand():
    """Towards (0.3, -0.4): clipped in one coordinate, in both, not at all."""
    actions = float64([[0.05, -7.0], [9.0, -0.2], [0.1, 0.0]])[:, None, None]
    places, rewards, is_over = walk(NAVIGATION, [[0.3, -0.4]], actions)
    by_hand = float64([[0.05, -0.1], [0.15, -0.2], [0.25, -0.2]])
    assert torch.allclose(places[:, 0, 0], by_hand, rtol=0, atol=1e-15)
    distances = [(0.25**2 + 0.3**2) ** 0.5, (0.15**2 + 0.2**2) ** 0.5, (0.05**2 + 0.2**2) ** 0.5]
    assert rewards[:, 0, 0].tolist() == pytest.approx([-each for each in distances], abs=1e-15)
    assert not bool(is_over.any())


def test_actions_are_scaled_before_they_are_clipped():
    """Finn's: [-1, 1] to [-0.1, 0.1], and all beyond as far as 0.1."""
    finn = Navigation2D(**{**PLAIN, "action_scale": 0.1})
    actions = float64([[0.5, -1.0], [1.5, -300.0]])[:, None, None]
    places, _, _ = walk(finn, [[0.3, 0.3]], actions)
    assert torch.allclose(places[:, 0, 0], float64([[0.05, -0.1], [0.15, -0.2]]), rtol=0, atol=1e-15)


def test_an_episode_is_over_only_when_both_coordinates_are_there():
    """Nearer than 0.01, not as near; within the square, not the circle: distance 0.0135 ends it."""
    actions = float64([[0.05, 0.0405], [0.0405, 0.0405], [0.0, 0.05], [0.05, 0.05]])
    _, rewards, is_over = walk(NAVIGATION, [[0.05, 0.05]], actions[None, None])
    assert is_over[0, 0].tolist() == [True, True, False, True]
    assert float(rewards[0, 0, 1]) == pytest.approx(-0.0095 * 2**0.5, rel=1e-12)
    on_edge = Navigation2D(**{**PLAIN, "reached": 0.25, "max_step": 1.0})  # numbers that are exact in binary
    _, _, is_over = walk(on_edge, [[0.5, 0.5]], float64([[0.25, 0.5], [0.375, 0.5]])[None, None])
    assert is_over[0, 0].tolist() == [False, True]


def test_tasks_and_episodes_go_their_own_ways():
    """Of two tasks of two episodes, each has its task's goal and its own actions."""
    actions = float64([[[0.1, 0.0], [0.0, 0.1]], [[-0.1, 0.0], [0.0, -0.1]]])[None]
    places, rewards, _ = walk(NAVIGATION, [[0.4, 0.0], [0.0, -0.4]], actions)
    assert torch.equal(places[0], actions[0])
    expected = [[-0.3, -((0.4**2 + 0.1**2) ** 0.5)], [-((0.1**2 + 0.4**2) ** 0.5), -0.3]]
    assert rewards[0].tolist() == [pytest.approx(row, abs=1e-15) for row in expected]


def test_goals_are_uniform_in_their_square():
    goals = NAVIGATION.sample(0, "train", torch.arange(20_000), 2, 2).latent["goal"]
    assert goals.shape == (20_000, 2) and goals.dtype == torch.float64
    assert is_uniform(goals[:, 0] + 0.5) and is_uniform(goals[:, 1] + 0.5)
    assert has_mean(goals[:, 0] * goals[:, 1], 0.0)
    wide = Navigation2D(**{**PLAIN, "goals": (1.0, 3.0)}).sample(0, "train", torch.arange(20_000), 2, 2)
    assert torch.allclose(wide.latent["goal"], 2 + 2 * goals, rtol=0, atol=1e-15)


def test_standing_still_earns_the_mean_distance_of_a_square():
    """(sqrt 2 + ln(1 + sqrt 2)) / 6 for a unit square's centre, a hundred times: near the paper's -40.4 before any step."""
    tasks = NAVIGATION.sample(0, "train", torch.arange(20_000), 2, 2)
    _, state = NAVIGATION.start(tasks.latent, torch.zeros(20_000, 1, 0).double())
    step = NAVIGATION.step(tasks.latent, state, torch.zeros(20_000, 1, 2).double(), torch.zeros(20_000, 1, 0).double())
    root = 2**0.5
    assert has_mean(step.rewards, -(root + math.log(1 + root)) / 6)


def test_what_a_policy_of_it_is():
    assert NAVIGATION.actions == Continuous(2)
    assert (NAVIGATION.input_shape, NAVIGATION.output_size) == ((2,), 4)
    assert (NAVIGATION.start_noise, NAVIGATION.step_noise, NAVIGATION.horizon) == (0, 0, 100)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"goals": (1.0, 0.0)}, r"goals must be \[low, high\].*Set dataset\.source\.goals"),
        ({"horizon": 0}, r"horizon must be an integer >= 1, got 0"),
        ({"max_step": 0.0}, r"max_step must be a number > 0, got 0\.0"),
        ({"action_scale": -1.0}, r"action_scale must be a number > 0, got -1\.0"),
        ({"reached": float("nan")}, r"reached must be a number > 0, got nan"),
    ],
)
def test_bad_settings_are_named(changed, words):
    with pytest.raises(ValueError, match=words):
        Navigation2D(**{**PLAIN, **changed})
