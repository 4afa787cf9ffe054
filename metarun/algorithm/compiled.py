"""The meta-gradient of a step as one compiled program."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metarun.algorithm.bilevel import TaskGradients
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import EstimateFunction
from metarun.device.course import Course, course
from metarun.errors import TrainingError
from metarun.maths.trees import Params
from metarun.problems.base import Problem
from metarun.tasks.types import Examples, TaskBatch


@dataclass(frozen=True)
class Compiled:
    """An estimate (`Algorithm.estimate`) that is traced once for each shape of tasks, and then run as machine code.

    Traced are the tensor operations of one call, those of `vmap` and of every differentiation among them, so what the compiler
    is given is arithmetic without Python, autograd or task axis to look after: on small nets these are most of a step's time.
    For that the control flow of a call must not depend on values, nor on the outer step. The problem becomes part of the
    program: it is the same in every call.

    Attributes:
        estimate: what is traced.
        backend: of `torch.compile`.
    """

    estimate: EstimateFunction
    backend: str = "inductor"
    _programs: dict[Hashable, Callable[..., Any]] = field(default_factory=dict)

    def __call__(self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, step: int | Tensor) -> TaskGradients:
        """What `estimate` gives, but for rounding.

        Raises:
            ValueError: the control flow depends on values (`trace`).
            TrainingError: the compiler does not work here; found in the first call for each shape alone.
        """
        arguments = _arguments(theta, tasks, step)
        program = self._program(theta, problem, tasks, arguments)
        # Imported here: the compiler takes seconds.
        from torch._dynamo.exc import TorchDynamoException

        try:
            with torch.no_grad():
                return TaskGradients(*program(*arguments))
        except TorchDynamoException as error:
            raise TrainingError(
                f"device.compile=true, and the compiler failed: {_first_line(error)}. It needs a C++ compiler (g++ or clang++) "
                "on the path, and Triton on a GPU; device.compile=false does without."
            ) from error

    def trace(self, theta: MetaParameters, problem: Problem, tasks: TaskBatch) -> None:
        """Make the program for tasks of this shape; it is compiled when it is first called.

        Raises:
            ValueError: the control flow depends on values.
        """
        self._program(theta, problem, tasks, _arguments(theta, tasks, 0))

    def _program(
        self, theta: MetaParameters, problem: Problem, like: TaskBatch, arguments: tuple[Any, ...]
    ) -> Callable[..., Any]:
        classes = like.support_set.classes, like.query_set.classes
        shape = classes, _shape(arguments)
        if shape not in self._programs:

            def operations(leaves: Params, *tensors: Tensor) -> tuple[Params, Tensor, Params, dict[str, Tensor]]:
                *examples, step = tensors
                support = Examples(examples[0], examples[1], classes[0])
                tasks = TaskBatch(support, Examples(examples[2], examples[3], classes[1]), {})
                found = self.estimate(theta.updated(leaves), problem, tasks, step)
                return found.gradient, found.query_loss, found.params, found.stats

            try:
                with course(Course.ROLLED):
                    traced = make_fx(operations)(*arguments)
            except RuntimeError as error:
                if "tracing tensor" not in str(error):
                    raise
                raise ValueError(
                    "compile needs a step whose control flow does not depend on values, and this algorithm asks for them: it "
                    "searches step lengths (algorithm/inner=backtracking_descent or newton_cg; gradient_descent_16 does not), "
                    "looks whether a system was solved (algorithm.meta_gradient.solver.negative_curvature; stop does not), or "
                    "changes in the course of training. Change that, or choose device.compile=false."
                ) from error
            self._programs[shape] = torch.compile(traced, backend=self.backend, fullgraph=True, dynamic=False)
        return self._programs[shape]


def _arguments(theta: MetaParameters, tasks: TaskBatch, step: int | Tensor) -> tuple[Any, ...]:
    """All that a step's gradient depends on, as tensors; a number would become part of the program.

    How tensors lie in memory decides which operations are views, so they are made to lie always alike.
    """
    support, query = tasks.support_set, tasks.query_set
    tensors = support.inputs, support.targets, query.inputs, query.targets
    leaves = {name: leaf.detach() for name, leaf in (dict(theta) | theta.unlearned).items()}
    return leaves, *(each.contiguous() for each in tensors), torch.tensor(float(step), dtype=torch.float64)


def _shape(arguments: tuple[Any, ...]) -> Hashable:
    """What a trace holds for: how the tensors lie in memory decides, too, which operations are views."""
    leaves, *tensors = arguments
    return tuple((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in (*leaves.values(), *tensors))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
