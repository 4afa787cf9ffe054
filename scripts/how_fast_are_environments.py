"""How many steps a second do environments take, beside Gymnasium's vector environments and a plain loop?

    pip install 'metarun[mujoco]'
    python scripts/how_fast_are_environments.py [--threads 2] [--repeats 5]

All take the same actions from the same starts, drawn ahead, and must agree on the observations (to 1e-12 in the plane; of the
half-cheetah, whose simulation is chaotic, to 1e-8 after 5 steps) before they are timed. Everything is timed in turn, repeatedly;
the medians are printed with metarun's ratio to each. A vector environment of processes has one process for each environment, so
it holds fewer: more of them are slower still.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from metarun.tasks.environments.base import Environment
from metarun.tasks.environments.half_cheetah import HalfCheetah
from metarun.tasks.environments.locomotion import Locomotion
from metarun.tasks.environments.navigation2d import Navigation2D

TASKS, EPISODES = 40, 20
PROCESSES = 20
NAVIGATION_STEPS, CHEETAH_STEPS = 100, 20


class Point(gymnasium.Env):
    """The point of 2-D navigation, one episode in NumPy, as pytorch-maml-rl has it. Its goal is never within reach."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float64)

    def __init__(self) -> None:
        self._goal, self._place = np.array([9.0, 9.0]), np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """At 0."""
        self._place = np.zeros(2)
        return self._place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The point moves."""
        self._place = self._place + np.clip(action, -0.1, 0.1)
        x, y = self._place - self._goal
        return self._place, -np.sqrt(x**2 + y**2), bool(abs(x) < 0.01 and abs(y) < 0.01), False, {}


def cheetah() -> gymnasium.Env:
    """Gymnasium's, from the model's own pose, not cut off."""
    return gymnasium.make("HalfCheetah-v5", reset_noise_scale=0.0, max_episode_steps=-1, ctrl_cost_weight=0.05)


Run = Callable[[], np.ndarray]
"""All steps of all episodes; the last observations, [episodes, size]."""


def ours(environment: Environment, latent: dict[str, torch.Tensor], actions: np.ndarray) -> Run:
    """All episodes side by side; actions [steps, tasks * episodes, size]."""
    steps = torch.from_numpy(actions).unflatten(1, (TASKS, EPISODES))
    noise = torch.full((TASKS, EPISODES, environment.start_noise), 0.5, dtype=torch.float64)  # no noise: the middle
    nothing = torch.zeros(TASKS, EPISODES, 0, dtype=torch.float64)

    def run() -> np.ndarray:
        state, observations = environment.start(latent, noise)
        for action in steps:
            transition = environment.step(latent, state, action, nothing)
            state, observations = transition.state, transition.observations
        return observations.flatten(0, 1).numpy()

    return run


def vector(environment: gymnasium.vector.VectorEnv, actions: np.ndarray) -> Run:
    """A vector environment, with the actions of as many episodes as it holds."""
    steps = actions[:, : environment.num_envs].astype(environment.action_space.dtype)

    def run() -> np.ndarray:
        observations, _ = environment.reset()
        for action in steps:
            observations, *_ = environment.step(action)
        return observations.copy()

    return run


def loop(environment: gymnasium.Env, actions: np.ndarray) -> Run:
    """One episode after another, step by step."""

    def run() -> np.ndarray:
        last = []
        for episode in range(actions.shape[1]):
            observation, _ = environment.reset()
            for action in actions[:, episode]:
                observation, *_ = environment.step(action)
            last.append(observation)
        return np.array(last)

    return run


def compare(title: str, steps: int, runs: dict[str, Run], is_timed: dict[str, Run], rtol: float, repeats: int) -> None:
    """Hold the runs against the first of them, then time all in turn and print steps a second."""
    first, *others = runs
    expected = runs[first]()
    for name in others:
        got = runs[name]()
        error = np.abs(got - expected[: len(got)]).max()
        if error > rtol:
            raise SystemExit(f"{name} comes to other observations: difference {error:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in is_timed}
    number = {name: steps * len(run()) for name, run in is_timed.items()}
    for _ in range(repeats):
        for name, run in is_timed.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    rates = {name: number[name] / statistics.median(seconds[name]) for name in is_timed}
    print(title)
    for name, rate in rates.items():
        print(f"  {name:<34} {rate:12,.0f} steps a second {rates[first] / rate:8.1f}")


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = np.random.default_rng(0)
    kept = AutoresetMode.DISABLED

    actions = generator.uniform(-0.2, 0.2, (NAVIGATION_STEPS, TASKS * EPISODES, 2))
    navigation = Navigation2D(goals=(-0.5, 0.5), horizon=NAVIGATION_STEPS, max_step=0.1, action_scale=1.0, reached=0.01)
    goals = {"goal": torch.full((TASKS, 2), 9.0, dtype=torch.float64)}
    processes = AsyncVectorEnv([Point] * PROCESSES, autoreset_mode=kept)
    runs = {
        "metarun, 800 episodes": ours(navigation, goals, actions),
        "plain loop": loop(Point(), actions),
        "SyncVectorEnv, 800 environments": vector(SyncVectorEnv([Point] * 800, autoreset_mode=kept), actions),
        f"AsyncVectorEnv, {PROCESSES} environments": vector(processes, actions),
    }
    compare("2-D navigation", NAVIGATION_STEPS, runs, runs, 1e-12, arguments.repeats)
    processes.close()

    actions = generator.uniform(-1.0, 1.0, (CHEETAH_STEPS, TASKS * EPISODES, 6)).astype(np.float32).astype(np.float64)
    running = Locomotion(
        robot=HalfCheetah(centre_of_mass=False), velocities=None, horizon=CHEETAH_STEPS, frame_skip=5, action_scale=1.0,
        control_cost=0.05, alive_reward=0.0, position_noise=0.1, velocity_noise=0.1, threads=arguments.threads,
    )  # fmt: skip
    directions = {"direction": torch.ones(TASKS, dtype=torch.float64)}
    processes = AsyncVectorEnv([cheetah] * PROCESSES, autoreset_mode=kept)
    alone = SyncVectorEnv([cheetah] * PROCESSES, autoreset_mode=kept)

    def all_runs(steps: np.ndarray) -> dict[str, Run]:
        return {
            "metarun, 800 episodes": ours(running, directions, steps),
            f"AsyncVectorEnv, {PROCESSES} environments": vector(processes, steps),
            f"SyncVectorEnv, {PROCESSES} environments": vector(alone, steps),
        }

    title = f"half-cheetah, {arguments.threads} threads"
    compare(title, CHEETAH_STEPS, all_runs(actions[:5]), all_runs(actions), 1e-8, arguments.repeats)
    processes.close()


if __name__ == "__main__":
    main()
