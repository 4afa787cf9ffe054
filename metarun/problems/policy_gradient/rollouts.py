"""Trajectories of policies in an environment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun import rng
from metarun.errors import SimulationError
from metarun.problems.policy_gradient.distributions import Distribution
from metarun.tasks.environments.base import Environment


@dataclass(frozen=True)
class Trajectories:
    """E episodes of T steps of B tasks.

    Attributes:
        observations: before each step, [B, E, T, *shape], 0 after an episode's end.
        actions: [B, E, T, size], or int64 [B, E, T] of choices.
        rewards: [B, E, T], 0 after an episode's end.
        mask: [B, E, T], 1 up to and with the step that ends an episode, 0 after it.
        log_probs: of the actions under the policy that drew them, [B, E, T].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    log_probs: Tensor


@torch.no_grad()
def collect(
    environment: Environment,
    distribution: Distribution,
    policy: Callable[[Tensor], Tensor],
    latent: dict[str, Tensor],
    keys: Tensor,
    stream: int,
    like: Tensor,
    watch: Callable[[Any], None] | None = None,
) -> Trajectories:
    """Let policies act.

    All that is random is drawn ahead, from each episode's own key and the stream: an episode is the same in whatever company.

    Args:
        policy: observations [B, E, *shape] -> outputs [B, E, O].
        latent: of the tasks.
        keys: int64 [B, E], of the episodes.
        stream: names the sequence of numbers that is drawn from the keys.
        like: a tensor on the device and in the number format of the policy.
        watch: called with the environment's state before each step.
    Raises:
        SimulationError: an observation or a reward is not finite, or an observation has another shape than the environment says.
    """
    tasks, episodes = keys.shape
    per_step = distribution.noise + environment.step_noise
    count = environment.start_noise + environment.horizon * per_step
    noise = rng.uniform(stream, keys.flatten(), max(count, 1)).view(tasks, episodes, -1)
    first, noise = noise[..., : environment.start_noise], noise[..., environment.start_noise : count]
    noise = noise.view(tasks, episodes, environment.horizon, per_step)
    for_actions, for_steps = noise.split([distribution.noise, environment.step_noise], -1)

    state, observed = environment.start(latent, first)
    running = torch.ones(tasks, episodes, dtype=torch.bool, device=keys.device)
    seen, actions, rewards, masks, outputs = [], [], [], [], []
    for step in range(environment.horizon):
        observed = _of_its_shape(environment, observed).to(like)
        if watch is not None:
            watch(state)
        # What an environment says of an episode that is over may be anything: not even 0 times NaN is 0.
        observed = torch.where(running.view(*running.shape, *[1] * (observed.dim() - 2)), observed, 0)
        said = policy(observed)
        action = distribution.draw(said, for_actions[:, :, step])
        after = environment.step(latent, state, action, for_steps[:, :, step])
        seen.append(observed)
        outputs.append(said)
        actions.append(action)
        rewards.append(torch.where(running, after.rewards.to(like), 0))
        masks.append(running)
        running = running & ~after.is_over
        state, observed = after.state, after.observations
    found = Trajectories(
        observations=torch.stack(seen, 2),
        actions=torch.stack(actions, 2),
        rewards=torch.stack(rewards, 2),
        mask=torch.stack(masks, 2).to(like.dtype),
        log_probs=distribution.log_prob(torch.stack(outputs, 2), torch.stack(actions, 2)),
    )
    _require_finite(environment, found)
    return found


def _of_its_shape(environment: Environment, observed: Tensor) -> Tensor:
    shape = tuple(observed.shape[2:])
    if shape != tuple(environment.input_shape):
        raise SimulationError(
            f"{type(environment).__name__} must give observations of shape {tuple(environment.input_shape)}, got {shape}"
        )
    return observed


def _require_finite(environment: Environment, found: Trajectories) -> None:
    """Refuse what no policy can learn from, by one wait for the device; actions that are not finite are the policy's own fault."""
    within = found.mask > 0
    bad = torch.stack([
        (within & ~each.isfinite()).flatten(1).any(1)
        for each in (found.observations.flatten(3).sum(-1), found.rewards)
    ])  # fmt: skip
    if not bool(bad.any()) or not bool(found.actions.isfinite().all()):
        return
    what = "an observation" if bool(bad[0].any()) else "a reward"
    task = int(bad.any(0).nonzero()[0])
    raise SimulationError(
        f"{type(environment).__name__} gave {what} that is not finite, to task {task} of {len(within)} worked on together"
    )
