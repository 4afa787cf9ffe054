"""Any environment of Gymnasium's interface as tasks that differ in some of its parameters."""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun import checks, rng
from metarun.errors import ConfigurationError
from metarun.tasks.curves import check_interval, scaled
from metarun.tasks.environments.base import (
    QUERY,
    SUPPORT,
    Continuous,
    Discrete,
    EpisodeTasks,
    Transition,
    episode_keys,
)
from metarun.tasks.environments.gymnasium_worker import SETS, Recipe, Spaces
from metarun.tasks.environments.gymnasium_workers import Workers, workers
from metarun.tasks.types import Split, TaskBatch


@dataclass(frozen=True)
class Handle:
    """The state of episodes whose environments live in worker processes: which episodes, and how far they have come.

    Attributes:
        turn: of the workers; a later start ends these episodes.
        observations: the last ones, [B, E, *shape].
        is_over: bool [B, E].
    """

    turn: int
    observations: Tensor
    is_over: Tensor


@dataclass(frozen=True, kw_only=True)
class GymnasiumTasks(EpisodeTasks):
    """Tasks are draws of the parameters of one environment, which runs in worker processes.

    The state of an episode stays in its worker, and what `start` and `step` hand on is a handle: episodes are stepped in turn from
    their start, and a new start ends those before. An episode's environment is reset with a seed made of the episode's own key, so
    that it is the same in whatever company and however many workers there are, if the environment keeps to Gymnasium's rule: all
    its randomness comes from that seed.

    Attributes:
        environment: an id that Gymnasium knows; or a class or function that makes the environment, with `_partial_: true` in YAML.
        keywords: arguments of the constructor, the same for all tasks.
        parameters: what varies by task: {name, uniform: [low, high]} or {name, choice: [values]} of each. A list, which files and
            command lines replace as a whole.
        set: how they reach the environment. "keyword": arguments of the constructor, so that environments are made anew for other
            tasks; "attribute": of the innermost environment, set before each reset; "reset_option": options of its reset; "reward":
            not at all, they are for the reward alone.
        reward: called with (parameters, observation, action, observation after it, the environment's own reward, info); None: the
            environment's own.
        horizon: steps of an episode; an environment that Gymnasium makes is not cut off sooner.
        action_scale: of real numbers, before they are clipped to the bounds of the environment.
        workers: processes, at most; None: one for each CPU core that is ours.
        observation_shape, policy_outputs: what the policy is made for, to be held against the environment.
    """

    environment: str | Callable[..., Any]
    keywords: Mapping[str, Any]
    parameters: Sequence[Mapping[str, Any]]
    set: str
    reward: Callable[..., float] | None
    horizon: int
    action_scale: float
    workers: int | None
    observation_shape: tuple[int, ...]
    policy_outputs: int

    def __post_init__(self) -> None:
        if importlib.util.find_spec("gymnasium") is None:
            raise ConfigurationError("dataset=gymnasium needs Gymnasium: pip install 'metarun[gymnasium]'")
        if not isinstance(self.environment, str) and not callable(self.environment):
            raise ValueError(
                "environment must be an id, or a _target_ with _partial_: true, "
                f"got an object of {type(self.environment).__name__}"
            )
        if isinstance(self.environment, str) and ":" in self.environment:
            raise ValueError(
                f"environment must be an id alone, got {self.environment!r}, which imports a module: write "
                f"{{_target_: gymnasium.make, _partial_: true, id: '{self.environment}'}}"
            )
        checks.one_of("set", self.set, SETS)
        if self.set == "reward" and self.reward is None:
            raise ValueError("set=reward needs a reward that takes the parameters. Set dataset.source.reward.")
        if self.reward is not None and not callable(self.reward):
            raise ValueError(f"reward must be null or a _target_ with _partial_: true, got {self.reward!r}")
        for parameter in self.parameters:
            _check_parameter(parameter)
        names = [parameter["name"] for parameter in self.parameters]
        if len({*names}) < len(names):
            raise ValueError(f"parameters must have different names, got {', '.join(names)}")
        checks.integer("horizon", self.horizon, minimum=1)
        checks.number("action_scale", self.action_scale, minimum=0, exclusive=True)
        if self.workers is not None:
            checks.integer("workers", self.workers, minimum=1)
        self._check_spaces()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one observation."""
        return self._spaces.observations

    @property
    def actions(self) -> Continuous | Discrete:
        """As the environment says."""
        spaces = self._spaces
        return Discrete(spaces.actions) if spaces.is_discrete else Continuous(spaces.actions)

    @property
    def start_noise(self) -> int:
        """The seed of the environment."""
        return 1

    @property
    def step_noise(self) -> int:
        """The environment draws for itself."""
        return 0

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` of `split`: each parameter by its name, [B] (of a choice, which), and the keys of their episodes."""
        name = self._recipe.name
        latent = {}
        for parameter, drawn in self._drawn.items():
            unit = rng.uniform(rng.key(seed, name, split, parameter), indices, 1)[:, 0]
            if "uniform" in drawn:
                latent[parameter] = scaled(unit, (drawn["uniform"][0], drawn["uniform"][1]))
            else:
                latent[parameter] = (unit * len(drawn["choice"])).to(torch.int64)
        return TaskBatch(None, None, latent | episode_keys(seed, name, split, indices, shots, queries))

    def start(self, latent: dict[str, Tensor], noise: Tensor) -> tuple[Handle, Tensor]:
        """Environments reset with the parameters of their tasks."""
        seeds = (noise[..., 0] * 2**31).to(torch.int64)  # 32 bits are what NumPy's old generators take
        episodes = [
            (parameters, seed)
            for parameters, row in zip(self._parameters(latent, len(seeds)), seeds.tolist(), strict=True)
            for seed in row
        ]
        running = self._workers
        observations = torch.from_numpy(running.start(episodes)).unflatten(0, seeds.shape)
        is_over = torch.zeros(seeds.shape, dtype=torch.bool)
        return Handle(running.turn, observations, is_over), observations.to(noise.device)

    def step(self, latent: dict[str, Tensor], state: Handle, actions: Tensor, noise: Tensor) -> Transition:
        """Those that are not over, a step further. An action that is no number ends its episode with a reward that is none."""
        running = self._workers
        if state.turn != running.turn:
            raise RuntimeError(
                f"episodes of {self._recipe.name} were stepped after others had been started in their place"
            )
        chosen = actions.detach().to("cpu")
        chosen = chosen.to(torch.float64) if chosen.is_floating_point() else chosen
        per_episode = chosen.flatten(2) if chosen.dim() > 2 else chosen[..., None]
        is_moved = ~state.is_over & per_episode.isfinite().all(-1)
        observations, is_over = state.observations.clone(), torch.ones_like(state.is_over)
        rewards = torch.zeros(is_over.shape, dtype=torch.float64)
        rewards[~state.is_over & ~is_moved] = torch.nan
        if bool(is_moved.any()):
            numbers = is_moved.flatten().nonzero()[:, 0].numpy()
            seen, earned, ended = running.step(numbers, chosen[is_moved].numpy())
            observations[is_moved] = torch.from_numpy(seen)
            rewards[is_moved] = torch.from_numpy(earned)
            is_over[is_moved] = torch.from_numpy(ended)
        return Transition(
            Handle(state.turn, observations, is_over),
            observations.to(noise.device),
            rewards.to(noise.device),
            is_over.to(noise.device),
        )

    @property
    def _drawn(self) -> dict[str, Mapping[str, Any]]:
        return {parameter["name"]: parameter for parameter in self.parameters}

    @functools.cached_property
    def _recipe(self) -> Recipe:
        return Recipe(
            self.environment, dict(self.keywords), self.set, self.reward, self.horizon, float(self.action_scale)
        )

    @property
    def _workers(self) -> Workers:
        number = self.workers or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
        first = {name: _values(drawn)[0] for name, drawn in self._drawn.items()}
        return workers(self._recipe, number, first)

    @property
    def _spaces(self) -> Spaces:
        return self._workers.spaces

    def _parameters(self, latent: dict[str, Tensor], tasks: int) -> list[dict[str, Any]]:
        """Of each task, as Python's values."""
        columns = {
            name: [drawn["choice"][i] for i in latent[name].tolist()] if "choice" in drawn else latent[name].tolist()
            for name, drawn in self._drawn.items()
        }
        return [{name: column[task] for name, column in columns.items()} for task in range(tasks)]

    def _check_spaces(self) -> None:
        name, shape = self._recipe.name, self._spaces.observations
        if tuple(self.observation_shape) != shape:
            raise ValueError(
                f"observations of {name} have the shape {list(shape)}, and the policy is made for "
                f"{list(self.observation_shape)}. Set dataset.input_shape=[{','.join(map(str, shape))}]."
            )
        if self.policy_outputs != self.output_size:
            raise ValueError(
                f"a policy in {name} must have {self.output_size} outputs, got {self.policy_outputs}. "
                f"Set dataset.output_size={self.output_size}."
            )


def _values(drawn: Mapping[str, Any]) -> Sequence[Any]:
    return drawn["uniform"] if "uniform" in drawn else drawn["choice"]


def _check_parameter(parameter: Mapping[str, Any]) -> None:
    if {*parameter} not in ({"name", "uniform"}, {"name", "choice"}) or not isinstance(parameter["name"], str):
        raise ValueError(
            "each of parameters must be {name: NAME, uniform: [low, high]} or {name: NAME, choice: [values]}, "
            f"got {dict(parameter)!r}"
        )
    name = parameter["name"]
    if name in (SUPPORT, QUERY):
        raise ValueError(f"no parameter may be called {name}, which names the episodes of a task")
    if "uniform" in parameter:
        check_interval("parameters", parameter["uniform"])
    elif (
        isinstance(parameter["choice"], str) or not isinstance(parameter["choice"], Sequence) or not parameter["choice"]
    ):
        raise ValueError(f"the choice of parameter {name} must be a list of values, got {parameter['choice']!r}")
