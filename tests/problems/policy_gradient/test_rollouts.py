"""metarun.problems.policy_gradient.rollouts in an environment of whole numbers: every value is exact, whoever adds what to it."""

import math
from dataclasses import dataclass, field, fields, replace

import pytest
import torch

from metarun import rng
from metarun.errors import SimulationError
from metarun.problems.policy_gradient.distributions import Gaussian
from metarun.problems.policy_gradient.rollouts import Trajectories, collect
from metarun.tasks.environments.base import SUPPORT, Continuous, Discrete, Transition, episode_keys
from metarun.tasks.environments.navigation2d import Navigation2D

pytestmark = pytest.mark.usefixtures("float64")

STREAM = rng.key(0, "test")
LIKE = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Walk:
    """A walker starts at 0 to 3, goes by action and drift, and earns half its place and the task's bonus; over from 5 on."""

    horizon: int = 6
    after_the_end: float = 7.0  # what is said of an episode that is over
    input_shape: tuple[int, ...] = (1,)
    actions: Continuous | Discrete = field(default_factory=lambda: Discrete(4))
    start_noise: int = 1
    step_noise: int = 2

    def start(self, latent, noise):
        place = (4 * noise[..., 0]).floor()
        return (place, torch.zeros_like(place, dtype=torch.bool)), place[..., None]

    def step(self, latent, state, actions, noise):
        place, was_over = state
        place = place + actions - (4 * noise).floor().sum(-1)
        is_over = place >= 5
        rewards = place / 2 + latent["bonus"][:, None]
        seen, rewards = (torch.where(was_over, self.after_the_end, each) for each in (place, rewards))
        return Transition((place, is_over | was_over), seen[..., None], rewards, is_over)


class Whole:
    """Actions 0 to 7 by the number that is drawn and the policy's word; "log-probabilities" are minus their squares."""

    noise = 1

    def draw(self, outputs, noise):
        return ((8 * noise[..., 0]).floor() + outputs[..., 0]).to(torch.int64)

    def log_prob(self, outputs, actions):
        return -(actions * actions).to(outputs.dtype)

    def divergence(self, outputs, reference):
        raise NotImplementedError


def policy(observations):
    """One more where the walker is below 0."""
    return (observations < 0).to(observations.dtype)


def tasks(number: int) -> tuple[dict, torch.Tensor]:
    keys = episode_keys(5, "walk", "train", torch.arange(number), 9, 2)[SUPPORT]
    return {"bonus": torch.arange(number) * 8.0}, keys


def walked(latent, keys, environment=None, stream=STREAM) -> Trajectories:
    return collect(environment or Walk(), Whole(), policy, latent, keys, stream, LIKE)


def assert_equal(one: Trajectories, other: Trajectories) -> None:
    for each in fields(Trajectories):
        assert torch.equal(getattr(one, each.name), getattr(other, each.name)), each.name


def part_of(episodes: Trajectories, tasks, numbers) -> Trajectories:
    return Trajectories(**{each.name: getattr(episodes, each.name)[tasks][:, numbers] for each in fields(Trajectories)})


def test_every_episode_is_that_of_a_loop():
    """In Python, one at a time: what is drawn ahead is for the start, then for all actions and drifts, step by step."""
    latent, keys = tasks(4)
    found = walked(latent, keys)
    ended = 0
    for task, episode in ((b, e) for b in range(4) for e in range(9)):
        noise = rng.uniform(STREAM, keys[task, episode][None], 1 + 6 * 3)[0].tolist()
        place, is_over, rest = math.floor(4 * noise[0]), False, noise[1:]
        for step in range(6):
            drawn, *drifts = rest[3 * step : 3 * step + 3]
            seen = 0 if is_over else place
            action = math.floor(8 * drawn) + (seen < 0)
            where = task, episode, step
            assert (found.observations[where].item(), found.actions[where].item()) == (seen, action)
            assert found.mask[where].item() == (not is_over) and found.log_probs[where].item() == -(action**2)
            place += action - sum(math.floor(4 * drift) for drift in drifts)
            assert found.rewards[where].item() == (0 if is_over else place / 2 + 8 * task)
            is_over = is_over or place >= 5
        ended += is_over
    assert 0 < ended < 36, "episodes of both kinds"


def test_an_episode_is_the_same_in_whatever_company():
    latent, keys = tasks(6)
    whole = walked(latent, keys)
    some, numbers = torch.tensor([4, 1]), torch.tensor([7, 2, 0])
    assert_equal(walked({"bonus": latent["bonus"][some]}, keys[some][:, numbers]), part_of(whole, some, numbers))


def test_more_episodes_continue_the_sequence():
    latent, keys = tasks(3)
    more = episode_keys(5, "walk", "train", torch.arange(3), 20, 2)[SUPPORT]
    assert_equal(walked(latent, keys), part_of(walked(latent, more), torch.arange(3), torch.arange(9)))


def test_another_stream_is_another_episode():
    latent, keys = tasks(3)
    again = walked(latent, keys, stream=rng.key(0, "test", 1))
    assert not torch.equal(walked(latent, keys).actions, again.actions)


@pytest.mark.parametrize("said", [math.nan, math.inf])
def test_what_is_said_after_an_episodes_end_is_not_looked_at(said):
    """Not even where it is no number: 0 times NaN is none either, and a mask alone would let it through."""
    latent, keys = tasks(4)
    assert_equal(walked(latent, keys, Walk(after_the_end=said)), walked(latent, keys))


@dataclass(frozen=True)
class Broken(Walk):
    """Says something wrong of task 2 in the step from `at` on."""

    what: str = ""
    value: float = math.nan

    def step(self, latent, state, actions, noise):
        after = super().step(latent, state, actions, noise)
        wrong = (latent["bonus"] == 16)[:, None]
        if self.what == "reward":
            return replace(after, rewards=torch.where(wrong, self.value, after.rewards))
        if self.what == "observation":
            return replace(after, observations=torch.where(wrong[..., None], self.value, after.observations))
        return replace(after, observations=after.observations.expand(-1, -1, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_an_environment_that_gives_no_number_is_told_with_the_task(what, value):
    latent, keys = tasks(4)
    with pytest.raises(SimulationError) as told:
        walked(latent, keys, Broken(what=what, value=value))
    article = "a" if what == "reward" else "an"
    assert str(told.value) == f"Broken gave {article} {what} that is not finite, to task 2 of 4 worked on together"


def test_an_environment_that_gives_another_shape_is_told():
    latent, keys = tasks(4)
    with pytest.raises(SimulationError) as told:
        walked(latent, keys, Broken(what="shape"))
    assert str(told.value) == "Broken must give observations of shape (1,), got (3,)"


def test_a_policy_that_gives_no_number_is_not_the_environments_fault():
    """The point goes where it is told to: nowhere. The query loss says so then, which names the settings to change."""
    environment = Navigation2D(goals=(-0.5, 0.5), horizon=3, max_step=0.1, action_scale=1.0, reached=0.01)
    batch = environment.sample(0, "train", torch.arange(2), 2, 2)
    found = collect(
        environment, Gaussian(2), lambda seen: seen.new_full((*seen.shape[:2], 4), math.nan),
        batch.latent, batch.latent[SUPPORT], STREAM, LIKE,
    )  # fmt: skip
    assert found.actions.isnan().all() and found.rewards.isnan().all()
