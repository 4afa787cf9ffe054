"""Inner solver: the head that classifies by the nearest class mean (prototypical networks)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.inner.head import Head, head_names, refuse_other_heads, support_features
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution
from metarun.maths.trees import Params
from metarun.problems.base import Problem


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """The last layer becomes w_k = 2 c_k, b_k = -|c_k|^2, with c_k the mean embedding of class k's support examples.

    Its logits differ from -|e - c_k|^2 by |e|^2 alone, which no softmax sees. The embedding e is what the model's linear head
    is given (`Learner.features`). An output whose class has no support example is never predicted. One step solves it; more
    change nothing.

    Attributes:
        steps: 1; 0 steps leave the untrained head as it is.
    Source: Snell, Swersky and Zemel 2017, equations 1, 2 and 8.
    """

    steps: int
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` unless the problem is a classification by a linear layer with bias."""
        refuse_other_heads("prototypes", problem)

    def start(self, inner: InnerProblem, phi: Params) -> Head:
        """The untrained head."""
        return Head(phi)

    def step(self, inner: InnerProblem, state: Head, number: int | Tensor) -> Head:
        """Set the head of every task, with a graph where theta has one."""
        if state.is_solved:
            return state
        weight, bias = head_names(inner)
        embedded, member = support_features(inner)  # [B, S, size], [B, S, N]
        count = member.sum(1)  # [B, N]
        centres = (member / count.clamp(min=1)[:, None]).mT @ embedded  # [B, N, size]
        lowest = torch.finfo(embedded.dtype).min / 2
        head = {weight: 2 * centres, bias: torch.where(count > 0, -(centres * centres).sum(-1), lowest)}
        return Head(inner.start | head, is_solved=True)

    def solution(self, inner: InnerProblem, state: Head, steps: int) -> InnerSolution:
        """phi."""
        return InnerSolution(state.params, {})
