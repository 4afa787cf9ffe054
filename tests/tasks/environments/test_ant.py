"""metarun.tasks.environments.ant: when it has fallen."""

import pytest
import torch

from metarun.tasks.environments.ant import Ant


def test_it_has_fallen_outside_the_healthy_heights():
    states = torch.zeros(5, 30, dtype=torch.float64)
    states[:, 3] = torch.tensor([0.19, 0.2, 0.75, 1.0, 1.01], dtype=torch.float64)
    assert Ant(healthy=(0.2, 1.0)).has_fallen(states).tolist() == [True, False, False, False, True]


def test_heights_that_cannot_be():
    with pytest.raises(ValueError, match=r"healthy must be \[low, high\] with low < high, got \[1.0, 0.2\]"):
        Ant(healthy=(1.0, 0.2))
