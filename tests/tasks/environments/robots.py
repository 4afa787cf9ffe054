"""Robots and settings that the tests of locomotion share."""

import torch

from metarun.tasks.environments.ant import Ant
from metarun.tasks.environments.half_cheetah import HalfCheetah
from metarun.tasks.environments.locomotion import Locomotion

CHEETAH, ANT = HalfCheetah(centre_of_mass=False), Ant(healthy=(0.2, 1.0))
ROBOTS = [CHEETAH, ANT]
COSTS = {"halfcheetah": (0.05, 0.0), "ant": (0.005, 0.05)}


def running(robot, **settings):
    control_cost, alive_reward = COSTS[robot.name]
    given = {
        "velocities": None, "horizon": 100, "frame_skip": 5, "action_scale": 1.0, "control_cost": control_cost,
        "alive_reward": alive_reward, "position_noise": 0.1, "velocity_noise": 0.1, "threads": 1,
    }  # fmt: skip
    return Locomotion(robot=robot, **(given | settings))


def noise(tasks, episodes, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, episodes, size, generator=generator, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nothing(tasks, episodes):
    return torch.zeros(tasks, episodes, 0, dtype=torch.float64)
