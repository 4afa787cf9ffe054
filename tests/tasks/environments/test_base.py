"""metarun.tasks.environments.base, and what it asks of every environment."""

import pytest
import torch

from metarun import rng
from metarun.tasks.environments.bandit import Bandit
from metarun.tasks.environments.base import (
    QUERY,
    SUPPORT,
    Continuous,
    Discrete,
    EpisodeTasks,
    episode_keys,
    no_state,
    output_size,
)
from metarun.tasks.environments.navigation2d import Navigation2D
from metarun.tasks.environments.tabular_mdp import TabularMDP

NAVIGATION = Navigation2D(goals=(-0.5, 0.5), horizon=6, max_step=0.1, action_scale=1.0, reached=0.01)
TABLES = TabularMDP(num_states=4, num_actions=3, horizon=6, reward_mean=1.0, reward_deviation=1.0, reward_noise=1.0)
ARMS = Bandit(num_arms=3, horizon=6)
ALL = [pytest.param(each, id=type(each).__name__) for each in (NAVIGATION, TABLES, ARMS)]


def episodes(environment, latent, keys):
    """Observations, actions, rewards and ends of whole episodes [T, B, E, ...], actions and noise drawn from the keys."""
    chosen, size = environment.actions, environment.step_noise

    def noise(label, number):
        mixed = keys ^ rng.key(0, label)
        return rng.uniform(1, mixed.flatten(), number).reshape(*keys.shape, number)

    state, observations = environment.start(latent, noise("start", environment.start_noise))
    rows = []
    for t in range(environment.horizon):
        unit = noise(f"action {t}", chosen.size if isinstance(chosen, Continuous) else 1)
        actions = 0.4 * unit - 0.2 if isinstance(chosen, Continuous) else (unit[..., 0] * chosen.number).long()
        step = environment.step(latent, state, actions, noise(f"step {t}", size))
        rows.append((observations, actions, step.rewards, step.is_over))
        state, observations = step.state, step.observations
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def test_outputs_of_a_policy():
    assert output_size(Continuous(6)) == 12 and output_size(Discrete(5)) == 5


def test_keys_of_episodes_are_a_function_of_all_that_names_them():
    drawn = [
        keys
        for seed in (0, 1)
        for name in ("bandit", "tabular_mdp")
        for split in ("train", "val", "test")
        for keys in episode_keys(seed, name, split, torch.arange(7), 5, 5).values()
    ]
    assert drawn[0].dtype == torch.int64 and drawn[0].shape == (7, 5)
    assert len(torch.stack(drawn).unique()) == 2 * 2 * 3 * 2 * 7 * 5


def test_more_episodes_continue_the_sequences():
    few = episode_keys(3, "bandit", "val", torch.arange(7), 2, 9)
    many = episode_keys(3, "bandit", "val", torch.arange(7), 8, 30)
    assert torch.equal(few[SUPPORT], many[SUPPORT][:, :2]) and torch.equal(few[QUERY], many[QUERY][:, :9])


def test_keys_do_not_depend_on_the_batch():
    some = torch.tensor([40, 3, 3])
    whole, part = (episode_keys(3, "bandit", "val", indices, 4, 5) for indices in (torch.arange(50), some))
    assert all(torch.equal(part[name], whole[name][some]) for name in (SUPPORT, QUERY))


@pytest.mark.parametrize(
    ("split", "shots", "queries", "said"),
    [
        ("train", 1, 2, "shots must be >= 2 episodes, got 1. Set dataset.shots."),
        ("test", 2, 1, "queries must be >= 2 episodes, got 1. Set dataset.test_queries or evaluation.queries."),
        ("val", 1, 1, "shots must be >= 2 episodes, got 1. Set evaluation.val_shots (by default that of the test, "),
    ],
)
def test_one_episode_is_too_few(split, shots, queries, said):
    EpisodeTasks().check(split, 2, 2)
    with pytest.raises(ValueError) as refused:
        EpisodeTasks().check(split, shots, queries)
    assert str(refused.value).startswith(said)


def test_no_state_is_of_no_size():
    noise = torch.zeros(3, 4, 2, dtype=torch.float32)
    state = no_state(noise)
    assert state.shape == (3, 4, 0) and state.dtype == torch.float32


@pytest.mark.parametrize("environment", ALL)
def test_shapes_are_those_of_the_protocol(environment):
    tasks = environment.sample(0, "train", torch.arange(5), 3, 4)
    assert len(tasks) == 5 and tasks.support is None and tasks.query is None
    assert environment.output_size == output_size(environment.actions)
    for keys, number in ((tasks.latent[SUPPORT], 3), (tasks.latent[QUERY], 4)):
        observations, _, rewards, is_over = episodes(environment, tasks.latent, keys)
        assert observations.shape == (6, 5, number, *environment.input_shape)
        assert rewards.shape == is_over.shape == (6, 5, number)
        assert rewards.is_floating_point() and observations.is_floating_point() and is_over.dtype == torch.bool


@pytest.mark.parametrize("environment", ALL)
def test_episodes_do_not_depend_on_the_tasks_and_episodes_beside_them(environment):
    """Tasks permuted, repeated and left out, and fewer episodes: the same bits."""
    some = torch.tensor([11, 4, 4, 0])
    whole, part = (environment.sample(2, "test", indices, 5, 2) for indices in (torch.arange(12), some))
    fewer = environment.sample(2, "test", some, 3, 2)
    assert all(torch.equal(part.latent[name], whole.latent[name][some]) for name in whole.latent)
    expected = episodes(environment, whole.latent, whole.latent[SUPPORT])
    for tasks, number in ((part, 5), (fewer, 3)):
        for found, all_of_them in zip(
            episodes(environment, tasks.latent, tasks.latent[SUPPORT]), expected, strict=True
        ):
            assert torch.equal(found, all_of_them[:, some, :number])
    order = torch.tensor([4, 2, 0, 1, 3])
    for found, unordered in zip(
        episodes(environment, whole.latent, whole.latent[SUPPORT][:, order]), expected, strict=True
    ):
        assert torch.equal(found, unordered[:, :, order])


@pytest.mark.parametrize("environment", ALL)
def test_seeds_and_splits_give_other_tasks(environment):
    drawn = [
        environment.sample(seed, split, torch.arange(9), 2, 2).latent
        for seed in (0, 1)
        for split in ("train", "val", "test")
    ]
    for name, values in drawn[0].items():
        assert len(torch.stack([latent[name] for latent in drawn]).unique()) == 6 * values.numel()


@pytest.mark.parametrize("environment", ALL)
def test_tasks_and_episodes_lie_where_their_indices_do(environment):
    tasks = environment.to("meta").sample(0, "train", torch.arange(3, device="meta"), 2, 2)
    assert all(value.device.type == "meta" for value in tasks.latent.values())
    assert all(column.device.type == "meta" for column in episodes(environment, tasks.latent, tasks.latent[SUPPORT]))


@pytest.mark.parametrize("environment", ALL)
def test_both_sets_are_checked(environment):
    environment.check("train", 2, 2)
    for shots, queries in ((1, 2), (2, 1)):
        with pytest.raises(ValueError, match=r"must be >= 2 episodes, got 1"):
            environment.check("train", shots, queries)
