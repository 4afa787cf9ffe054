"""Arms that pay 1 or nothing, each with a probability of its own (Duan et al. 2016, section 3.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import checks, rng
from metarun.tasks.environments.base import Discrete, EpisodeTasks, Transition, episode_keys, no_state
from metarun.tasks.types import Split, TaskBatch


@dataclass(frozen=True, kw_only=True)
class Bandit(EpisodeTasks):
    """Tasks are the arms' probabilities, uniform in [0, 1). An action pulls an arm; the reward is 1 with its probability, else 0.

    All that a policy sees is a constant 1. It has no memory, so that only adaptation can find out which arm pays.

    Attributes:
        num_arms: >= 1.
        horizon: pulls of an episode.
    Source: Duan et al. 2016 (RL^2), section 3.1: 5, 10 or 50 arms, pulled 10, 100 or 500 times.
    """

    num_arms: int
    horizon: int

    def __post_init__(self) -> None:
        for name in ("num_arms", "horizon"):
            checks.integer(name, getattr(self, name), minimum=1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """A constant."""
        return (1,)

    @property
    def actions(self) -> Discrete:
        """One of the arms."""
        return Discrete(self.num_arms)

    @property
    def start_noise(self) -> int:
        """All episodes start alike."""
        return 0

    @property
    def step_noise(self) -> int:
        """Whether the arm pays."""
        return 1

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` of `split`: `arms` [B, num_arms], their probabilities, float64, and the keys of their episodes."""
        arms = rng.uniform(rng.key(seed, "bandit", split), indices, self.num_arms)
        return TaskBatch(None, None, {"arms": arms} | episode_keys(seed, "bandit", split, indices, shots, queries))

    def start(self, latent: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Before the first pull."""
        return no_state(noise), noise.new_ones(*noise.shape[:2], 1)

    def step(self, latent: dict[str, Tensor], state: Tensor, actions: Tensor, noise: Tensor) -> Transition:
        """An arm is pulled."""
        pays = noise[..., 0] < latent["arms"].gather(1, actions)
        return Transition(state, torch.ones_like(noise[..., :1]), pays.to(noise.dtype), torch.zeros_like(pays))
