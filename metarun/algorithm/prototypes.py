"""Inner solver: the head that classifies by the nearest class mean (prototypical networks)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import InnerSolution
from metarun.maths.trees import Params
from metarun.problems.base import Problem


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """The last layer becomes w_k = 2 c_k, b_k = -|c_k|^2, with c_k the mean embedding of class k's support examples.

    Its logits differ from -|e - c_k|^2 by |e|^2 alone, which no softmax sees. The embedding e is what the model's linear head
    is given (`Learner.features`). An output whose class has no support example is never predicted. One step solves it; more
    change nothing.

    Attributes:
        steps: 1.
        eval_steps: [1]; 0 steps leave the untrained head as it is.
    Source: Snell, Swersky and Zemel 2017, equations 1, 2 and 8.
    """

    steps: int
    eval_steps: Sequence[int]
    offers: ClassVar[frozenset[str]] = frozenset({"graph"})
    learns: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.steps("eval_steps", self.eval_steps)

    def check(self, problem: Problem, adapted: Params) -> None:
        """Raise `ValueError` unless the problem is a classification by a linear layer with bias."""
        if problem.score != "accuracy" or not problem.learner.has_linear_head:
            raise ValueError(
                "prototypes need a classification and a model whose head is a linear layer with a bias, got "
                f"{type(problem).__name__} and a head of {', '.join(problem.learner.head_parameters)}. Choose "
                "algorithm/inner=gradient_descent, or such a data set and model; head=LAYER names another head."
            )

    def meta_parameters(self, adapted: Params) -> Params:
        """None."""
        return {}

    def solve(self, inner: InnerProblem, learned: Params, steps: int | None = None) -> InnerSolution:
        """Set the head of every task, with a graph where theta has one."""
        if (self.steps if steps is None else steps) == 0:
            return InnerSolution(inner.anchor, {})
        learner = inner.problem.learner
        weight, bias = (f"{learner.head}.{leaf}".lstrip(".") for leaf in ("weight", "bias"))
        ways, size = inner.anchor[weight].shape[1:]
        embedded = learner.lift(learner.features)(inner.anchor, inner.support.inputs)  # [B, S, size]
        if embedded.shape != (*inner.support.targets.shape, size):
            raise ValueError(
                f"prototypes need one vector for each example where the head, {learner.head}, begins; got a shape of "
                f"{tuple(embedded.shape[1:])} for {inner.support.targets.shape[1]} examples"
            )
        labels = torch.arange(ways, device=embedded.device)
        member = (inner.support.targets[..., None] == labels).to(embedded.dtype)  # [B, S, N]
        count = member.sum(1)  # [B, N]
        centres = (member / count.clamp(min=1)[:, None]).mT @ embedded  # [B, N, size]
        lowest = torch.finfo(embedded.dtype).min / 2
        head = {weight: 2 * centres, bias: torch.where(count > 0, -(centres * centres).sum(-1), lowest)}
        return InnerSolution(inner.anchor | head, {})
