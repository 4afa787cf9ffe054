"""metarun.tasks.environments.ant: when it has fallen."""

import numpy as np
import pytest

from metarun.tasks.environments.ant import Ant


def test_it_has_fallen_outside_the_healthy_heights():
    states = np.zeros((5, 30))
    states[:, 3] = [0.19, 0.2, 0.75, 1.0, 1.01]
    assert Ant(healthy=(0.2, 1.0)).has_fallen(states).tolist() == [True, False, False, False, True]


def test_heights_that_cannot_be():
    with pytest.raises(ValueError, match=r"healthy must be \[low, high\] with low < high, got \[1.0, 0.2\]"):
        Ant(healthy=(1.0, 0.2))
