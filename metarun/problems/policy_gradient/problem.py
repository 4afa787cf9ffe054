"""Policies that are to earn a high return: episodes in place of examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metarun import checks, rng
from metarun.device.stages import staged
from metarun.maths.trees import Params
from metarun.models.learner import Learner
from metarun.problems.policy_gradient.advantages import (
    generalised_advantages,
    linear_baseline,
    returns_to_go,
    standardised,
)
from metarun.problems.policy_gradient.distributions import Distribution, distribution_of
from metarun.problems.policy_gradient.rollouts import Trajectories, collect
from metarun.problems.policy_gradient.surrogates import SURROGATES, Surrogate, clipped
from metarun.tasks.environments.base import QUERY, SUPPORT, Environment
from metarun.tasks.types import Data, TaskBatch

BASELINES = ("linear", "none")


@dataclass(frozen=True)
class Rollouts:
    """Trajectories as data: the S = E * T steps of each task's episodes are its examples.

    Attributes:
        inputs: observations [B, S, *shape].
        targets: [B, E, T, ...] each: `actions`, `advantages`, `rewards`, `log_probs` of the actions when they were drawn, and
            `mask`, which weighs the steps (0 after an episode's end). Query data have `clip` besides, [B] (`PolicyGradient.clip`).
    """

    inputs: Tensor
    targets: dict[str, Tensor]
    classes: None = None
    norms: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Policies act in an environment; the loss is a surrogate whose gradient is minus that of the expected return.

    Each inner step collects episodes anew, with the parameters from which it is taken; then the query set is collected with the
    adapted ones. Losses are means over the steps of all episodes of a task that were taken before an episode's end.

    Attributes:
        learner: the policy; outputs are means and logarithms of deviations, or logits (`environments.base.output_size`).
        environment: where it acts.
        surrogate: of the support loss: "likelihood_ratio", "log_prob" (MAML's released code; its second derivative is biased) or
            "dice". The query loss, of which the first derivative alone counts, is the likelihood ratio.
        clip: PPO's, of the query loss: how far ratios of densities may be from 1; None: as far as they like.
        discount: gamma, in (0, 1].
        advantage_decay: lambda of the generalised advantages, in [0, 1]; 1: returns to go less the baseline.
        baseline: "linear", fitted for each task and each inner step by itself, or "none".
        standardise: advantages of each task to mean 0 and deviation 1.
    Source: Finn et al. 2017, algorithm 3.
    """

    learner: Learner
    environment: Environment
    surrogate: Surrogate
    clip: float | None
    discount: float
    advantage_decay: float
    baseline: Literal["linear", "none"]
    standardise: bool
    score: ClassVar[str] = "return"
    higher_is_better: ClassVar[bool] = True
    data_depend_on_params: ClassVar[bool] = True
    loss_has_curvature: ClassVar[bool] = False
    watched: ClassVar[str] = "query/return"
    counted: ClassVar[str | None] = "environment_steps"
    examples: ClassVar[str] = "episodes"

    def __post_init__(self) -> None:
        checks.one_of("surrogate", self.surrogate, tuple(SURROGATES))
        if self.clip is not None:
            checks.number("clip", self.clip, minimum=0, exclusive=True)
        checks.number("discount", self.discount, minimum=0, exclusive=True)
        checks.number("advantage_decay", self.advantage_decay, minimum=0)
        for name in ("discount", "advantage_decay"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be <= 1, got {getattr(self, name)!r}")
        checks.one_of("baseline", self.baseline, BASELINES)
        checks.boolean("standardise", self.standardise)

    @property
    def distribution(self) -> Distribution:
        """Of the actions."""
        return distribution_of(self.environment.actions)

    def support(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Rollouts:
        """Trajectories of the policies with these parameters, from which inner step `step` is taken."""
        return self.rollouts(self.collect(tasks, params, SUPPORT, step))

    def query(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Rollouts:
        """Other episodes, which measure parameters that were adapted by `step` inner steps."""
        data = self.rollouts(self.collect(tasks, params, QUERY, step))
        clip = torch.inf if self.clip is None else self.clip
        data.targets["clip"] = data.inputs.new_full((len(tasks),), clip)
        return data

    @staged("episodes")
    def collect(
        self,
        tasks: TaskBatch,
        params: Params,
        role: str,
        step: int | Tensor,
        watch: Callable[[Any], None] | None = None,
    ) -> Trajectories:
        """The episodes themselves; `watch` as of `rollouts.collect`."""
        outputs = self.lift(self.outputs)

        def policy(observations: Tensor) -> Tensor:
            return outputs(params, observations)

        like = next(iter(params.values()))
        stream = rng.key(0, role, int(step))
        return collect(
            self.environment, self.distribution, policy, tasks.latent, tasks.latent[role], stream, like, watch
        )

    def rollouts(self, episodes: Trajectories) -> Rollouts:
        """With the advantages of their actions."""
        mask, rewards = episodes.mask, episodes.rewards
        values = torch.zeros_like(rewards)
        if self.baseline == "linear":
            values = linear_baseline(episodes.observations.flatten(3), returns_to_go(rewards, self.discount), mask)
        advantages = generalised_advantages(rewards, values, mask, self.discount, self.advantage_decay)
        if self.standardise:
            advantages = standardised(advantages, mask)
        targets = {
            "actions": episodes.actions,
            "advantages": advantages,
            "rewards": rewards,
            "log_probs": episodes.log_probs,
            "mask": mask,
        }
        return Rollouts(episodes.observations.flatten(1, 2), targets)

    def lift(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As the policy allows."""
        return self.learner.lift(function)

    def outputs(self, params: Params, inputs: Tensor, norm_inputs: Tensor | None = None) -> Tensor:
        """Outputs [S, O] of the policy."""
        return self.learner(params, inputs, norm_inputs)

    def loss(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Minus the surrogate, mean over the steps before the ends of the episodes."""
        mask = targets["mask"]
        log_probs = self.distribution.log_prob(outputs.view(*mask.shape, -1), targets["actions"])
        given = log_probs, targets["log_probs"], targets["advantages"]
        each = clipped(*given, targets["clip"]) if "clip" in targets else SURROGATES[self.surrogate](*given)
        return -_mean(each, mask)

    def divergence(self, outputs: Tensor, reference: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """KL(reference || outputs) of the distributions of actions, mean over the same steps."""
        mask = targets["mask"]
        return _mean(self.distribution.divergence(outputs, reference).view_as(mask), mask)

    def metrics(self, outputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The return, a sum over the steps of an episode without discount, and the episodes' length: means over episodes."""
        return {"return": targets["rewards"].sum(-1).mean(-1), "episode_steps": targets["mask"].sum(-1).mean(-1)}

    def statistics(self, support: Sequence[Data], query: Data) -> dict[str, Tensor]:
        """Returns before adaptation and after it, and the steps of all episodes."""
        taken = torch.stack([data.targets["mask"].sum((1, 2)) for data in (*support, query)]).sum(0)
        returns = [data.targets["rewards"].sum(-1).mean(-1) for data in (*support[:1], query)]
        return {"support/return": returns[0], "query/return": returns[-1], "environment_steps": taken}


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()
