"""MuJoCo's own loop over many states at once, in threads: what it needs, and how a step that went wrong is told."""

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from metarun.errors import ConfigurationError


def check_installed(dataset: str) -> None:
    """Raise `ConfigurationError` unless MuJoCo is installed, and Gymnasium, whose package holds the robots' models."""
    if not all(importlib.util.find_spec(package) for package in ("mujoco", "gymnasium")):
        raise ConfigurationError(f"dataset={dataset} needs MuJoCo: pip install 'metarun[mujoco]'")


def mujoco_package() -> Any:
    """The package, which says nothing of its types."""
    import mujoco

    return mujoco


@functools.cache
def model(name: str) -> Any:
    """Gymnasium's model of a robot, such as `half_cheetah`, an `MjModel`: read from its package, compiled once in a process."""
    mujoco = mujoco_package()
    spec = importlib.util.find_spec("gymnasium")  # the package itself takes half a second to import
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the model of {name} lies in the package gymnasium, which is not installed")
    file = Path(spec.origin).parent / "envs" / "mujoco" / "assets" / f"{name}.xml"
    description = mujoco.MjSpec.from_file(str(file))
    mass, description.compiler.settotalmass = description.compiler.settotalmass, -1
    compiled = description.compile()
    if mass > 0:  # as the compiler would do, which from 3.17 on warns for each model that it is asked to
        mujoco.mj_setTotalmass(compiled, mass)
        mujoco.mj_setConst(compiled, mujoco.MjData(compiled))
    return compiled


class Simulator:
    """One model and a pool of threads. A state is MuJoCo's full physics state: time, positions, velocities.

    Each step's solver starts from nothing, where MuJoCo's own loop starts from the last step's solution: so what a state leads to
    depends on that state alone, and differs from the loop's by rounding.
    """

    def __init__(self, name: str, threads: int) -> None:
        from mujoco.rollout import Rollout

        mujoco = mujoco_package()
        self.model = model(name)
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        self._rollout = Rollout(nthread=threads if threads > 1 else 0)
        self._state_size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)

    def states(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """States at time 0, [N, n], of positions [N, nq] and velocities [N, nv]."""
        states = np.zeros((len(positions), self._state_size))
        end = 1 + positions.shape[1]
        states[:, 1:end], states[:, end : end + velocities.shape[1]] = positions, velocities
        return states

    def step(self, states: np.ndarray, controls: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """All states `frames` of the model's timesteps further under the same controls.

        MuJoCo answers an unstable simulation by a warning, and begins again from the model's own pose; its loop then stops. Such a
        state, which its clock gives away, is handed back as it was.

        Args:
            states: [N, n].
            controls: [N, nu], finite.
            frames: >= 1.
        Returns:
            The states, and whether each could not be stepped, bool [N].
        """
        if len(states) == 0:
            return states, np.zeros(0, dtype=bool)
        path = np.empty((len(states), frames, states.shape[1]))
        self._rollout.rollout(self.model, self._data, states, controls[:, None], nstep=frames, state=path)
        after = path[:, -1]
        timestep = self.model.opt.timestep
        is_on_time = np.abs(after[:, 0] - states[:, 0] - frames * timestep) < timestep / 2
        is_broken = ~(is_on_time & np.isfinite(after).all(1))
        return np.where(is_broken[:, None], states, after), is_broken


def simulator(name: str, threads: int) -> Simulator:
    """The simulator of this process for a model and a number of threads; they hold nothing between calls."""
    return _simulator(name, threads, os.getpid())  # threads do not survive a fork


@functools.cache
def _simulator(name: str, threads: int, process: int) -> Simulator:
    return Simulator(name, threads)
