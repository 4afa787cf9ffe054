"""MuJoCo's ant: a ball on four legs of two joints each."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ant:
    """Gymnasium's model. An observation is all positions but the first two, which say where it is, and all velocities: 27 numbers.

    The cost of contact of the first codes is left out: MuJoCo's loop over states returns no forces, and under Gym with MuJoCo 2,
    whose `cfrc_ext` was zero (gym#1541), nobody paid it. The velocity is how far the torso has come in a step over the time of a
    step. Gymnasium's `x_velocity` takes the torso's place from within the last timestep, and so is a little behind.

    Attributes:
        healthy: (low, high) of the height of the torso; outside an episode is over.
    """

    healthy: tuple[float, float]

    def __post_init__(self) -> None:
        if not self.healthy[0] < self.healthy[1]:
            raise ValueError(f"healthy must be [low, high] with low < high, got {list(self.healthy)}")

    @property
    def name(self) -> str:
        """In the names of data sets."""
        return "ant"

    @property
    def model(self) -> str:
        """In Gymnasium's package."""
        return "ant"

    @property
    def num_positions(self) -> int:
        """Torso: x, y, z and a quaternion. Eight angles."""
        return 15

    @property
    def num_velocities(self) -> int:
        """Of the torso: three and three. Of eight angles."""
        return 14

    @property
    def num_actions(self) -> int:
        """Torques of the eight joints."""
        return 8

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return 27

    def observations(self, states: np.ndarray) -> np.ndarray:
        """All but time, x and y."""
        return states[..., 3:30]

    def velocity(self, before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
        """Forward."""
        return (after[..., 1] - before[..., 1]) / seconds

    def has_fallen(self, states: np.ndarray) -> np.ndarray:
        """Whether the torso is too low or too high."""
        low, high = self.healthy
        height = states[..., 3]
        return (height < low) | (height > high)
