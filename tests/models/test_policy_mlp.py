"""The Gaussian policy: what its outputs are, how it begins, and its floor."""

import math

import pytest
import torch

from metarun.models.learner import Learner
from metarun.models.policy_mlp import PolicyMLP

pytestmark = pytest.mark.usefixtures("float64")


def policy(**changes) -> PolicyMLP:
    settings = {"input_shape": (3,), "num_outputs": 4, "hidden": [8, 6], "activation": "tanh", "init_std": 0.5}
    return PolicyMLP(**settings | {"min_std": 1e-3} | changes)


def test_outputs_are_means_and_then_logarithms_of_deviations():
    made = policy()
    outputs = made(torch.ones(5, 3))
    assert torch.equal(outputs[:, :2], made.mean(torch.ones(5, 3)))
    torch.testing.assert_close(outputs[:, 2:], torch.full((5, 2), math.log(0.5)), rtol=1e-15, atol=0)


def test_it_begins_with_weights_of_glorot_and_no_biases():
    made = policy()
    for layer in made.mean.layers:
        if isinstance(layer, torch.nn.Linear):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert bound / 2 < layer.weight.abs().max() <= bound
            assert not layer.bias.any()
    assert not made(torch.zeros(1, 3))[:, :2].any()


def test_a_deviation_at_its_floor_has_no_gradient():
    made = policy()
    with torch.no_grad():
        made.log_std[0] = -20.0
    outputs = made(torch.ones(1, 3))
    torch.testing.assert_close(outputs[0, 2].exp(), torch.tensor(1e-3), rtol=1e-14, atol=0)
    outputs.sum().backward()
    assert made.log_std.grad.tolist() == [0.0, 1.0]


def test_it_names_its_head():
    """Which looking alone would not find: the deviations act past it."""
    learner = Learner(policy())
    assert learner.head == "mean.layers.5"
    assert learner.head_parameters == ["mean.layers.5.weight", "mean.layers.5.bias"]
    assert Learner(policy(), head="mean.layers.3").head == "mean.layers.3"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_outputs": 3}, "num_outputs must be even .*, got 3"),
        ({"num_outputs": 0}, "num_outputs must be an integer >= 1"),
        ({"init_std": 1e-4}, "init_std must be >= min_std"),
        ({"init_std": 0.0}, "init_std must be a number > 0"),
        ({"min_std": -1.0}, "min_std must be a number > 0"),
        ({"activation": "sine"}, "activation must be one of"),
    ],
)
def test_what_it_refuses(changes, words):
    with pytest.raises(ValueError, match=words):
        policy(**changes)
