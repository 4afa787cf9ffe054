"""metarun.tasks.environments.gymnasium_tasks: episodes are those of a plain loop, and what goes wrong is one line."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun.errors import ConfigurationError, SimulationError
from metarun.tasks.environments import gymnasium_workers
from metarun.tasks.environments.base import Continuous, Discrete
from metarun.tasks.environments.gymnasium_tasks import GymnasiumTasks

from .robots import noise, normal, nothing

gymnasium = pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'metarun[gymnasium]'")
from . import gymnasium_classes as classes  # noqa: E402  (needs Gymnasium)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def no_workers_are_left():
    yield
    gymnasium_workers.close()


def tasks(environment, shape=(3,), outputs=4, **settings):
    given = {
        "environment": environment, "keywords": {}, "parameters": [], "set": "attribute", "reward": None, "horizon": 50,
        "action_scale": 1.0, "workers": 1, "observation_shape": shape, "policy_outputs": outputs,
    }  # fmt: skip
    return GymnasiumTasks(**(given | settings))


def counter(**settings):
    return tasks(classes.Counter, **settings)


def play(env, latent, actions, start, chosen: Any = slice(None)):
    """Observations [T + 1, ...], rewards and ends [T, ...] of the tasks `chosen`, under actions [T, B, E, ...]."""
    latent = {name: value[chosen] for name, value in latent.items()}
    state, first = env.start(latent, start[chosen])
    seen, rewards, ends = [first], [], []
    for action in actions:
        transition = env.step(latent, state, action[chosen], nothing(*first.shape[:2]))
        seen.append(transition.observations)
        rewards.append(transition.rewards)
        ends.append(transition.is_over)
        state = transition.state
    return torch.stack(seen), torch.stack(rewards), torch.stack(ends)


def plain(name, parameters, seed, actions):
    """The same of one episode, by Gymnasium's own loop; what follows its end is left out."""
    env = gymnasium.make(name, max_episode_steps=len(actions))
    for attribute, value in parameters.items():
        setattr(env.unwrapped, attribute, value)
    observation, _ = env.reset(seed=seed)
    seen, rewards, is_over = [observation], [], False
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        rewards.append(float(reward))
        is_over = terminated or truncated
        if is_over:
            break
    return np.array(seen, dtype=np.float64), np.array(rewards), is_over


PENDULUM = {
    "shape": (3,),
    "outputs": 2,
    "parameters": [{"name": "g", "uniform": [5.0, 15.0]}, {"name": "m", "choice": [1.0, 2.0]}],
}


def test_pendulums_are_a_plain_loops_to_the_bit():
    env = tasks("Pendulum-v1", horizon=30, action_scale=2.0, workers=2, **PENDULUM)
    assert (env.input_shape, env.actions, env.output_size, env.start_noise) == ((3,), Continuous(1), 2, 1)
    latent = env.sample(0, "train", torch.arange(3), 2, 2).latent
    start, actions = noise(3, 4, 1), normal(30, 3, 4, 1)
    seen, rewards, ends = play(env, latent, actions, start)
    for task in range(3):
        parameters = {"g": float(latent["g"][task]), "m": [1.0, 2.0][int(latent["m"][task])]}
        for episode in range(4):
            pulls = [(2.0 * a).clip(-2.0, 2.0).astype(np.float32) for a in actions[:, task, episode].numpy()]
            seed = int(start[task, episode, 0] * 2**31)
            expected, earned, is_over = plain("Pendulum-v1", parameters, seed, pulls)
            np.testing.assert_array_equal(seen[:, task, episode], expected)
            np.testing.assert_array_equal(rewards[:, task, episode], earned)
            assert is_over and ends[:, task, episode].tolist() == [False] * 29 + [True]


