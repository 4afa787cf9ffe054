"""What is to be learned: the leaf functions of one task, and their lift to B tasks."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from metarun.maths.trees import Params
from metarun.models.learner import Learner
from metarun.tasks.types import Data, Examples, TaskBatch


class Problem(Protocol):
    """Where a task's data come from, and leaf functions written for one task.

    `outputs` is split from `loss` so that Gauss-Newton and Fisher matrices are to be had for every problem: the Hessian of
    `divergence` at its reference is the metric of output space.
    """

    score: ClassVar[str]
    """The metric by which states are selected and results reported."""
    higher_is_better: ClassVar[bool]
    data_depend_on_params: ClassVar[bool]
    """Whether data are collected with the parameters, anew for each inner step; else they are stored."""
    loss_has_curvature: ClassVar[bool]
    """Whether the Gauss-Newton matrix of outputs and divergence approximates the loss's own Hessian."""
    watched: ClassVar[str]
    """The number of an outer step that is shown while training goes on: "loss", or one of `statistics`."""
    counted: ClassVar[str | None]
    """The one of `statistics` by which work is counted, and the cost of a run; None: by tasks."""
    examples: ClassVar[str]
    """What shots and queries are counted in, a plural: "examples"."""
    learner: Learner
    """The model."""

    def support(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Data:
        """The data of B tasks on which inner step `step`, from 0, is taken.

        Whatever is random in them is a function of the tasks (their `latent`) and of `step`, drawn by `rng`, so that a task's
        data do not depend on the other tasks of its chunk or rank.

        Args:
            params: complete parameters, leaves [B, ...], without graph; stored data do not ask for them.
        """
        ...

    def query(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Data:
        """The data of B tasks on which parameters are measured that were adapted by `step` inner steps; as `support`."""
        ...

    def lift(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one task's tensors for those of B tasks, as the model allows (`Learner.lift`)."""
        ...

    def outputs(self, params: Params, inputs: Tensor, norm_inputs: Tensor | None = None) -> Tensor:
        """Outputs [S, ...] of the model; norm layers take their statistics of `norm_inputs` where these are given."""
        ...

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Mean loss over the examples: a scalar."""
        ...

    def divergence(self, outputs: Tensor, reference: Tensor, targets: Any) -> Tensor:
        """Divergence of `outputs` from `reference`, mean over the examples, scaled as the loss: a scalar.

        Args:
            targets: say which examples count, where not all do.
        """
        ...

    def statistics(self, support: Sequence[Data], query: Data) -> dict[str, Tensor]:
        """Numbers to record of the data that were collected for B tasks in one estimate, [B] each.

        Args:
            support: of each inner step.
        """
        ...

    def metrics(self, outputs: Tensor, targets: Any) -> dict[str, Tensor]:
        """Named scalars, `score` among them. A task of which one is not finite counts as diverged."""
        ...


class Supervised:
    """What problems have in common whose support and query sets are stored in the tasks."""

    data_depend_on_params: ClassVar[bool] = False
    loss_has_curvature: ClassVar[bool] = True
    watched: ClassVar[str] = "loss"
    counted: ClassVar[str | None] = None
    examples: ClassVar[str] = "examples"
    learner: Learner

    def support(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Examples:
        """The support set, whatever the parameters."""
        return tasks.support_set

    def query(self, tasks: TaskBatch, params: Params, step: int | Tensor) -> Examples:
        """The query set, whatever the parameters; with the support inputs where norm layers take their statistics there."""
        query = tasks.query_set
        return query.normalised_by(tasks.support_set) if self.learner.normalises_by_support else query

    def statistics(self, support: Sequence[Data], query: Data) -> dict[str, Tensor]:
        """None: nothing is collected."""
        return {}

    def lift(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As the model allows."""
        return self.learner.lift(function)

    def outputs(self, params: Params, inputs: Tensor, norm_inputs: Tensor | None = None) -> Tensor:
        """Outputs [S, ...] of the model."""
        return self.learner(params, inputs, norm_inputs)


def outputs_of(problem: Problem, params: Params, data: Data) -> Tensor:
    """Outputs [B, S, ...] of B tasks for parameters with leaves [B, ...], those of no class as `of_its_classes` has them."""
    outputs = problem.lift(problem.outputs)(params, data.inputs, *data.norms)
    return of_its_classes(outputs, data.classes)


def losses_of(problem: Problem, params: Params, data: Data) -> Tensor:
    """Losses [B] of B tasks for parameters with leaves [B, ...]."""
    return problem.lift(one_loss(problem, data.classes))(params, data.inputs, data.targets, *data.norms)


def divergences_of(problem: Problem, outputs: Tensor, reference: Tensor, data: Data) -> Tensor:
    """Divergences [B] of outputs [B, S, ...] from others, on the data that both are of."""
    return vmap(problem.divergence)(outputs, reference, data.targets)


def one_loss(problem: Problem, classes: int | None) -> Callable[..., Tensor]:
    """The loss of one task as a function of its parameters and tensors."""

    def loss(params: Params, inputs: Tensor, targets: Any, *norm_inputs: Tensor) -> Tensor:
        return problem.loss(of_its_classes(problem.outputs(params, inputs, *norm_inputs), classes), targets)

    return loss


def of_its_classes(outputs: Tensor, classes: int | None) -> Tensor:
    """Logits [..., N] with those from `classes` on, which are of no class of the task, as good as minus infinity.

    They are never predicted, and have no share in a softmax. Half the lowest number there is, so that differences of two stay
    finite.
    """
    if classes is None or classes >= outputs.shape[-1]:
        return outputs
    lowest = torch.finfo(outputs.dtype).min / 2
    return F.pad(outputs[..., :classes], (0, outputs.shape[-1] - classes), value=lowest)
