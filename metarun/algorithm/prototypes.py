"""Inner solver: the head that classifies by the nearest class mean (prototypical networks)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import InnerSolution
from metarun.maths.trees import Params
from metarun.problems.base import Problem, outputs_of


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """The last layer becomes w_k = 2 c_k, b_k = -|c_k|^2, with c_k the mean embedding of class k's support examples.

    Its logits differ from -|e - c_k|^2 by |e|^2 alone, which no softmax sees. The embedding e is what the model's linear head
    is given: it is had from the model itself by putting the identity in the head's place. One step solves it; more change
    nothing.

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
        """Raise `ValueError` unless the model ends in a linear layer with bias and the problem is a classification."""
        weight, bias = _head(adapted)
        is_linear = adapted[weight].dim() == 2 and bias in adapted and adapted[bias].shape == adapted[weight].shape[:1]
        if problem.score != "accuracy" or not is_linear:
            raise ValueError(
                "prototypes need a classification and a model whose last layer is linear with a bias, got "
                f"{type(problem).__name__} and last parameters {', '.join(list(adapted)[-2:])}. Choose "
                "algorithm/inner=gradient_descent, or such a data set and model."
            )

    def meta_parameters(self, adapted: Params) -> Params:
        """None."""
        return {}

    def solve(self, inner: InnerProblem, learned: Params, steps: int | None = None) -> InnerSolution:
        """Set the head of every task, with a graph where theta has one."""
        if (self.steps if steps is None else steps) == 0:
            return InnerSolution(inner.anchor, {})
        weight, bias = _head(inner.anchor)
        num_tasks, ways, size = inner.anchor[weight].shape
        identity = torch.eye(size).to(inner.anchor[weight]).expand(num_tasks, -1, -1)
        bare = inner.anchor | {weight: identity, bias: identity.new_zeros(num_tasks, size)}
        embedded = outputs_of(inner.problem, bare, inner.support)  # [B, S, size]
        labels = torch.arange(ways, device=embedded.device)
        member = (inner.support.targets[..., None] == labels).to(embedded.dtype)  # [B, S, N]
        centres = (member / member.sum(1, keepdim=True)).mT @ embedded  # [B, N, size]
        head = {weight: 2 * centres, bias: -(centres * centres).sum(-1)}
        return InnerSolution(inner.anchor | head, {})


def _head(params: Params) -> tuple[str, str]:
    """Names of the last layer's weight and bias."""
    last = list(params)[-1].rpartition(".")[0]
    dot = "." if last else ""
    return f"{last}{dot}weight", f"{last}{dot}bias"
