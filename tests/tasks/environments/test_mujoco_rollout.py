"""metarun.tasks.environments.mujoco_rollout: the models are Gymnasium's, and a simulator holds nothing."""

from pathlib import Path

import numpy as np
import pytest

from metarun.tasks.environments.mujoco_rollout import model, simulator

mujoco = pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'metarun[mujoco]'")
gymnasium = pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'metarun[mujoco]'")


@pytest.mark.parametrize("name", ["half_cheetah", "ant"])
def test_a_model_is_what_the_compiler_makes_of_the_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs what it finds deprecated in the file
    file = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / f"{name}.xml"
    expected, made = mujoco.MjModel.from_xml_path(str(file)), model(name)
    names = [each for each in dir(expected) if isinstance(getattr(expected, each), np.ndarray)]
    assert len(names) > 100
    for each in names:
        np.testing.assert_array_equal(getattr(made, each), getattr(expected, each), err_msg=each)


def test_the_model_is_read_without_a_word(tmp_path, monkeypatch, capfd):
    """MuJoCo would warn of `settotalmass`, and write a log into the working folder."""
    monkeypatch.chdir(tmp_path)
    model.__wrapped__("half_cheetah")
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_a_step_does_not_depend_on_the_steps_before():
    cheetah = simulator("half_cheetah", 1)
    states = cheetah.states(np.linspace(-0.1, 0.1, 27).reshape(3, 9), np.linspace(-1.0, 1.0, 27).reshape(3, 9))
    controls = np.linspace(-1.0, 1.0, 18).reshape(3, 6)
    first, is_broken = cheetah.step(states, controls, 5)
    assert not is_broken.any()
    np.testing.assert_allclose(first[:, 0], 0.05, rtol=1e-14)  # MuJoCo's clock
    cheetah.step(first, -controls, 3)
    np.testing.assert_array_equal(cheetah.step(states, controls, 5)[0], first)
    np.testing.assert_array_equal(cheetah.step(states[1:2], controls[1:2], 5)[0], first[1:2])


def test_no_states_make_no_step():
    states, is_broken = simulator("half_cheetah", 1).step(np.zeros((0, 19)), np.zeros((0, 6)), 5)
    assert (states.shape, is_broken.shape) == ((0, 19), (0,))
