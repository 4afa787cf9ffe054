"""A point in the plane that is to go to a goal it does not see (Finn et al. 2017, section 5.3)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun import checks, rng
from metarun.tasks.curves import check_interval, scaled
from metarun.tasks.environments.base import Continuous, EpisodeTasks, Transition, episode_keys
from metarun.tasks.types import Split, TaskBatch


@dataclass(frozen=True, kw_only=True)
class Navigation2D(EpisodeTasks):
    """Tasks are goals in a square. A policy sees where the point is and says where to go; the reward is minus the distance.

    The point starts at 0. Actions are clipped to +-`max_step`. An episode is over when the point is within `reached` of the goal in
    both coordinates.

    Attributes:
        goals: (low, high) of each coordinate of a goal.
        horizon: steps of an episode.
        max_step: of each coordinate, > 0.
        action_scale: actions are multiplied by it before they are clipped. Finn's code maps [-1, 1] to [-0.1, 0.1] (0.1);
            pytorch-maml-rl does not scale (1), so that a policy of deviation 1 at the start mostly saturates.
        reached: > 0; in units of the plane.
    Source: Finn et al. 2017, section 5.3; goals in [-1/2, 1/2]^2, start 0, horizon 100, actions within 0.1, done within 0.01. The
        paper prints minus the squared distance; its numbers and both codes are of minus the distance.
    """

    goals: tuple[float, float]
    horizon: int
    max_step: float
    action_scale: float
    reached: float

    def __post_init__(self) -> None:
        check_interval("goals", self.goals)
        checks.integer("horizon", self.horizon, minimum=1)
        for name in ("max_step", "action_scale", "reached"):
            checks.number(name, getattr(self, name), minimum=0, exclusive=True)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Where the point is."""
        return (2,)

    @property
    def actions(self) -> Continuous:
        """Where to go."""
        return Continuous(2)

    @property
    def start_noise(self) -> int:
        """Every episode starts at 0."""
        return 0

    @property
    def step_noise(self) -> int:
        """The plane is smooth."""
        return 0

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` of `split`: `goal` [B, 2], float64, and the keys of their episodes."""
        goals = scaled(rng.uniform(rng.key(seed, "navigation2d", split), indices, 2), self.goals)
        return TaskBatch(
            None, None, {"goal": goals} | episode_keys(seed, "navigation2d", split, indices, shots, queries)
        )

    def start(self, latent: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """At 0."""
        place = noise.new_zeros(*noise.shape[:2], 2)
        return place, place

    def step(self, latent: dict[str, Tensor], state: Any, actions: Tensor, noise: Tensor) -> Transition:
        """The point moves, and is rewarded for where it comes to."""
        place = state + (self.action_scale * actions.to(state)).clamp(-self.max_step, self.max_step)
        away = place - latent["goal"].to(state)[:, None]
        is_over = (away.abs() < self.reached).all(-1)
        return Transition(place, place, -torch.linalg.vector_norm(away, dim=-1), is_over)
