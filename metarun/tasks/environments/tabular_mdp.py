"""A few states, a few actions, and tables of where they lead and what they earn (Duan et al. 2016, section 3.2)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun import checks, rng
from metarun.tasks.curves import normal
from metarun.tasks.environments.base import Discrete, EpisodeTasks, Transition, episode_keys
from metarun.tasks.types import Split, TaskBatch


@dataclass(frozen=True, kw_only=True)
class TabularMDP(EpisodeTasks):
    """Tasks are tables of transition probabilities, each row uniform on the simplex (Dirichlet(1)), and of mean rewards, normal.

    A policy sees the state, one-hot. Every episode starts in state 0 and lasts the horizon. A reward is normal about its mean.

    Attributes:
        num_states, num_actions: >= 1.
        horizon: steps of an episode.
        reward_mean, reward_deviation: of the mean rewards, over tasks, states and actions.
        reward_noise: deviation of a reward about its mean; 0: rewards are their means.
    Source: Duan et al. 2016 (RL^2), section 3.2: 10 states, 5 actions, horizon 10, mean rewards N(1, 1), rewards N(mean, 1).
    """

    num_states: int
    num_actions: int
    horizon: int
    reward_mean: float
    reward_deviation: float
    reward_noise: float

    def __post_init__(self) -> None:
        for name in ("num_states", "num_actions", "horizon"):
            checks.integer(name, getattr(self, name), minimum=1)
        checks.number("reward_mean", self.reward_mean, minimum=-math.inf)
        for name in ("reward_deviation", "reward_noise"):
            checks.number(name, getattr(self, name), minimum=0)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The state, one-hot."""
        return (self.num_states,)

    @property
    def actions(self) -> Discrete:
        """One of the columns of the tables."""
        return Discrete(self.num_actions)

    @property
    def start_noise(self) -> int:
        """Every episode starts in state 0."""
        return 0

    @property
    def step_noise(self) -> int:
        """One number for the next state, one for the reward."""
        return 2

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` (int64 [B]) of `split`, on their device.

        Returns:
            Latent, float64: `transitions` [B, S, A, S], of state, action and next state; `rewards` [B, S, A], the means; and the
            keys of their episodes.
        """
        # The last number of a row is its mean reward's; the others cut the interval [0, 1] into its probabilities.
        unit = rng.uniform(
            rng.key(seed, "tabular_mdp", split), indices, self.num_states, self.num_actions, self.num_states
        )
        latent = {
            "transitions": simplex(unit[..., :-1]),
            "rewards": self.reward_mean + self.reward_deviation * normal(unit[..., -1]),
        }
        return TaskBatch(None, None, latent | episode_keys(seed, "tabular_mdp", split, indices, shots, queries))

    def start(self, latent: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """In state 0."""
        state = torch.zeros(noise.shape[:2], dtype=torch.int64, device=noise.device)
        return state, self._seen(state, noise)

    def step(self, latent: dict[str, Tensor], state: Tensor, actions: Tensor, noise: Tensor) -> Transition:
        """The reward is of the state that is left; the next one is found in the distribution function of its row."""
        tasks = torch.arange(len(state), device=state.device)[:, None]
        reached = latent["transitions"][tasks, state, actions].cumsum(-1)
        # The sum of all is left out, as it may round to less than the uniform number.
        arrived = (reached[..., :-1] <= noise[..., :1]).sum(-1)
        rewards = latent["rewards"][tasks, state, actions] + self.reward_noise * normal(noise[..., 1])
        return Transition(arrived, self._seen(arrived, noise), rewards, torch.zeros_like(state, dtype=torch.bool))

    def _seen(self, state: Tensor, noise: Tensor) -> Tensor:
        return (state[..., None] == torch.arange(self.num_states, device=state.device)).to(noise.dtype)


def simplex(unit: Tensor) -> Tensor:
    """Points [..., n + 1] uniform on the simplex, from uniform numbers [..., n]: the pieces into which these cut [0, 1].

    The usual normalised exponentials take logarithms, which devices round differently; a sort is exact.
    """
    cuts = F.pad(unit.sort(-1).values, (1, 0))
    return F.pad(cuts, (0, 1), value=1.0).diff(dim=-1)
