"""What a robot looks like: frames of its states, by MuJoCo's renderer in a process of its own."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np

from metarun.tasks.environments.mujoco_rollout import model, mujoco_package

_BACKENDS = ("egl", "osmesa", "glfw")
"""What draws without a screen, the faster first; then what needs one."""
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from metarun.tasks.environments.mujoco_frames import main; main()"
)


def frames(name: str, states: np.ndarray, width: int, height: int) -> np.ndarray | str:
    """Frames of states [T, n] of a model, as its camera sees that goes along: uint8 [T, height, width, 3].

    A library of OpenGL is chosen when MuJoCo is imported, and one that is half installed can take its process with it: so each is
    tried in another process, or only the one that the environment variable MUJOCO_GL names.

    Args:
        name: of the model, such as `half_cheetah`.
        width, height: in pixels, at most 640 and 480.
    Returns:
        The frames, or one line that says why there are none.
    """
    chosen = os.environ.get("MUJOCO_GL")
    reasons = []
    for backend in [chosen] if chosen else _BACKENDS:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
            input=pickle.dumps((name, states, width, height)),
            capture_output=True,
            env=os.environ | {"MUJOCO_GL": backend},
            check=False,
        )
        size = len(states) * height * width * 3
        # What is drawn is drawn, however the library ends.
        if len(done.stdout) == size:
            return np.frombuffer(done.stdout, dtype=np.uint8).reshape(len(states), height, width, 3)
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reasons.append(f"{backend}: {lines[-1].strip() if lines else f'status {done.returncode}'}")
    return f"MuJoCo cannot draw here ({'; '.join(reasons)}). Install EGL or OSMesa and set MUJOCO_GL=egl or osmesa."


def main() -> None:
    """Draw what standard input asks for, to standard output."""
    mujoco = mujoco_package()
    name, states, width, height = pickle.load(sys.stdin.buffer)
    robot = model(name)
    data = mujoco.MjData(robot)
    with mujoco.Renderer(robot, height, width) as renderer:
        drawn = np.empty((len(states), height, width, 3), dtype=np.uint8)
        for frame, state in zip(drawn, states, strict=True):
            mujoco.mj_setState(robot, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
            mujoco.mj_forward(robot, data)
            renderer.update_scene(data, camera="track")
            frame[:] = renderer.render()
    sys.stdout.buffer.write(drawn.tobytes())
    sys.stdout.buffer.flush()
