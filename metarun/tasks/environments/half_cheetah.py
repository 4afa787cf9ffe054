"""MuJoCo's half-cheetah: a planar animal of a torso and two legs, with six motors."""

import functools
from dataclasses import dataclass

import numpy as np

from metarun.tasks.environments.mujoco_rollout import model


@dataclass(frozen=True, kw_only=True)
class HalfCheetah:
    """Gymnasium's model. An observation is all positions but the first (how far it has run) and all velocities: 17 numbers.

    It never falls, so episodes have full length.

    Attributes:
        centre_of_mass: observations end with the centre of mass of the whole animal (x, y, z), and the velocity is the velocity of
            that at the end of a step, as in rllab, which Finn et al. (2017) used: 20 numbers. False: the velocity is how far the
            torso has come in a step over the time of a step, as in Gymnasium.
    """

    centre_of_mass: bool

    @property
    def name(self) -> str:
        """In the names of data sets."""
        return "halfcheetah"

    @property
    def model(self) -> str:
        """In Gymnasium's package."""
        return "half_cheetah"

    @property
    def num_positions(self) -> int:
        """Torso: x, z, angle. Thigh, shin, foot of the hind leg, and of the fore leg: angles."""
        return 9

    @property
    def num_velocities(self) -> int:
        """Of the same."""
        return 9

    @property
    def num_actions(self) -> int:
        """Torques of the six joints."""
        return 6

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return 20 if self.centre_of_mass else 17

    def observations(self, states: np.ndarray) -> np.ndarray:
        """All but time and x, and the centre of mass."""
        joints = states[..., 2:19]
        if not self.centre_of_mass:
            return joints
        place, _ = centre_of_mass(states)
        return np.concatenate([joints, place[..., :1], np.zeros_like(place[..., :1]), place[..., 1:]], axis=-1)

    def velocity(self, before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
        """Forward."""
        if self.centre_of_mass:
            return centre_of_mass(after)[1][..., 0]
        return (after[..., 1] - before[..., 1]) / seconds

    def has_fallen(self, states: np.ndarray) -> np.ndarray:
        """Never."""
        return np.zeros(states.shape[:-1], dtype=bool)


def centre_of_mass(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the animal, in the plane (x, z): place [..., 2] and velocity [..., 2], of states [..., n].

    A chain of bodies that turn about y: c = c_0 + (x, z) + sum_j R(angle_j) lever_j, where angle_j is the sum of the joints from
    the torso to body j. MuJoCo's loop over states hands back nothing that is not a state.
    """
    origin, levers, is_above = _chain()
    place, speed = states[..., 1:3], states[..., 10:12]
    angles, turning = states[..., 3:10] @ is_above.T, states[..., 12:19] @ is_above.T
    cos, sin = np.cos(angles), np.sin(angles)
    along, up = levers.T
    arms = np.stack([cos * along + sin * up, cos * up - sin * along], axis=-1)
    turned = np.stack([arms[..., 1], -arms[..., 0]], axis=-1)  # by a quarter: its change with the angle
    return origin + place + arms.sum(-2), speed + (turning[..., None] * turned).sum(-2)


@functools.cache
def _chain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the torso stands; the lever of each body in its own axes, [7, 2]; which joints turn each body, [7, 7].

    A body's lever is its own centre of mass by its mass, and the places of the bodies that hang on it by the masses of theirs.
    """
    cheetah = model("half_cheetah")
    parents = cheetah.body_parentid[1:] - 1  # without the world; the torso's is -1
    number, plane = len(parents), [0, 2]
    is_above = np.eye(number)
    for body in range(1, number):  # MuJoCo numbers bodies from the root
        is_above[body] += is_above[parents[body]]
    masses = cheetah.body_mass[1:]
    levers = masses[:, None] * cheetah.body_ipos[1:, plane]
    hanging = is_above.T @ masses  # of a body and all that hangs on it
    for body in range(1, number):
        levers[parents[body]] += hanging[body] * cheetah.body_pos[1 + body, plane]
    return cheetah.body_pos[1, plane], levers / masses.sum(), is_above
