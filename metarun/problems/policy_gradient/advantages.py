"""How much better an action was than expected: a baseline for each task by itself, and generalised advantages."""

import torch
from torch import Tensor

_CLIP = 10.0  # of observations, as features
_RIDGE = 1e-5


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """sum over t' >= t of discount^(t' - t) * reward of t', [..., T]; rewards after an episode's end must be 0."""
    return _discounted(rewards, discount)


def linear_baseline(observations: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """The returns to go that a linear function of features of observation and time expects, fitted for each task by itself.

    Features are the observation clipped to +-10, its square, t/100 and its square and cube, and 1; the fit is by least squares
    over the steps of all episodes of a task, with a ridge of 1e-5, in float64.

    Args:
        observations: [B, E, T, O], flattened.
        returns, mask: [B, E, T]; the mask weighs steps, 0 for those after an episode's end.
    Returns:
        [B, E, T].
    Source: Duan et al. 2016 (rllab's LinearFeatureBaseline, which MAML's code uses).
    """
    seen = observations.double().clamp(-_CLIP, _CLIP)
    time = torch.arange(seen.shape[2], dtype=seen.dtype, device=seen.device)[:, None].expand(*seen.shape[:3], 1) / 100
    features = torch.cat([seen, seen * seen, time, time**2, time**3, torch.ones_like(time)], -1).flatten(1, 2)
    weighted = features * mask.double().flatten(1, 2)[..., None]
    gram = weighted.mT @ features
    ridge = _RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    target = weighted.mT @ returns.double().flatten(1, 2)[..., None]
    weights = torch.linalg.solve_ex(gram + ridge, target).result
    return (features @ weights)[..., 0].view_as(returns).to(returns.dtype)


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, decay: float) -> Tensor:
    """sum over k of (discount * decay)^k delta_(t + k), delta_t = r_t + discount * V_(t + 1) - V_t, [..., T].

    V is 0 after the last step of an episode, whether it ended by itself or by the horizon: episodes are of finite length, and time
    is a feature of the baseline. With a decay of 1 these are returns to go less the baseline.

    Args:
        rewards, values, mask: [..., T]; the mask is 0 after an episode's end.
    Source: Schulman et al. 2016, equation 16.
    """
    values = values * (mask > 0)
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    return _discounted((rewards + discount * following - values) * (mask > 0), discount * decay)


def standardised(values: Tensor, mask: Tensor) -> Tensor:
    """[B, E, T] with mean 0 and deviation 1 over the masked steps of each task, 0 elsewhere.

    Inner steps are then of one scale, whatever that of the rewards.
    """
    share = mask / mask.sum((1, 2), keepdim=True)
    centred = (values - (share * values).sum((1, 2), keepdim=True)) * (mask > 0)
    deviation = (share * centred * centred).sum((1, 2), keepdim=True).sqrt()
    return centred / (deviation + 1e-8)


def _discounted(values: Tensor, discount: float) -> Tensor:
    """sum over t' >= t of discount^(t' - t) * value of t', by products of at most 1 alone."""
    steps = values.shape[-1]
    ahead = torch.arange(steps, dtype=torch.float64, device=values.device)
    ahead = ahead[:, None] - ahead  # t' - t in row t', column t
    powers = torch.where(ahead >= 0, discount ** ahead.clamp(min=0), 0)
    return (values.double() @ powers).to(values.dtype)
