"""Small environments, good and bad, for the tests of Gymnasium's tasks; worker processes import this file."""

import math
import os
import signal
import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary


class Counter(gymnasium.Env):
    """Counts by `stride` from a number between 0 and 1; over when past `limit`. It shows what reached it."""

    action_space = Box(-1.0, 1.0, (2, 1), np.float32)
    observation_space = Box(-np.inf, np.inf, (3,), np.float64)

    def __init__(self, stride=1.0, limit=100.0, color="none"):
        self.stride, self.limit, self.color = stride, limit, color
        self.count = self.bonus = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = float(self.np_random.random())
        self.bonus = (options or {}).get("bonus", 0.0)
        return self._seen(), {}

    def step(self, action):
        assert action.shape == (2, 1) and action.dtype == np.float32
        self.count += self.stride
        return self._seen(), float(action.sum()), self.count > self.limit, False, {"color": self.color}

    def _seen(self):
        return np.array([self.count, self.bonus, len(self.color)])


def reward_of_goal(parameters, before, action, after, own, info):
    assert info["color"] == "none"
    return parameters["goal"] * (after[0] - before[0]) + own


class Bad(Counter):
    """Misbehaves in its third step."""

    def __init__(self, how):
        super().__init__()
        self.how, self.steps = how, 0

    def step(self, action):
        self.steps += 1
        seen, reward, is_over, is_cut, info = super().step(action)
        if self.steps == 3:
            if self.how == "nan":
                seen[1] = math.nan
            elif self.how == "reward":
                reward = math.inf
            elif self.how == "shape":
                seen = seen[:2]
            elif self.how == "raise":
                raise ValueError("two\nlines")
            elif self.how == "exit":
                print("I am tired", file=sys.stderr)
                os._exit(3)
            elif self.how == "kill":
                print("goodbye", flush=True)  # standard output is no part of the protocol
                os.kill(os.getpid(), signal.SIGKILL)
        return seen, reward, is_over, is_cut, info


class Listener(Counter):
    observation_space = MultiBinary(3)


class Dialler(Counter):
    action_space = MultiBinary(3)


class Switch(Counter):
    """Choices from 5 on; the reward is the choice."""

    action_space = Discrete(3, start=5)

    def step(self, action):
        self.count += 1
        return self._seen(), float(action), False, False, {}


class Unmade(Counter):
    def __init__(self):
        raise RuntimeError("no licence")
