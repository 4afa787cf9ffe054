"""metarun.tasks.environments.locomotion: steps are Gymnasium's, rewards the tasks', and nothing depends on its company."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metarun.errors import ConfigurationError
from metarun.tasks.environments import mujoco_rollout
from metarun.tasks.environments.base import Continuous

from .robots import ANT, CHEETAH, COSTS, ROBOTS, noise, normal, nothing, running

gymnasium = pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'metarun[mujoco]'")
mujoco = pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'metarun[mujoco]'")
ROOT = Path(__file__).resolve().parents[3]
GYMNASIUM = {
    "halfcheetah": ("HalfCheetah-v5", {"ctrl_cost_weight": COSTS["halfcheetah"][0]}),
    "ant": ("Ant-v5", {"ctrl_cost_weight": COSTS["ant"][0], "include_cfrc_ext_in_observation": False}),
}


@pytest.fixture(autouse=True)
def logs_lie_elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes what it warns of into the working folder."""
    monkeypatch.chdir(tmp_path)


def plain(robot, frame_skip=5):
    name, keywords = GYMNASIUM[robot.name]
    return gymnasium.make(name, frame_skip=frame_skip, **keywords).unwrapped


def put(env, state):
    """Gymnasium's robot into a full physics state, its solver as after a reset of MuJoCo's data."""
    mujoco.mj_resetData(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)


@pytest.mark.parametrize("robot", ROBOTS, ids=["cheetah", "ant"])
def test_a_step_from_a_state_is_gymnasiums(robot):
    """In two tasks of directions and two of velocities: 20 consecutive steps of 2 episodes, each from the state that we are in.

    Actions of deviation 1 are clipped in a third of cases; Gymnasium, whose control cost does not clip, is given them clipped.
    """
    plain_robot, compared = plain(robot), 0
    for settings, latent in (
        ({}, {"direction": torch.tensor([1.0, -1.0], dtype=torch.float64)}),
        ({"velocities": (0.0, 2.0)}, {"velocity": torch.tensor([0.25, 1.5], dtype=torch.float64)}),
    ):
        env = running(robot, **settings)
        state, _ = env.start(latent, noise(2, 2, env.start_noise))
        for step in range(20):
            actions = normal(2, 2, robot.num_actions, seed=step)
            transition = env.step(latent, state, actions, nothing(2, 2))
            for task in range(2):
                for episode in np.flatnonzero(~state.is_over[task]):
                    put(plain_robot, state.physics[task, episode])
                    x = float(plain_robot.data.qpos[0])
                    observation, _, is_over, _, info = plain_robot.step(actions[task, episode].clamp(-1, 1).numpy())
                    np.testing.assert_allclose(transition.observations[task, episode], observation, rtol=0, atol=1e-10)
                    # The ant's own x_velocity is of a place within the last timestep.
                    velocity = info["x_velocity"] if robot is CHEETAH else (info["x_position"] - x) / plain_robot.dt
                    forward = (
                        latent["direction"][task] * velocity
                        if "direction" in latent
                        else -abs(velocity - latent["velocity"][task])
                    )
                    expected = forward + COSTS[robot.name][1] + info["reward_ctrl"]
                    assert float(transition.rewards[task, episode]) == pytest.approx(float(expected), abs=1e-10)
                    assert bool(transition.is_over[task, episode]) == is_over
                    compared += 1
            state = transition.state
    # Cheetahs run on; ants jump, some of them too high.
    assert compared == 160 if robot is CHEETAH else 100 < compared < 160


@pytest.mark.parametrize("robot", ROBOTS, ids=["cheetah", "ant"])
def test_an_episode_is_gymnasiums_for_as_long_as_rounding_lets_it(robot):
    """Gymnasium's solver starts from its last solution and ours from nothing: 15 steps on end agree to 1e-10."""
    env, plain_robot = running(robot, action_scale=0.1), plain(robot)
    latent = {"direction": torch.ones(1, dtype=torch.float64)}
    state, first = env.start(latent, noise(1, 1, env.start_noise))
    plain_robot.reset(seed=0)
    number = robot.num_positions
    physics = state.physics[0, 0]
    plain_robot.set_state(physics[1 : 1 + number], physics[1 + number :])
    np.testing.assert_array_equal(first[0, 0], plain_robot._get_obs())
    for step in range(15):
        actions = normal(1, 1, robot.num_actions, seed=step)
        transition = env.step(latent, state, actions, nothing(1, 1))
        observation, *_ = plain_robot.step(0.1 * actions[0, 0].numpy())
        np.testing.assert_allclose(transition.observations[0, 0], observation, rtol=0, atol=1e-10)
        state = transition.state


