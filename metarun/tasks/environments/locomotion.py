"""Robots of MuJoCo that are to run in a direction, or at a velocity, that they are not told (Finn et al. 2017, section 5.3)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarun import checks, rng
from metarun.tasks.curves import check_interval, normal, scaled
from metarun.tasks.environments.base import Continuous, EpisodeTasks, Transition, episode_keys
from metarun.tasks.environments.mujoco_rollout import Simulator, check_installed, simulator
from metarun.tasks.types import Split, TaskBatch


class Robot(Protocol):
    """What a model of MuJoCo's is to the tasks. Its states are full physics states [..., n]: time, positions, velocities.

    Attributes:
        name: in the names of data sets.
        model: name of the file in Gymnasium's package.
        num_positions, num_velocities, num_actions: of the model.
        observation_size: numbers in an observation.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def num_positions(self) -> int: ...  # noqa: D102

    @property
    def num_velocities(self) -> int: ...  # noqa: D102

    @property
    def num_actions(self) -> int: ...  # noqa: D102

    @property
    def observation_size(self) -> int: ...  # noqa: D102

    def observations(self, states: np.ndarray) -> np.ndarray:
        """[..., observation_size]."""
        ...

    def velocity(self, before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
        """Forward, in metres a second, in the step from `before` to `after`."""
        ...

    def has_fallen(self, states: np.ndarray) -> np.ndarray:
        """Whether an episode is over: bool [...]."""
        ...


@dataclass(frozen=True)
class Bodies:
    """States of all episodes: MuJoCo's [B, E, n], float64, and whether each episode is over, bool [B, E]."""

    physics: np.ndarray
    is_over: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Locomotion(EpisodeTasks):
    """Tasks are directions or velocities of a robot. Reward: how fast it runs that way, or how near to that velocity, less a cost.

    Direction d: `d v + alive_reward - control_cost |a|^2`; velocity g: `-|v - g| + alive_reward - control_cost |a|^2`. a is what
    the motors get: actions times `action_scale`, clipped to [-1, 1]. Episodes that are over are stepped no further. One whose
    simulation gets unstable is over, with the last observation that there was; others are not touched by it.

    Attributes:
        robot: `HalfCheetah` or `Ant`.
        velocities: (low, high) of the velocity of a task, in metres a second; None: tasks are directions, forward (1) for those of
            even index and backward (-1) for the others, so that any even number of consecutive tasks is balanced.
        horizon: steps of an episode.
        frame_skip: timesteps of the model in one step; of 0.01 s.
        action_scale: 0.1 in ProMP, garage and pytorch-maml-rl, whose environments divide actions by 10: a policy of deviation 1
            moves the motors by a tenth. 1 in Finn's code.
        control_cost: weight of the squared controls.
        alive_reward: added in each step.
        position_noise: each position at the start is the model's, plus a uniform number of [-position_noise, position_noise).
        velocity_noise: deviation of each velocity at the start, which is normal.
        threads: of the simulation; None: as many as PyTorch's. Changes no number.
    """

    robot: Robot
    velocities: tuple[float, float] | None
    horizon: int
    frame_skip: int
    action_scale: float
    control_cost: float
    alive_reward: float
    position_noise: float
    velocity_noise: float
    threads: int | None

    def __post_init__(self) -> None:
        if self.velocities is not None:
            check_interval("velocities", self.velocities)
        for name in ("horizon", "frame_skip"):
            checks.integer(name, getattr(self, name), minimum=1)
        checks.number("action_scale", self.action_scale, minimum=0, exclusive=True)
        for name in ("control_cost", "alive_reward", "position_noise", "velocity_noise"):
            checks.number(name, getattr(self, name), minimum=0)
        if self.threads is not None:
            checks.integer("threads", self.threads, minimum=1)
        check_installed(self._name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What the robot feels."""
        return (self.robot.observation_size,)

    @property
    def actions(self) -> Continuous:
        """One for each motor."""
        return Continuous(self.robot.num_actions)

    @property
    def start_noise(self) -> int:
        """One number for each position and velocity."""
        return self.robot.num_positions + self.robot.num_velocities

    @property
    def step_noise(self) -> int:
        """Physics draws nothing."""
        return 0

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` of `split`: `direction` or `velocity` [B], float64, and the keys of their episodes."""
        if self.velocities is None:
            latent = {"direction": 1.0 - 2.0 * (indices % 2).to(torch.float64)}
        else:
            unit = rng.uniform(rng.key(seed, self._name, split), indices, 1)[:, 0]
            latent = {"velocity": scaled(unit, self.velocities)}
        return TaskBatch(None, None, latent | episode_keys(seed, self._name, split, indices, shots, queries))

    def start(self, latent: dict[str, Tensor], noise: Tensor) -> tuple[Bodies, Tensor]:
        """Near the model's own pose, almost at rest, as Gymnasium starts its robots."""
        engine = self._simulator()
        unit = noise.to("cpu", torch.float64).flatten(0, 1)
        around, about = unit.split([self.robot.num_positions, self.robot.num_velocities], dim=1)
        positions = engine.model.qpos0 + scaled(around, (-self.position_noise, self.position_noise)).numpy()
        velocities = (self.velocity_noise * normal(about)).numpy()
        episodes = tuple(noise.shape[:2])
        physics = engine.states(positions, velocities).reshape(*episodes, -1)
        return Bodies(physics, np.zeros(episodes, dtype=bool)), _tensor(self.robot.observations(physics), noise)

    def step(self, latent: dict[str, Tensor], state: Bodies, actions: Tensor, noise: Tensor) -> Transition:
        """The motors pull for `frame_skip` timesteps. An action that is no number ends its episode with a reward that is none."""
        # In NumPy: PyTorch's threads wait for their next work by spinning, and would take the cores from the simulation's.
        engine = self._simulator()
        drawn = actions.detach().to("cpu", torch.float64).numpy()
        controls = np.clip(self.action_scale * drawn, -1.0, 1.0)
        is_moved = ~state.is_over & np.isfinite(controls).all(-1)
        moved, is_broken = engine.step(state.physics[is_moved], controls[is_moved], self.frame_skip)
        physics, is_over = state.physics.copy(), np.ones_like(state.is_over)
        physics[is_moved], is_over[is_moved] = moved, is_broken
        is_over |= self.robot.has_fallen(physics)
        velocity = self.robot.velocity(state.physics, physics, self.frame_skip * engine.model.opt.timestep)
        cost = self.control_cost * np.square(controls).sum(-1)
        rewards = self._forward_reward(latent, velocity) + self.alive_reward - cost
        return Transition(
            Bodies(physics, is_over),
            _tensor(self.robot.observations(physics), noise),
            _tensor(rewards, noise),
            _tensor(is_over, noise),
        )

    def _forward_reward(self, latent: dict[str, Tensor], velocity: np.ndarray) -> np.ndarray:
        if self.velocities is None:
            return latent["direction"].cpu().numpy()[:, None] * velocity
        return -np.abs(velocity - latent["velocity"].cpu().numpy()[:, None])

    def _simulator(self) -> Simulator:
        return simulator(self.robot.model, self.threads or torch.get_num_threads())

    @property
    def _name(self) -> str:
        return f"{self.robot.name}_{'direction' if self.velocities is None else 'velocity'}"


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """On the device of `like`."""
    return torch.from_numpy(array).to(like.device)
