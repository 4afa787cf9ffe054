"""What a natural gradient is measured by, as a protocol: a metric, and the matrix that it has at a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from metarun.algorithm.protocols import AdaptedTasks, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.trees import Params


@dataclass(frozen=True)
class Solved:
    """The `solution` s of (F + damping I) s = g, [1, D], or as near to it as a metric goes; `squared`, s'Fs >= 0; statistics."""

    solution: Tensor
    squared: Tensor
    stats: dict[str, Tensor]


class Matrix(Protocol):
    """A symmetric positive semi-definite F on vectors [1, D]."""

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solved:
        """With F shifted by the damping."""
        ...


@dataclass(frozen=True)
class Asked:
    """What a metric is made of.

    Attributes:
        like: the parameters of theta that are measured, leaves [1, ...].
        step: the step's own tasks, with their meta-gradients.
        fresh: other tasks, adapted alone; none unless the metric asks for them.
        meta_gradient: the estimator.
        ranks: who else works on the step; `step` and `fresh` are this rank's tasks.
    """

    like: Params
    step: Sequence[AdaptedTasks]
    fresh: Sequence[AdaptedTasks]
    meta_gradient: MetaGradient
    ranks: Ranks


class Metric(Protocol):
    """Where the matrix comes from.

    Attributes:
        num_fresh_tasks: how many other tasks than the gradient's it asks for in each step.
        needs_jacobian: it asks the estimator for d phi / d theta.
    """

    @property
    def num_fresh_tasks(self) -> int: ...  # noqa: D102

    @property
    def needs_jacobian(self) -> bool: ...  # noqa: D102

    def at(self, asked: Asked, state: dict[str, Any]) -> tuple[Matrix, dict[str, Any]]:
        """The matrix at a step, and the next state.

        Args:
            state: of the direction, what the last step returned; a metric's own keys are added to it.
        """
        ...
