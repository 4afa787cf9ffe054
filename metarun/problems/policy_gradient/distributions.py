"""What a policy's outputs say of its actions: a Gaussian, or a choice by softmax."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.tasks.curves import normal
from metarun.tasks.environments.base import Continuous, Discrete


class Distribution(Protocol):
    """Actions of one kind as a function of a policy's outputs [..., O]."""

    @property
    def noise(self) -> int:
        """Uniform numbers that drawing an action takes."""
        ...

    def draw(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions, from uniform numbers [..., noise]: [..., size], or int64 [...] of choices."""
        ...

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Logarithms of the density or probability of actions, summed over their numbers: [...]."""
        ...

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """KL(reference || outputs), in nats: [...]."""
        ...


class Gaussian:
    """Independent numbers: outputs are their means and then the logarithms of their deviations."""

    def __init__(self, size: int) -> None:
        self.noise = size

    def draw(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """mean + deviation * z, z normal."""
        mean, log_std = outputs.chunk(2, -1)
        return mean + log_std.exp() * normal(noise).to(mean.dtype)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Of all numbers together: a sum, not a mean as in some codes, which changes every ratio of densities."""
        mean, log_std = outputs.chunk(2, -1)
        z = (actions - mean) * (-log_std).exp()
        return -(0.5 * z * z + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """Closed form."""
        (mean, log_std), (mean_0, log_std_0) = outputs.chunk(2, -1), reference.chunk(2, -1)
        z = (mean_0 - mean) * (-log_std).exp()
        ratio = 2 * (log_std_0 - log_std)
        return 0.5 * (torch.expm1(ratio) - ratio + z * z).sum(-1)


class Categorical:
    """One of several choices: outputs are logits."""

    noise = 1

    def draw(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The choice in whose share of [0, 1) the number lies."""
        shares = F.softmax(outputs.double(), -1).cumsum(-1)
        choice = torch.searchsorted(shares, noise.contiguous(), right=True)[..., 0]
        return choice.clamp(max=outputs.shape[-1] - 1)  # rounding may leave the last share a little short of 1

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """By softmax."""
        return F.log_softmax(outputs, -1).gather(-1, actions[..., None])[..., 0]

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """By softmax."""
        log_reference = F.log_softmax(reference, -1)
        return (log_reference.exp() * (log_reference - F.log_softmax(outputs, -1))).sum(-1)


def distribution_of(actions: Continuous | Discrete) -> Distribution:
    """Of a policy with such actions."""
    return Gaussian(actions.size) if isinstance(actions, Continuous) else Categorical()