def test_carts_are_a_plain_loops_to_the_bit_and_stay_where_they_ended():
    env = tasks("CartPole-v1", (4,), 2, parameters=[{"name": "length", "uniform": [0.3, 0.8]}])
    assert env.actions == Discrete(2)
    latent = env.sample(0, "test", torch.arange(2), 2, 2).latent
    start = noise(2, 5, 1)
    actions = (normal(50, 2, 5) > 0).long()
    seen, rewards, ends = play(env, latent, actions, start)
    lengths = []
    for task in range(2):
        for episode in range(5):
            expected, earned, _ = plain(
                "CartPole-v1",
                {"length": float(latent["length"][task])},
                int(start[task, episode, 0] * 2**31),
                actions[:, task, episode].tolist(),
            )
            length = len(earned)
            lengths.append(length)
            np.testing.assert_array_equal(seen[: length + 1, task, episode], expected)
            np.testing.assert_array_equal(rewards[:length, task, episode], earned)
            assert ends[:, task, episode].tolist() == [False] * (length - 1) + [True] * (51 - length)
            assert (seen[length:, task, episode] == seen[length, task, episode]).all()
            assert not rewards[length:, task, episode].any()
    assert min(lengths) < 25 < max(lengths)


def test_neither_workers_nor_chunks_nor_order_change_a_bit():
    settings = {"horizon": 8, **PENDULUM}
    env = tasks("Pendulum-v1", workers=1, **settings)
    latent = env.sample(7, "train", torch.arange(4), 2, 2).latent
    start, actions = noise(4, 3, 1), normal(8, 4, 3, 1)
    whole = play(env, latent, actions, start)
    for other in (env, tasks("Pendulum-v1", workers=3, **settings)):
        parts = [play(other, latent, actions, start, chosen) for chosen in (slice(1, 4), slice(0, 1))]
        for number in range(3):
            assert torch.equal(torch.cat([parts[1][number], parts[0][number]], dim=1), whole[number])
        backwards = play(other, latent, actions, start, torch.tensor([3, 2, 1, 0]))
        assert all(torch.equal(backwards[number].flip(1), whole[number]) for number in range(3))


def test_tensors_come_to_the_device_of_the_noise(device):
    env, start, actions = tasks("Pendulum-v1", **PENDULUM), noise(2, 2, 1), normal(3, 2, 2, 1)
    latent = env.sample(0, "train", torch.arange(2, device=device), 2, 2).latent
    there = play(env, latent, actions.to(device), start.to(device))
    here = play(env, {name: value.cpu() for name, value in latent.items()}, actions, start)
    for got, wanted in zip(there, here, strict=True):
        assert got.device.type == device.type and torch.equal(got.cpu(), wanted)


def test_how_parameters_reach_an_environment():
    """By keyword and attribute: the stride. As an option of the reset: the bonus, which is seen. For the reward alone: the goal."""
    start, actions = noise(2, 2, 1), torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    for how in ("keyword", "attribute"):
        env = counter(parameters=[{"name": "stride", "uniform": [2.0, 3.0]}], set=how)
        for strides in ([2.0, 2.5], [2.5, 2.25]):  # the second makes environments anew
            seen, *_ = play(env, {"stride": torch.tensor(strides, dtype=torch.float64)}, actions, start)
            assert (seen[1] - seen[0])[..., 0].tolist() == [
                [pytest.approx(stride, abs=1e-12)] * 2 for stride in strides
            ]
    env = counter(parameters=[{"name": "bonus", "choice": [5.0, 7.0]}], set="reset_option")
    seen, *_ = play(env, {"bonus": torch.tensor([1, 0])}, actions, start)
    assert seen[0, ..., 1].tolist() == [[7.0, 7.0], [5.0, 5.0]]
    goal = functools.partial(classes.reward_of_goal)
    env = counter(
        parameters=[{"name": "goal", "choice": [1.0, -1.0]}], set="reward", reward=goal, keywords={"stride": 4.0}
    )
    _, rewards, _ = play(env, {"goal": torch.tensor([0, 1])}, torch.full_like(actions, 0.25), start)
    np.testing.assert_allclose(rewards[0], [[4.5, 4.5], [-3.5, -3.5]], atol=1e-12)


