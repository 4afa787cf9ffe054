"""metarun.tasks.environments.mujoco_frames: a frame is of its own state, or there is a reason why not."""

import numpy as np
import pytest

from metarun.tasks.environments.mujoco_frames import frames
from metarun.tasks.environments.mujoco_rollout import simulator

pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'metarun[mujoco]'")
pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'metarun[mujoco]'")


@pytest.mark.parametrize("name", ["half_cheetah", "ant"])
def test_a_frame_shows_its_own_state_alone(name):
    robot = simulator(name, 1)
    positions = np.stack([robot.model.qpos0] * 3)
    positions[1, 0] += 0.5  # forward: the floor moves, and the robot does not
    states = robot.states(positions, np.zeros((3, robot.model.nv)))
    drawn = frames(name, states, 64, 48)
    if isinstance(drawn, str):
        pytest.skip(drawn)
    assert (drawn.shape, drawn.dtype) == ((3, 48, 64, 3), np.uint8)
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(frames(name, states[1:2], 64, 48)[0], drawn[1])


def test_where_nothing_draws_one_line_says_why(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "paper")
    said = frames("half_cheetah", simulator("half_cheetah", 1).states(np.zeros((1, 9)), np.zeros((1, 9))), 64, 48)
    assert isinstance(said, str) and "\n" not in said
    assert said.startswith(
        "MuJoCo cannot draw here (paper: RuntimeError: invalid value for environment variable MUJOCO_GL"
    )
    assert said.endswith("Install EGL or OSMesa and set MUJOCO_GL=egl or osmesa.")
