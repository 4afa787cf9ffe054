"""Whoever watches a run: the console, the run's status."""

from typing import Protocol

from metarun.maths.stats import Summary


class Observer(Protocol):
    """What is told to whoever watches."""

    def stepped(self, step: int, value: float, amount: float) -> None:
        """An outer step is done, or several since the last call.

        Args:
            value: mean of the number that is watched (`Problem.watched`).
            amount: how much was worked on: tasks, or what the problem counts (`Problem.counted`).
        """
        ...

    def evaluating(self, split: str, share: float) -> None:
        """So much of an evaluation on `split` is done, from 0 to 1; told more than once only where it takes several chunks."""
        ...

    def validated(self, step: int, score: Summary, is_best: bool) -> None:
        """A validation is done."""
        ...

    def doing(self, words: str) -> None:
        """Something is done that takes a while and is no step."""
        ...


class NoObserver:
    """Nobody watches."""

    def stepped(self, step: int, value: float, amount: float) -> None:
        """Does nothing."""

    def evaluating(self, split: str, share: float) -> None:
        """Does nothing."""

    def validated(self, step: int, score: Summary, is_best: bool) -> None:
        """Does nothing."""

    def doing(self, words: str) -> None:
        """Does nothing."""