def test_a_choice_need_not_be_a_number():
    env = counter(parameters=[{"name": "color", "choice": ["red", "green"]}], set="keyword")
    latent = env.sample(0, "train", torch.arange(1000), 2, 2).latent
    assert set(latent["color"].tolist()) == {0, 1} and abs(int(latent["color"].sum()) - 500) < 4 * 250**0.5
    _, first = env.start({"color": torch.tensor([1, 0])}, noise(2, 2, 1))
    assert first[..., 2].tolist() == [[5.0, 5.0], [3.0, 3.0]]


def test_actions_are_scaled_and_clipped_and_choices_begin_where_the_environment_begins():
    start = noise(1, 1, 1)
    actions = torch.tensor([[[[0.25, 9.0]]], [[[-9.0, -0.5]]]], dtype=torch.float64)
    _, rewards, _ = play(counter(action_scale=0.5), {}, actions, start)
    assert rewards.flatten().tolist() == [1.125, -1.25]
    _, rewards, _ = play(tasks(classes.Switch, outputs=3), {}, torch.tensor([[[0]], [[2]]]), start)
    assert rewards.flatten().tolist() == [5.0, 7.0]


def test_seeds_are_drawn_evenly_from_the_noise():
    """A Counter begins at the first number of the generator that is seeded with noise times 2^31, rounded down."""
    start = torch.tensor([[[0.0], [0.5], [1 - 2.0**-53]]], dtype=torch.float64)
    _, first = counter().start({}, start)
    for episode, seed in enumerate((0, 2**30, 2**31 - 1)):
        assert float(first[0, episode, 0]) == gymnasium.utils.seeding.np_random(seed)[0].random()


def test_an_action_that_is_no_number_ends_its_own_episode_alone():
    env, actions = counter(), torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    clean = play(env, {}, actions, noise(1, 3, 1))
    actions[0, 0, 1, 1] = torch.nan
    seen, rewards, ends = play(env, {}, actions, noise(1, 3, 1))
    assert ends.tolist() == [[[False, True, False]]]
    assert torch.equal(seen[1, 0, 1], seen[0, 0, 1]) and rewards.isnan().tolist() == ends.tolist()
    assert torch.equal(seen[:, 0, ::2], clean[0][:, 0, ::2]) and torch.equal(rewards[:, 0, ::2], clean[1][:, 0, ::2])


BAD = f"{classes.__name__}.Bad"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", f"{BAD} gave an observation that is not finite in step 3 of an episode"),
        ("reward", f"{BAD} gave a reward of inf in step 3 of an episode"),
        ("shape", f"observations of {BAD} must have the shape of its space, (3,), got (2,) in step 3 of an episode"),
        ("raise", f"{BAD}.step(): ValueError: two lines"),
        ("exit", f"a worker process of {BAD} ended with status 3; its last words: I am tired"),
        ("kill", f"a worker process of {BAD} ended by SIGKILL; its last words: goodbye"),
    ],
)
def test_what_no_environment_may_do_is_one_line_and_the_next_start_is_clean(how, words):
    env = tasks(classes.Bad, keywords={"how": how}, workers=2)
    state, first = env.start({}, noise(1, 2, 1))
    for step in range(3):
        if step == 2:
            with pytest.raises(SimulationError) as raised:
                env.step({}, state, torch.zeros(1, 2, 2, dtype=torch.float64), nothing(1, 2))
            assert str(raised.value) == words
        else:
            state = env.step({}, state, torch.zeros(1, 2, 2, dtype=torch.float64), nothing(1, 2)).state
    assert torch.equal(env.start({}, noise(1, 2, 1))[1], first)


def test_episodes_cannot_go_on_after_others_have_begun_in_their_place():
    env = counter()
    state, _ = env.start({}, noise(1, 2, 1))
    env.start({}, noise(1, 2, 1))
    with pytest.raises(RuntimeError, match="were stepped after others had been started in their place"):
        env.step({}, state, torch.zeros(1, 2, 2, dtype=torch.float64), nothing(1, 2))


