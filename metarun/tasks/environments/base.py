"""Environments: what answers a policy's actions, for all episodes of all tasks at once."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from metarun import rng
from metarun.tasks.types import Split

SUPPORT, QUERY = "support", "query"
"""Names in `TaskBatch.latent` of the keys of a task's episodes, int64 [B, E]: shots of them in the one, queries in the other."""

_KEYS: dict[Split, str] = {
    "train": "dataset.{}",
    "test": "dataset.test_{0} or evaluation.{0}",
    "val": "evaluation.val_{0} (by default that of the test, evaluation.{0})",
}
"""The configuration keys of each split's episodes."""


@dataclass(frozen=True)
class Continuous:
    """Actions are `size` real numbers."""

    size: int


@dataclass(frozen=True)
class Discrete:
    """Actions are one of `number` choices, from 0."""

    number: int


@dataclass(frozen=True)
class Transition:
    """What one step of all episodes leads to.

    Attributes:
        state: for the next step.
        observations: [B, E, *shape].
        rewards: [B, E].
        is_over: bool [B, E]: the episode has ended with this step by itself (not by the horizon), and no reward comes after.
    """

    state: Any
    observations: Tensor
    rewards: Tensor
    is_over: Tensor


class Environment(Protocol):
    """B tasks of E episodes each, side by side. Nothing is random in it but the numbers it is given.

    What it holds is settings alone: the state goes in and comes out, so that episodes may be cut into chunks of tasks and begun
    anywhere. Tensors lie on the device of the noise; rewards and observations may come in any floating-point type.

    Attributes:
        actions: what a policy chooses among.
        horizon: steps of an episode, at most.
        start_noise, step_noise: uniform numbers in [0, 1) that an episode's start takes, and each of its steps.
    """

    @property
    def input_shape(self) -> tuple[int, ...]: ...  # noqa: D102  (of one observation)

    @property
    def actions(self) -> Continuous | Discrete: ...  # noqa: D102

    @property
    def horizon(self) -> int: ...  # noqa: D102

    @property
    def start_noise(self) -> int: ...  # noqa: D102

    @property
    def step_noise(self) -> int: ...  # noqa: D102

    def start(self, latent: dict[str, Tensor], noise: Tensor) -> tuple[Any, Tensor]:
        """The state of new episodes, and their first observations [B, E, *shape].

        Args:
            latent: what defines the tasks, as the source of tasks draws it; [B, ...].
            noise: [B, E, start_noise], float64.
        """
        ...

    def step(self, latent: dict[str, Tensor], state: Any, actions: Tensor, noise: Tensor) -> Transition:
        """All episodes one step further, those that are over too: what comes of them is not looked at.

        Args:
            actions: [B, E, size] of real numbers as the policy drew them, however large; int64 [B, E] of choices.
            noise: [B, E, step_noise], float64.
        """
        ...


def output_size(actions: Continuous | Discrete) -> int:
    """Outputs of a policy: mean and logarithm of the deviation of each number, or a logit for each choice."""
    return 2 * actions.size if isinstance(actions, Continuous) else actions.number


def episode_keys(seed: int, name: str, split: Split, indices: Tensor, shots: int, queries: int) -> dict[str, Tensor]:
    """For `TaskBatch.latent`: the key of each episode, from which all its randomness is drawn; more episodes continue the sequence.

    Args:
        name: of the environment.
        indices: int64 [B], of the tasks.
        shots, queries: episodes of the support and of the query set.
    """
    return {
        SUPPORT: rng.bits(rng.key(seed, name, split, "support episodes"), indices, shots),
        QUERY: rng.bits(rng.key(seed, name, split, "query episodes"), indices, queries),
    }


Tasks = TypeVar("Tasks", bound="EpisodeTasks")


class HasActions(Protocol):
    """Whatever says among what a policy chooses."""

    @property
    def actions(self) -> Continuous | Discrete: ...  # noqa: D102


class EpisodeTasks:
    """What environments have in common that are the source of their own tasks."""

    @property
    def output_size(self: HasActions) -> int:
        """Outputs of a policy."""
        return output_size(self.actions)

    def to(self: Tasks, device: torch.device | str) -> Tasks:
        """Itself: tasks are drawn on the device of their indices."""
        return self

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise `ValueError` unless both sets have two episodes: with one alone there is nothing to compare it with."""
        for name, number in (("shots", shots), ("queries", queries)):
            if number < 2:
                raise ValueError(f"{name} must be >= 2 episodes, got {number}. Set {_KEYS[split].format(name)}.")


def no_state(noise: Tensor) -> Tensor:
    """The state of an environment that has none: [B, E, 0]."""
    return torch.zeros(*noise.shape[:2], 0, dtype=noise.dtype, device=noise.device)
