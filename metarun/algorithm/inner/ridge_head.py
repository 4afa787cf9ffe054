"""Inner solver: the head of ridge regression on the support features (R2-D2)."""

import math
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
class RidgeHead:
    """The last layer becomes scale * W, with W the minimiser of |X W - Y|^2 + regulariser |W|^2, and the bias an offset.

    X [S, D] are the support examples' features, what the model's linear head is given, and Y [S, N] their classes, one-hot. The
    scale, the offset and the logarithm of the regulariser are meta-learned. W is exact, and so is its derivative; whichever of
    the two matrices X X' + rI [S, S] and X'X + rI [D, D] is smaller is factorised. One step solves it; more change nothing.

    Attributes:
        steps: 1; 0 steps leave the untrained head as it is.
        regulariser: r > 0 at the start.
        scale: at the start; scores of ridge regression lie near 0 and 1, too close for a softmax.
    Source: Bertinetto, Henriques, Torr and Vedaldi 2019, equations 4 to 6.
    """

    steps: int
    regulariser: float
    scale: float
    is_differentiable: ClassVar[bool] = True
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.number("regulariser", self.regulariser, minimum=0, exclusive=True)
        checks.number("scale", self.scale, minimum=0, exclusive=True)

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` unless the problem is a classification by a linear layer with bias."""
        refuse_other_heads("ridge heads", problem)

    def meta_parameters(self, start: Params) -> Params:
        """`log_regulariser`, `scale` and `offset`: a number each."""
        leaf = next(iter(start.values()))
        values = {"log_regulariser": math.log(self.regulariser), "scale": self.scale, "offset": 0.0}
        return {name: leaf.new_tensor(value) for name, value in values.items()}

    def start(self, inner: InnerProblem, phi: Params) -> Head:
        """The untrained head."""
        return Head(phi)

    def step(self, inner: InnerProblem, state: Head, number: int | Tensor) -> Head:
        """Solve for the head of every task, with a graph where theta has one."""
        if state.is_solved:
            return state
        weight, bias = head_names(inner)
        x, y = support_features(inner)  # [B, S, D], [B, S, N]
        learned = inner.theta.solver
        regulariser = learned["log_regulariser"].exp()[:, None, None]
        by_examples = x.shape[1] < x.shape[2]
        gram = x @ x.mT if by_examples else x.mT @ x
        system = gram + regulariser * torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
        solved = x.mT @ _solved(system, y) if by_examples else _solved(system, x.mT @ y)  # [B, D, N]
        offset = learned["offset"][:, None].expand(-1, solved.shape[-1])
        head = {weight: learned["scale"][:, None, None] * solved.mT, bias: offset}
        return Head(inner.start | head, is_solved=True)

    def solution(self, inner: InnerProblem, state: Head, steps: int) -> InnerSolution:
        """phi."""
        return InnerSolution(state.params, {})


def _solved(matrices: Tensor, rhs: Tensor) -> Tensor:
    """matrices^-1 rhs; not finite where a matrix is singular, without asking the device."""
    return torch.linalg.solve_ex(matrices, rhs).result