def varying(name, **drawn):
    return {"parameters": [{"name": name} | drawn]}


@pytest.mark.parametrize(
    ("environment", "settings", "words"),
    [
        ("NoSuchThing-v0", {}, "Gymnasium knows no environment 'NoSuchThing-v0': "),
        ("Pendulum-v99", {}, "Gymnasium knows no environment 'Pendulum-v99': "),
        ("os:Thing-v0", {}, "environment must be an id alone, got 'os:Thing-v0', which imports a module: write "),
        (3, {}, "environment must be an id, or a _target_ with _partial_: true, got an object of int"),
        (classes.Unmade, {}, f"{classes.__name__}.Unmade could not be made: RuntimeError: no licence"),
        (classes.Counter, {"keywords": {"size": 3}}, "Counter could not be made: TypeError: "),
        (classes.Listener, {}, "observations of tests.tasks.environments.gymnasium_classes.Listener must be a Box, got "),
        (classes.Dialler, {}, ".Dialler must be a Box or Discrete, got MultiBinary(3)"),
        (classes.Counter, {"shape": (4,)}, "have the shape [3], and the policy is made for [4]. Set dataset.input_shape=[3]."),
        (classes.Counter, {"outputs": 2}, "must have 4 outputs, got 2. Set dataset.output_size=4."),
        (classes.Counter, {"set": "magic"}, "set must be one of keyword, attribute, reset_option, reward, got 'magic'"),
        (classes.Counter, {"set": "reward"}, "set=reward needs a reward that takes the parameters. Set dataset.source.reward."),
        (classes.Counter, {"reward": 3}, "reward must be null or a _target_ with _partial_: true, got 3"),
        (classes.Counter, {"workers": 0}, "workers must be an integer >= 1, got 0"),
        (classes.Counter, {"horizon": 0}, "horizon must be an integer >= 1, got 0"),
        (classes.Counter, varying("stride", normal=[0, 1]), "each of parameters must be {name: NAME, uniform: [low, high]} or "),
        (classes.Counter, varying("stride", uniform=[2, 1]), "must be [low, high] with low <= high, got [2, 1]"),
        (classes.Counter, varying("stride", choice=[]), "the choice of parameter stride must be a list of values, got []"),
        (classes.Counter, varying("query", choice=[1]), "no parameter may be called query"),
        (classes.Counter, {"parameters": [{"name": "limit", "choice": [1]}] * 2}, "must have different names, got limit, limit"),
        (lambda: None, {}, "must be a class or function that another process can import"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(environment, settings, words):
    with pytest.raises(ValueError) as raised:
        tasks(environment, **settings)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_an_attribute_that_is_not_there_is_one_line():
    env = counter(parameters=[{"name": "weight", "uniform": [0.0, 1.0]}])
    with pytest.raises(SimulationError, match=r"\.Counter\.weight cannot be set: AttributeError: "):
        env.start(env.sample(0, "train", torch.arange(2), 2, 2).latent, noise(2, 2, 1))


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as raised:
        counter()
    assert str(raised.value) == "dataset=gymnasium needs Gymnasium: pip install 'metarun[gymnasium]'"


@pytest.mark.parametrize("ending", ["kill", "return"])
def test_workers_end_with_the_process_that_started_them(ending):
    program = textwrap.dedent(
        """
        import time
        from tests.tasks.environments.test_gymnasium_tasks import counter, noise
        from metarun.tasks.environments import gymnasium_workers
        counter(workers=2).start({}, noise(1, 2, 1))
        (workers,) = gymnasium_workers._OPEN.values()
        print(*(each._process.pid for each in workers._processes), flush=True)
        """
    )
    program += "time.sleep(60)\n" if ending == "kill" else ""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    if ending == "kill":
        assert all(_is_running(pid) for pid in children)
        parent.send_signal(signal.SIGKILL)
    parent.wait(20)
    parent.stdout.close()
    limit = time.monotonic() + 10
    while any(_is_running(pid) for pid in children) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in children)


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
