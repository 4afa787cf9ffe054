"""Densities, divergences and draws against torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from metarun.problems.policy_gradient.distributions import Categorical, Gaussian, distribution_of
from metarun.tasks.environments.base import Continuous, Discrete

pytestmark = pytest.mark.usefixtures("float64")


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normal(outputs: torch.Tensor) -> Independent:
    mean, log_std = outputs.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def test_a_gaussian_is_torchs():
    outputs, other, actions = some(5, 6), some(5, 6, seed=1), some(5, 3, seed=2)
    found = Gaussian(3)
    torch.testing.assert_close(found.log_prob(outputs, actions), normal(outputs).log_prob(actions), rtol=1e-13, atol=0)
    expected = kl_divergence(normal(other), normal(outputs))
    torch.testing.assert_close(found.divergence(outputs, other), expected, rtol=1e-12, atol=0)


def test_a_choice_is_torchs():
    outputs, other, actions = some(5, 4), some(5, 4, seed=1), torch.tensor([0, 3, 1, 2, 2])
    expected = TorchCategorical(logits=outputs).log_prob(actions)
    torch.testing.assert_close(Categorical().log_prob(outputs, actions), expected, rtol=1e-13, atol=0)
    expected = kl_divergence(TorchCategorical(logits=other), TorchCategorical(logits=outputs))
    torch.testing.assert_close(Categorical().divergence(outputs, other), expected, rtol=1e-11, atol=0)


def test_a_gaussian_draws_by_its_quantiles():
    """1/2 is the mean; Phi(1) lies one deviation above it."""
    outputs = torch.tensor([[1.0, -2.0, 0.0, torch.tensor(3.0).log()]])
    phi = torch.special.ndtr(torch.tensor(1.0))
    drawn = Gaussian(2).draw(outputs, torch.stack([torch.tensor(0.5), phi])[None])
    torch.testing.assert_close(drawn, torch.tensor([[1.0, 1.0]]), rtol=1e-14, atol=1e-15)


def test_a_choice_is_drawn_by_its_share():
    """Shares 1/2, 1/4, 1/4: from 0, 1/2 and 3/4 on."""
    outputs = torch.tensor([0.5, 0.25, 0.25]).log().expand(6, 3)
    noise = torch.tensor([0.0, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2.0**-53])[:, None]
    assert Categorical().draw(outputs, noise).tolist() == [0, 0, 1, 1, 2, 2]


def test_each_kind_of_action_has_its_distribution():
    assert distribution_of(Continuous(3)).noise == 3
    assert distribution_of(Discrete(3)).noise == 1
