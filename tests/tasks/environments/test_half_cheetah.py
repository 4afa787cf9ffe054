"""metarun.tasks.environments.half_cheetah: the centre of mass is MuJoCo's, and the observation of rllab ends with it."""

import numpy as np
import pytest
import torch

from metarun.tasks.environments.half_cheetah import HalfCheetah, centre_of_mass
from metarun.tasks.environments.mujoco_rollout import model

from .robots import CHEETAH, noise, normal, nothing, running

mujoco = pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'metarun[mujoco]'")
pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'metarun[mujoco]'")


def test_centre_of_mass_and_its_velocity_are_mujocos():
    """For any state, reached or not: `subtree_com` and `subtree_linvel` of the torso, from which all else hangs."""
    states = normal(4, 5, 19).numpy()
    place, velocity = centre_of_mass(states)
    data = mujoco.MjData(model("half_cheetah"))
    for index in np.ndindex(4, 5):
        data.qpos[:], data.qvel[:] = states[index][1:10], states[index][10:]
        mujoco.mj_forward(model("half_cheetah"), data)
        mujoco.mj_subtreeVel(model("half_cheetah"), data)
        np.testing.assert_allclose(place[index], data.subtree_com[1, [0, 2]], rtol=0, atol=1e-12)
        np.testing.assert_allclose(velocity[index], data.subtree_linvel[1, [0, 2]], rtol=0, atol=1e-12)


def test_rllabs_animal_sees_its_centre_of_mass_and_is_rewarded_for_its_velocity():
    whole = HalfCheetah(centre_of_mass=True)
    settings = {"frame_skip": 1, "control_cost": 0.0}
    env, torso = running(whole, **settings), running(CHEETAH, **settings)
    assert env.input_shape == (20,)
    latent = {"direction": torch.tensor([-1.0], dtype=torch.float64)}
    state, observations = env.start(latent, noise(1, 2, 18))
    place, _ = centre_of_mass(state.physics)
    assert torch.equal(observations[..., :17], torso.start(latent, noise(1, 2, 18))[1])
    np.testing.assert_array_equal(observations[..., [17, 19]], place)
    assert not observations[..., 18].any()  # it lives in a plane
    one, other = (each.step(latent, state, normal(1, 2, 6), nothing(1, 2)) for each in (env, torso))
    np.testing.assert_array_equal(one.state.physics, other.state.physics)
    np.testing.assert_array_equal(one.rewards, -centre_of_mass(one.state.physics)[1][..., 0])
    # Of the torso, over one timestep: the speed that MuJoCo's integrator ends it with.
    np.testing.assert_allclose(other.rewards, -other.state.physics[..., 10], rtol=0, atol=1e-12)
