"""Whoever watches a run: the console, the run's status."""

from typing import Protocol

from metarun.maths.stats import Summary


class Observer(Protocol):
    """What is told to whoever watches."""

    def stepped(self, step: int, loss: float, tasks: int) -> None:
        """An outer step is done, or several since the last call: the mean query loss before them, and the tasks of all."""
        ...

    def validated(self, step: int, score: Summary, is_best: bool) -> None:
        """A validation is done."""
        ...

    def doing(self, words: str) -> None:
        """Something is done that takes a while and is no step."""
        ...


class NoObserver:
    """Nobody watches."""

    def stepped(self, step: int, loss: float, tasks: int) -> None:
        """Does nothing."""

    def validated(self, step: int, score: Summary, is_best: bool) -> None:
        """Does nothing."""

    def doing(self, words: str) -> None:
        """Does nothing."""
