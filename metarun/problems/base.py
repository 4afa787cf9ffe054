"""What is to be learned: the leaf functions of one task, and their lift to B tasks."""

from typing import ClassVar, Protocol

from torch import Tensor
from torch.func import vmap

from metarun.maths.trees import Params
from metarun.tasks.types import Examples


class Problem(Protocol):
    """Leaf functions, each written for one task.

    `outputs` is split from `loss` so that Gauss-Newton and Fisher matrices are to be had for every problem: the Hessian of
    `divergence` at its reference is the metric of output space.
    """

    score: ClassVar[str]
    """The metric by which states are selected and results reported."""
    higher_is_better: ClassVar[bool]

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
    """Outputs [B, S, ...] of B tasks for parameters with leaves [B, ...]."""
    if support is None:
        return vmap(lambda p, x: problem.outputs(p, x, None))(params, examples.inputs)
    return vmap(problem.outputs)(params, examples.inputs, support.inputs)


def losses_of(problem: Problem, params: Params, examples: Examples, support: Examples | None = None) -> Tensor:
    """Losses [B] of B tasks for parameters with leaves [B, ...]."""

    def loss(phi: Params, inputs: Tensor, targets: Tensor, support_inputs: Tensor | None = None) -> Tensor:
        return problem.loss(problem.outputs(phi, inputs, support_inputs), targets)

    rest = () if support is None else (support.inputs,)
    return vmap(loss)(params, examples.inputs, examples.targets, *rest)
