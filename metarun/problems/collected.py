"""A problem whose collected data are kept, so that whoever asks again is given the same."""

from typing import cast

from torch import Tensor

from metarun.maths.trees import Params
from metarun.problems.base import Problem
from metarun.tasks.types import Data, TaskBatch


def keeping(problem: Problem) -> Problem:
    """The problem for one batch of tasks: itself, or `Collected` where data depend on parameters."""
    return cast(Problem, Collected(problem)) if problem.data_depend_on_params else problem


class Collected:
    """`problem` for one batch of tasks: data of each inner step are collected once, with the parameters that ask first.

    An estimate, the Jacobian of the adaptation and a search along a direction are then of the same data, as functions of the
    parameters; and nothing is collected twice.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.score, self.higher_is_better = problem.score, problem.higher_is_better
        self.data_depend_on_params = problem.data_depend_on_params
        self.loss_has_curvature = problem.loss_has_curvature
        self.watched, self.counted, self.examples = problem.watched, problem.counted, problem.examples
        self.learner, self.lift, self.outputs = problem.learner, problem.lift, problem.outputs
        self.loss, self.divergence, self.metrics = problem.loss, problem.divergence, problem.metrics
        self.statistics = problem.statistics
        self._support: dict[int, Data] = {}
        self._query: dict[int, Data] = {}

    def support(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Data:
        """As the problem's, the first time; the same from then on."""
        number = int(step)
        if number not in self._support:
            self._support[number] = self.problem.support(tasks, params, step)
        return self._support[number]

    def query(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Data:
        """As the problem's, the first time; the same from then on."""
        number = int(step)
        if number not in self._query:
            self._query[number] = self.problem.query(tasks, params, step)
        return self._query[number]

    def collected_statistics(self, steps: int) -> dict[str, Tensor]:
        """Those of what has been collected on the way to a query set after so many steps."""
        support = [self._support[number] for number in sorted(self._support)]
        return self.problem.statistics(support, self._query[steps])
