"""What is to be learned: the leaf functions of one task, and their lift to B tasks."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.maths.trees import Params
from metarun.models.learner import Learner
from metarun.tasks.types import Examples


class Problem(Protocol):
    """Leaf functions, each written for one task.

    `outputs` is split from `loss` so that Gauss-Newton and Fisher matrices are to be had for every problem: the Hessian of
    `divergence` at its reference is the metric of output space.
    """

    score: ClassVar[str]
    """The metric by which states are selected and results reported."""
    higher_is_better: ClassVar[bool]
    learner: Learner
    """The model."""

    def lift(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one task's tensors for those of B tasks, as the model allows (`Learner.lift`)."""
        ...

    def outputs(self, params: Params, inputs: Tensor, support: Tensor | None) -> Tensor:
        """Outputs [S, ...] of the model; `support` are the task's support inputs, for norms that need them."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the examples: a scalar."""
        ...

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """Divergence of `outputs` from `reference`, mean over the examples, scaled as the loss: a scalar."""
        ...

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Named scalars, `score` among them. A task of which one is not finite counts as diverged."""
        ...


def outputs_of(problem: Problem, params: Params, examples: Examples, support: Examples | None = None) -> Tensor:
    """Outputs [B, S, ...] of B tasks for parameters with leaves [B, ...], those of no class as `of_its_classes` has them."""
    if support is None:
        outputs = problem.lift(lambda p, x: problem.outputs(p, x, None))(params, examples.inputs)
    else:
        outputs = problem.lift(problem.outputs)(params, examples.inputs, support.inputs)
    return of_its_classes(outputs, examples.classes)


def losses_of(problem: Problem, params: Params, examples: Examples, support: Examples | None = None) -> Tensor:
    """Losses [B] of B tasks for parameters with leaves [B, ...]."""

    def loss(phi: Params, inputs: Tensor, targets: Tensor, support_inputs: Tensor | None = None) -> Tensor:
        return problem.loss(of_its_classes(problem.outputs(phi, inputs, support_inputs), examples.classes), targets)

    rest = () if support is None else (support.inputs,)
    return problem.lift(loss)(params, examples.inputs, examples.targets, *rest)


def of_its_classes(outputs: Tensor, classes: int | None) -> Tensor:
    """Logits [..., N] with those from `classes` on, which are of no class of the task, as good as minus infinity.

    They are never predicted, and have no share in a softmax. Half the lowest number there is, so that differences of two stay
    finite.
    """
    if classes is None or classes >= outputs.shape[-1]:
        return outputs
    lowest = torch.finfo(outputs.dtype).min / 2
    return F.pad(outputs[..., :classes], (0, outputs.shape[-1] - classes), value=lowest)
