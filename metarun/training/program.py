"""Outer steps as one program: compiled on a CPU, captured on a GPU."""

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metarun.device.course import Course, course
from metarun.maths.loops import with_constants_as_inputs
from metarun.maths.structures import tensors_of, with_tensors

Kind = Literal["eager", "compiled", "captured"]
FIRST_STEPS = 3
"""Outer steps that every run takes one operation at a time: after them all that is carried from step to step is there, and it is
known how long a step takes."""

_OPERATION_S = 1e-5  # what PyTorch, vmap and autograd spend on an operation beside its arithmetic
_COMPILER_S, _COMPILED_OPERATION_S, _MOST_S = 15.0, 0.02, 90.0
_ARITHMETIC_SHARE, _LARGE = 0.75, 3.0  # a step with more arithmetic has larger kernels, which take the compiler longer
_OVERHEAD_LEFT, _ARITHMETIC_LEFT = 0.2, 0.85
"""What compiling costs, and what it leaves of a step: from measurements on two cores (docs/speed.md)."""

Function = Callable[..., Any]


class NoProgram(Exception):
    """A function cannot be made a program; its message says why."""


class Program(Protocol):
    """A function of nests of tensors, made ready for tensors of certain shapes."""

    def __call__(self, state: list[Tensor], *others: Tensor) -> list[Tensor]:
        """The tensors of the next state. The same tensors may be given again; what is returned may be overwritten then."""
        ...


def compiled(function: Function, state: Any, *others: Any, backend: str = "inductor") -> Program:
    """`(state, *others) -> state` as machine code: traced once with everything in it, and handed to PyTorch's compiler.

    Traced are the tensor operations, those of `vmap` and of every differentiation among them, so that what is compiled is
    arithmetic without Python, autograd or task axis to look after: on small nets these are most of a step's time. Loops of the
    algorithm are loops of the program.

    Args:
        state, others: nests of tensors; examples, and what is given later has their shapes.
        backend: of `torch.compile`; "eager" runs the traced operations one by one.
    Raises:
        NoProgram: what is done depends on values, or there is no compiler.
    """
    example = [tensor.detach().contiguous() for tensor in tensors_of((state, *others))]
    traced, constants = with_constants_as_inputs(_traced(function, (state, *others), example))
    made = traced if backend == "eager" else torch.compile(traced, backend=backend, fullgraph=True, dynamic=False)
    # Imported here: the compiler takes seconds.
    from torch._dynamo.exc import TorchDynamoException

    try:
        with torch.no_grad(), _loops_may_be_cached(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch's compiler about itself
            made(*example, *constants)
    except TorchDynamoException as error:
        raise NoProgram(
            f"the compiler failed: {_first_line(error)}. It needs a C++ compiler (g++ or clang++) on the path"
        ) from error

    def program(state: list[Tensor], *others: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return made(*state, *others, *constants)

    return program


def captured(function: Function, state: Any, *others: Any) -> Program:
    """`(state, *others) -> state` as a CUDA graph: its kernels are launched together, without Python between them.

    The graph reads and writes tensors of its own; what is returned is overwritten by the next call.

    Raises:
        NoProgram: the function asks for a value, copies from the host, or does something else that cannot be captured.
    """
    tensors = [tensor.detach().clone() for tensor in tensors_of((state, *others))]
    count = len(tensors_of(state))

    def run() -> list[Tensor]:
        return tensors_of(function(*with_tensors((state, *others), tensors)))

    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    try:
        with course(Course.STATIC):
            # What libraries set up with their first calls must not be captured.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                for own, found in zip(tensors, run(), strict=False):  # the state's come first
                    own.copy_(found.detach())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NoProgram(f"the step cannot be captured: {_first_line(error)}") from error

    def program(state: list[Tensor], *others: Tensor) -> list[Tensor]:
        for own, given in zip(tensors, (*state, *others), strict=True):
            if own is not given:
                own.copy_(given, non_blocking=True)
        graph.replay()
        return tensors[:count]

    return program


def choose(step_s: float, operations: int, steps_left: int) -> Kind:
    """Whether compiling is worth it on a CPU.

    Args:
        step_s: seconds of a step, one operation at a time.
        operations: of such a step.
        steps_left: how many are still to be taken.
    """
    overhead = min(step_s, _OPERATION_S * operations)
    gained = (1 - _OVERHEAD_LEFT) * overhead + (1 - _ARITHMETIC_LEFT) * (step_s - overhead)
    cost = min(_MOST_S, _COMPILER_S + _COMPILED_OPERATION_S * operations)
    cost *= _LARGE if overhead < (1 - _ARITHMETIC_SHARE) * step_s else 1
    return "compiled" if steps_left * gained > cost else "eager"


def use_cache(folder: Path) -> None:
    """Let the compiler keep what it makes in `folder`, unless PyTorch's own variable names another."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


@dataclass
class EagerSteps:
    """What is learned from steps that are taken one operation at a time.

    Attributes:
        seconds: of each.
        operations: of the last one that was watched.
        names: of the numbers that a step gives.
    """

    seconds: list[float] = field(default_factory=list)
    operations: int = 0
    names: tuple[str, ...] = ()

    def watched(self) -> AbstractContextManager[object]:
        """A context for the heart of a step: the second one's operations are counted, which takes time."""
        if len(self.seconds) != 1 or self.operations:
            return nullcontext()
        return _CountedOperations(self)


class _CountedOperations(TorchDispatchMode):
    """While it is entered, counts PyTorch's operations."""

    def __init__(self, steps: EagerSteps) -> None:
        super().__init__()
        self._steps = steps

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Count, and do."""
        self._steps.operations += 1
        return func(*args, **(kwargs or {}))


def _traced(function: Function, examples: tuple[Any, ...], tensors: list[Tensor]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = with_tensors(examples, list(tensors))
        return tuple(tensor.detach().contiguous() for tensor in tensors_of(function(*given)))

    try:
        with course(Course.ROLLED):
            traced = make_fx(flat)(*tensors)
    except RuntimeError as error:
        if "tracing tensor" not in str(error) and "data-dependent" not in str(error).lower():
            raise
        raise NoProgram(
            "what it does depends on values, and a program's course may not (an optimizer other than Adam, AdamW, SGD and Rprop, "
            "or a model of your own that reads values in Python)"
        ) from error
    for node in list(traced.graph.nodes):
        if str(node.target).startswith("profiler."):  # PyTorch's optimizers mark their steps for its profiler
            node.replace_all_uses_with(None)
            traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _loops_may_be_cached() -> Any:
    """The compiler's cache knows a loop by its graphs, as it does the rest, but is not told so in PyTorch."""
    from torch._inductor import config

    return config.patch(unsafe_marked_cacheable_functions={"torch.ops.higher_order.while_loop": "1"})


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
