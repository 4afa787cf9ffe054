"""A process that holds environments of Gymnasium and steps them as it is told; it knows nothing of PyTorch, and so starts soon.

Requests and replies are pickles through its first two files. It ends when the process that started it closes the one, or dies.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

SETS = ("keyword", "attribute", "reset_option", "reward")
"""How the parameters of a task reach an environment."""
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Recipe:
    """How an environment is made, and what is done with it; `GymnasiumTasks` says what each is."""

    environment: str | Callable[..., Any]
    keywords: dict[str, Any]
    set: str
    reward: Callable[..., float] | None
    horizon: int
    action_scale: float

    @property
    def name(self) -> str:
        """Of the environment, in messages and in the keys of random numbers."""
        if isinstance(self.environment, str):
            return self.environment
        made = getattr(self.environment, "func", self.environment)  # of a partial
        return f"{made.__module__}.{made.__qualname__}"


@dataclass(frozen=True)
class Spaces:
    """What an environment takes and gives: the shape of observations, and the size of actions, or the number of choices."""

    observations: tuple[int, ...]
    actions: int
    is_discrete: bool


class Refusal(Exception):
    """An environment that cannot be, or does what none may; `str()` is one line."""


class Slot:
    """One environment, and the episode that goes on in it."""

    def __init__(self, recipe: Recipe, parameters: dict[str, Any]) -> None:
        self._recipe = recipe
        self._made_with = self._parameters = parameters
        self._environment = _make(recipe, parameters)
        self._action_space, self._shape = self._environment.action_space, self._environment.observation_space.shape
        self._is_discrete = self.spaces.is_discrete
        self._observation = np.zeros(0)
        self._step = 0

    @property
    def spaces(self) -> Spaces:
        """Of the environment."""
        from gymnasium.spaces import Box, Discrete

        name, seen, actions = self._recipe.name, self._environment.observation_space, self._action_space
        if not isinstance(seen, Box):
            raise Refusal(
                f"observations of {name} must be a Box, got {seen}; gymnasium.wrappers.FlattenObservation makes one of any space"
            )
        if not isinstance(actions, Box | Discrete):
            raise Refusal(f"actions of {name} must be a Box or Discrete, got {actions}")
        is_discrete = isinstance(actions, Discrete)
        return Spaces(seen.shape, int(actions.n) if is_discrete else int(np.prod(actions.shape)), is_discrete)

    def start(self, parameters: dict[str, Any], seed: int) -> np.ndarray:
        """The first observation of an episode."""
        options = None
        if self._recipe.set == "keyword" and parameters != self._made_with:
            self._environment.close()
            self._environment = _make(self._recipe, parameters)
            self._made_with = parameters
        elif self._recipe.set == "attribute":
            for name, value in parameters.items():
                _set_attribute(self._recipe.name, self._environment.unwrapped, name, value)
        elif self._recipe.set == "reset_option":
            options = parameters
        self._parameters, self._step = parameters, 0
        with _told(f"{self._recipe.name}.reset()"):
            observation, _ = self._environment.reset(seed=seed, options=options)
        return self._seen(observation)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Observation, reward, and whether the episode is over: terminated or truncated, no step follows either."""
        before, self._step = self._observation, self._step + 1
        given = self._action(action)
        with _told(f"{self._recipe.name}.step()"):
            observation, reward, terminated, truncated, info = self._environment.step(given)
        after = self._seen(observation)
        if self._recipe.reward is not None:
            with _told(f"the reward of {self._recipe.name}"):
                reward = self._recipe.reward(self._parameters, before, given, after, float(reward), info)
        reward = float(reward)
        if not np.isfinite(reward):
            raise Refusal(f"{self._recipe.name} gave a reward of {reward} in step {self._step} of an episode")
        return after, reward, bool(terminated or truncated)

    def close(self) -> None:
        """Let the environment clear up."""
        with contextlib.suppress(Exception):  # whatever it does there, its episodes are done
            self._environment.close()

    def _action(self, action: np.ndarray) -> Any:
        space = self._action_space
        if self._is_discrete:
            return int(action) + int(space.start)
        scaled = np.clip(self._recipe.action_scale * action.reshape(space.shape), space.low, space.high)
        return scaled.astype(space.dtype)

    def _seen(self, observation: Any) -> np.ndarray:
        seen = np.asarray(observation)
        if seen.shape != self._shape:
            raise Refusal(
                f"observations of {self._recipe.name} must have the shape of its space, {self._shape}, got {seen.shape}{self._when}"
            )
        if not np.isfinite(seen).all():
            raise Refusal(f"{self._recipe.name} gave an observation that is not finite{self._when}")
        self._observation = seen.astype(np.float64)
        return self._observation

    @property
    def _when(self) -> str:
        return f" in step {self._step} of an episode" if self._step else " at the start of an episode"


class Worker:
    """Answers requests."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._slots: list[Slot] = []

    def make(self, recipe: Recipe, parameters: dict[str, Any]) -> Spaces:
        """Take a recipe, and try it: with the parameters of some task."""
        self._recipe, self._slots = recipe, [Slot(recipe, parameters)]
        return self._slots[0].spaces

    def start(self, episodes: list[tuple[dict[str, Any], int]]) -> np.ndarray:
        """First observations [n, *shape] of new episodes; `episodes`: parameters and seed of each."""
        assert self._recipe is not None
        for parameters, _ in episodes[len(self._slots) :]:
            self._slots.append(Slot(self._recipe, parameters))
        return np.stack([slot.start(*each) for slot, each in zip(self._slots, episodes, strict=False)])

    def step(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards and whether they are over, of the episodes `slots`."""
        steps = [self._slots[int(slot)].step(action) for slot, action in zip(slots, actions, strict=True)]
        observations, rewards, over = zip(*steps, strict=True)
        return np.stack(observations), np.array(rewards), np.array(over)

    def close(self) -> None:
        """Close all environments."""
        for slot in self._slots:
            slot.close()


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer until there are no more requests. A reply is (True, what was asked for) or (False, one line)."""
    worker = Worker()
    while True:
        try:
            request, arguments = pickle.load(requests)
        except EOFError:
            worker.close()
            return
        try:
            answer = True, getattr(worker, request)(*arguments)
        except Refusal as refusal:
            answer = False, str(refusal)
        pickle.dump(answer, replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()


def main(parent: int) -> None:
    """Serve the process `parent` through standard input and output; what environments print goes to standard error."""
    # The parent decides when its work is broken off; the terminal tells all of its processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        return
    replies = os.fdopen(os.dup(1), "wb")
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with contextlib.suppress(BrokenPipeError):
        serve(requests, replies)


def _make(recipe: Recipe, parameters: dict[str, Any]) -> Any:
    import gymnasium

    keywords = recipe.keywords | (parameters if recipe.set == "keyword" else {})
    with _told(f"{recipe.name} could not be made"):
        if not isinstance(recipe.environment, str):
            return recipe.environment(**keywords)
        try:
            return gymnasium.make(recipe.environment, max_episode_steps=recipe.horizon, **keywords)
        except (
            gymnasium.error.NameNotFound,
            gymnasium.error.NamespaceNotFound,
            gymnasium.error.VersionNotFound,
        ) as error:
            raise Refusal(f"Gymnasium knows no environment {recipe.environment!r}: {_one_line(error)}") from error


def _set_attribute(name: str, environment: Any, attribute: str, value: Any) -> None:
    with _told(f"{name}.{attribute} cannot be set"):
        getattr(environment, attribute)  # to set one that nobody reads would go unnoticed
        setattr(environment, attribute, value)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever an environment raises is told in one line."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"{what}: {type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
