"""Losses whose derivatives at the policy that collected the episodes are those of its expected return."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Surrogate = Literal["likelihood_ratio", "log_prob", "dice"]


def likelihood_ratio(log_prob: Tensor, collected: Tensor, advantages: Tensor) -> Tensor:
    """pi / pi_old * advantage, [E, T]: importance sampling of each action by itself.

    Its second derivative has the outer product of each step's own score, but none of different steps.
    Source: Rothfuss et al. 2019, section 5 (low variance curvature).
    """
    return (log_prob - collected).exp() * advantages


def log_prob(log_prob: Tensor, collected: Tensor, advantages: Tensor) -> Tensor:
    """log pi * advantage, [E, T], as MAML's released code has it.

    Its second derivative misses the outer product of the scores: the meta-gradient is biased, mostly towards that of first order.
    """
    return log_prob * advantages


def dice(log_prob: Tensor, collected: Tensor, advantages: Tensor) -> Tensor:
    """product over t' <= t of pi / pi_old, times what step t adds to the return, [E, T]: all derivatives are right.

    What step t adds is its advantage less that of the next step: these sum to the advantages again, so that the first derivative
    is that of the others, and a baseline in them has no expectation. With a discount of 1 the second derivative is without bias;
    with one below, the advantages are no returns of one objective, and none is. The variance is high.
    Source: Foerster et al. 2018, equation 4.
    """
    following = torch.cat([advantages[:, 1:], torch.zeros_like(advantages[:, :1])], 1)
    return (log_prob - collected).cumsum(1).exp() * (advantages - following)


def clipped(log_prob: Tensor, collected: Tensor, advantages: Tensor, clip: Tensor) -> Tensor:
    """The smaller of pi / pi_old * advantage and the same with the ratio within 1 +- clip, [E, T].

    Source: Schulman et al. 2017 (PPO), equation 7.
    """
    ratio = (log_prob - collected).exp()
    within = torch.minimum(torch.maximum(ratio, 1 - clip), 1 + clip)
    return torch.minimum(ratio * advantages, within * advantages)


SURROGATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "likelihood_ratio": likelihood_ratio,
    "log_prob": log_prob,
    "dice": dice,
}