@pytest.mark.parametrize("robot", ROBOTS, ids=["cheetah", "ant"])
def test_noise_of_one_half_is_the_models_own_pose_at_rest(robot):
    env, plain_robot = running(robot), plain(robot)
    state, _ = env.start({}, torch.full((1, 1, env.start_noise), 0.5, dtype=torch.float64))
    own = np.concatenate([[0.0], plain_robot.init_qpos, plain_robot.init_qvel])
    np.testing.assert_allclose(state.physics[0, 0], own, rtol=0, atol=1e-15)


def test_the_start_is_uniform_in_positions_and_normal_in_velocities_as_gymnasiums():
    """At a quarter: -0.05 of the interval of 0.1 to both sides, and 0.1 times the quartile of a normal distribution, -0.67449."""
    env, plain_robot = running(CHEETAH), plain(CHEETAH)
    state, observation = env.start({}, torch.full((1, 1, 18), 0.25, dtype=torch.float64))
    np.testing.assert_allclose(state.physics[0, 0, 1:10], plain_robot.init_qpos - 0.05, atol=1e-12)
    np.testing.assert_allclose(state.physics[0, 0, 10:], -0.1 * 0.6744897501960817, atol=1e-12)
    np.testing.assert_array_equal(observation, state.physics[..., 2:])
    # Gymnasium's own starts have the moments of those distributions.
    starts = np.stack([plain_robot.reset(seed=seed)[0] for seed in range(400)])
    np.testing.assert_allclose(starts[:, :8].std(), 0.1 / math.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(starts[:, 8:].std(), 0.1, rtol=0.05)


def episode(env, latent, tasks, steps=12):
    """Observations and rewards [T, ...] of the tasks `tasks` of four, each of three episodes."""
    start, actions = noise(4, 3, env.start_noise), 2 * normal(steps, 4, 3, env.actions.size)
    chosen = {name: value[tasks] for name, value in latent.items()}
    state, first = env.start(chosen, start[tasks])
    observations, rewards = [first], []
    for action in actions:
        transition = env.step(chosen, state, action[tasks], nothing(len(first), 3))
        observations.append(transition.observations)
        rewards.append(transition.rewards)
        state = transition.state
    return torch.stack(observations), torch.stack(rewards)


@pytest.mark.parametrize("robot", ROBOTS, ids=["cheetah", "ant"])
def test_neither_chunks_nor_threads_nor_order_change_a_bit(robot):
    env = running(robot)
    latent = env.sample(0, "train", torch.arange(4), 2, 2).latent
    whole = episode(env, latent, slice(None))
    for other in (env, running(robot, threads=2), running(robot, threads=3)):
        parts = [episode(other, latent, tasks) for tasks in (slice(0, 1), slice(1, 4))]
        for number in range(2):
            assert torch.equal(torch.cat([part[number] for part in parts], dim=1), whole[number])
    backwards = episode(env, latent, torch.tensor([3, 2, 1, 0]))
    assert all(torch.equal(backwards[number].flip(1), whole[number]) for number in range(2))


def digest(robot):
    env = running(robot)
    observations, rewards = episode(env, env.sample(0, "train", torch.arange(4), 2, 2).latent, slice(None))
    return hashlib.sha256(observations.numpy().tobytes() + rewards.numpy().tobytes()).hexdigest()


def test_another_process_makes_the_same_episodes():
    program = (
        "from tests.tasks.environments.test_locomotion import digest, ANT, CHEETAH; print(digest(ANT), digest(CHEETAH))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [digest(ANT), digest(CHEETAH)], done.stderr


def test_the_action_scale_comes_before_the_clip_and_the_cost_is_of_what_the_motors_get():
    """Cost of (0.2, 3, 0, ...) at scale 0.5: 0.05 (0.1^2 + 1^2)."""
    env, free = running(CHEETAH, action_scale=0.5), running(CHEETAH, control_cost=0.0)
    latent = {"direction": torch.ones(1, dtype=torch.float64)}
    state, _ = env.start(latent, noise(1, 1, 18))
    drawn = torch.tensor([[[0.2, 3.0, 0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    pulled = torch.tensor([[[0.1, 1.0, 0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    one, other = env.step(latent, state, drawn, nothing(1, 1)), free.step(latent, state, pulled, nothing(1, 1))
    assert torch.equal(one.observations, other.observations)
    assert float(other.rewards - one.rewards) == pytest.approx(0.05 * 1.01, abs=1e-12)


def test_tasks_of_directions_alternate_and_velocities_are_uniform():
    env = running(CHEETAH)
    indices = torch.tensor([0, 1, 2, 7])
    assert env.sample(5, "train", indices, 2, 2).latent["direction"].tolist() == [1.0, -1.0, 1.0, -1.0]
    drawn = running(ANT, velocities=(1.0, 3.0)).sample(5, "val", torch.arange(20_000), 2, 2).latent["velocity"]
    assert float(drawn.min()) >= 1.0 and float(drawn.max()) < 3.0
    counts = torch.histc(drawn, 20, 1.0, 3.0)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 19 + 4 * 38**0.5  # four standard deviations of chi^2


def test_tensors_come_to_the_device_of_the_noise_with_the_same_bits(device):
    env, numbers, actions = running(CHEETAH), noise(2, 2, 18), normal(2, 2, 6)
    latent = env.sample(0, "train", torch.arange(2, device=device), 2, 2).latent
    state, first = env.start(latent, numbers.to(device))
    after = env.step(latent, state, actions.to(device), nothing(2, 2).to(device))
    here = {name: value.cpu() for name, value in latent.items()}
    expected = env.step(here, env.start(here, numbers)[0], actions, nothing(2, 2))
    for got, wanted in (
        (after.observations, expected.observations),
        (after.rewards, expected.rewards),
        (after.is_over, expected.is_over),
    ):
        assert got.device.type == first.device.type == device.type and torch.equal(got.cpu(), wanted)


def test_what_a_policy_is_told():
    for robot, size, motors in ((CHEETAH, 17, 6), (ANT, 27, 8)):
        env = running(robot)
        assert (env.input_shape, env.actions, env.output_size) == ((size,), Continuous(motors), 2 * motors)
        assert (env.start_noise, env.step_noise, env.horizon) == (robot.num_positions + robot.num_velocities, 0, 100)


def test_an_action_that_is_no_number_ends_its_own_episode_alone():
    env = running(CHEETAH)
    latent = {"direction": torch.ones(1, dtype=torch.float64)}
    state, first = env.start(latent, noise(1, 3, 18))
    actions = normal(1, 3, 6)
    clean = env.step(latent, state, actions, nothing(1, 3))
    actions[0, 1, 2] = math.nan
    dirty = env.step(latent, state, actions, nothing(1, 3))
    assert dirty.is_over.tolist() == [[False, True, False]]
    assert torch.equal(dirty.observations[0, 1], first[0, 1]) and dirty.rewards[0, 1].isnan()
    for episode in (0, 2):
        assert torch.equal(dirty.observations[0, episode], clean.observations[0, episode])
        assert torch.equal(dirty.rewards[0, episode], clean.rewards[0, episode])


def test_an_unstable_simulation_ends_its_own_episode_alone():
    """MuJoCo would begin again from its own pose, as if nothing had been."""
    env = running(CHEETAH)
    latent = {"direction": torch.ones(1, dtype=torch.float64)}
    state, _ = env.start(latent, noise(1, 2, 18))
    actions = normal(1, 2, 6)
    clean = env.step(latent, state, actions, nothing(1, 2))
    state.physics[0, 0, 12] = 1e12  # a speed that MuJoCo takes for unstable
    before = state.physics[0, 0].copy()
    broken = env.step(latent, state, actions, nothing(1, 2))
    assert broken.is_over.tolist() == [[True, False]]
    np.testing.assert_array_equal(broken.state.physics[0, 0], before)
    assert float(broken.rewards[0, 0]) == pytest.approx(-0.05 * float(actions[0, 0].clamp(-1, 1).square().sum()))
    assert torch.equal(broken.observations[0, 1], clean.observations[0, 1])
    again = env.step(latent, broken.state, actions, nothing(1, 2))  # it stays over, and is not simulated
    assert again.is_over.tolist() == [[True, False]]
    np.testing.assert_array_equal(again.state.physics[0, 0], before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"horizon": 0}, "horizon must be an integer >= 1, got 0"),
        ({"frame_skip": 0}, "frame_skip must be an integer >= 1, got 0"),
        ({"action_scale": 0.0}, "action_scale must be a number > 0, got 0.0"),
        ({"control_cost": -1.0}, "control_cost must be a number >= 0, got -1.0"),
        ({"position_noise": math.nan}, "position_noise must be a number >= 0, got nan"),
        ({"threads": 0}, "threads must be an integer >= 1, got 0"),
        ({"velocities": (2.0, 0.0)}, "velocities must be [low, high] with low <= high, got [2.0, 0.0]"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError) as raised:
        running(CHEETAH, **settings)
    assert words in str(raised.value)


@pytest.mark.parametrize("package", ["mujoco", "gymnasium"])
def test_a_missing_package_is_one_line(monkeypatch, package):
    found = mujoco_rollout.importlib.util.find_spec
    monkeypatch.setattr(
        mujoco_rollout.importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(ConfigurationError) as raised:
        running(CHEETAH)
    assert str(raised.value) == "dataset=halfcheetah_direction needs MuJoCo: pip install 'metarun[mujoco]'"
    with pytest.raises(ConfigurationError, match="dataset=ant_velocity needs MuJoCo"):
        running(ANT, velocities=(0.0, 3.0))
