"""The mean of g g' over the tasks' meta-gradients g, which is no Fisher matrix."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.algorithm.direction.metric.base import Asked, Solved
from metarun.maths.trees import ravel


@dataclass(frozen=True)
class TaskEmpirical:
    """(1/B) sum g g' over the step's tasks; solved in the span of the g, with a damping > 0."""

    num_fresh_tasks: ClassVar[int] = 0
    needs_jacobian: ClassVar[bool] = False

    def at(self, asked: Asked, state: dict[str, Any]) -> tuple["OfGradients", dict[str, Any]]:
        """Of the gradients of all ranks."""
        # In the order of `like`: an estimator may name frozen leaves last.
        own = [ravel({name: chunk.gradients.gradient[name] for name in asked.like}) for chunk in asked.step]
        return OfGradients(asked.ranks.rows(torch.cat(own))), state


@dataclass(frozen=True)
class OfGradients:
    """U'U / B with U [B, D] the gradients."""

    gradients: Tensor

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solved:
        """By Woodbury's identity, a B x B system."""
        rows = self.gradients / len(self.gradients) ** 0.5
        inner = damping * torch.eye(len(rows), dtype=rows.dtype, device=rows.device) + rows @ rows.T
        solution = (rhs - torch.linalg.solve_ex(inner, rows @ rhs.T).result.T @ rows) / damping
        return Solved(solution, (solution @ rows.T).square().sum(), {})
