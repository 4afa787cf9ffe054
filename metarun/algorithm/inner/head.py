"""What inner solvers share that compute the head from the support set's features in one step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem
from metarun.maths.trees import Params
from metarun.problems.base import Problem


@dataclass(frozen=True)
class Head:
    """phi, and whether its head has been computed."""

    params: Params
    is_solved: bool = False


def refuse_other_heads(who: str, problem: Problem) -> None:
    """Raise `ValueError` unless the problem is a classification by a linear layer with bias."""
    if problem.score != "accuracy" or not problem.learner.has_linear_head:
        raise ValueError(
            f"{who} need a classification and a model whose head is a linear layer with a bias, got "
            f"{type(problem).__name__} and a head of {', '.join(problem.learner.head_parameters)}. Choose "
            "algorithm/inner=gradient_descent, or such a data set and model; head=LAYER names another head."
        )


def head_names(inner: InnerProblem) -> tuple[str, str]:
    """Names of the head's weight and bias."""
    head = inner.problem.learner.head
    weight, bias = (f"{head}.{leaf}".lstrip(".") for leaf in ("weight", "bias"))
    return weight, bias


def support_features(inner: InnerProblem) -> tuple[Tensor, Tensor]:
    """Of B tasks: what the head is given for each support example, [B, S, size], and the example's class, one-hot [B, S, N].

    Raises:
        ValueError: the head is given something else than one vector for each example.
    """
    learner, data = inner.problem.learner, inner.data
    weight, _ = head_names(inner)
    ways, size = inner.start[weight].shape[1:]
    features = learner.lift(learner.features)(inner.complete(inner.start), data.inputs, *data.norms)
    if features.shape != (*data.targets.shape, size):
        raise ValueError(
            f"a head computed from features needs one vector for each example where the head, {learner.head}, begins; got a "
            f"shape of {tuple(features.shape[1:])} for {data.targets.shape[1]} examples"
        )
    labels = torch.arange(ways, device=features.device)
    return features, (data.targets[..., None] == labels).to(features.dtype)
