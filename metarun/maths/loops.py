"""The loop of iterative methods on B systems at once: in Python, or as one loop of a traced program."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from metarun.device.course import Course, course, is_rolled, may_read_values, may_wait
from metarun.maths.structures import tensors_of, with_tensors

State = TypeVar("State")


def repeat(
    step: Callable[[State, int | Tensor], State],
    state: State,
    times: int,
    *,
    first: int = 0,
    ended: Callable[[State], Tensor] | None = None,
    is_dear: bool = False,
) -> State:
    """The state after steps `first`, `first + 1`, ..., `times - 1`, or fewer where all of them have `ended`.

    A step must leave as it is whatever has ended, so that stopping early changes no bit.

    Args:
        step: (state, number of the step) -> the next state, of the same structure, shapes and number formats. The number is a
            tensor in a rolled loop (`Course.ROLLED`).
        state: a nest of tensors.
        ended: a boolean tensor that is true where there is nothing left to do.
        is_dear: a step costs more than a wait for the device.
    """
    worth_a_loop = times - first > 1 or (times > first and ended is not None)
    if is_rolled() and worth_a_loop and not any(tensor.requires_grad for tensor in tensors_of(state)):
        rolled = _rolled(step, state, times, first, ended)
        if rolled is not None:
            return rolled
    may_end = ended is not None and (may_read_values(tensors_of(state)[0]) or (is_dear and may_wait()))
    for number in range(first, times):
        if may_end and ended is not None and bool(ended(state).all()):
            break
        state = step(state, number)
    return state


def repeat_refreshing(
    step: Callable[[State, int | Tensor], State],
    refreshing: Callable[[State, int | Tensor], State],
    state: State,
    times: int,
    *,
    every: int,
    ended: Callable[[State], Tensor],
) -> State:
    """`repeat`, with `refreshing` in the place of each `every`-th step: dearer, it mends what rounding has done to a recurrence."""
    for first in range(0, times, every):
        plain = min(first + every - 1, times)
        state = repeat(step, state, plain, first=first, ended=ended)
        state = repeat(refreshing, state, min(plain + 1, times), first=plain, ended=ended)
    return state


def _rolled(
    step: Callable[[Any, Tensor], Any],
    state: Any,
    times: int,
    first: int,
    ended: Callable[[Any], Tensor] | None,
) -> Any | None:
    """`repeat` as one operation of the program that is being traced, with the step as its body; None where steps have a graph.

    The body is traced by itself, so that the loop is compiled once however many steps it takes. Tensors that the step takes from
    around it become inputs of the loop.
    """
    # Imported here: they take seconds, and a run that compiles nothing needs neither.
    from torch._higher_order_ops.while_loop import while_loop_op
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    like = tensors_of(state)[0]
    number = torch.full((), first, dtype=torch.int64, device=like.device)
    carried = [number, *(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors_of(state))]

    def goes_on(number: Tensor, *tensors: Tensor) -> Tensor:
        more = number < times
        return more if ended is None else more & ~ended(with_tensors(state, list(tensors))).all()

    has_graph = False  # to what the step takes from around it

    def body(number: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        nonlocal has_graph
        after = tensors_of(step(with_tensors(state, list(tensors)), number))
        has_graph = any(tensor.requires_grad for tensor in after)
        return (number + 1, *(_own(tensor) for tensor in after))

    with disable_proxy_modes_tracing():
        examples = [tensor.detach().clone() for tensor in carried]
        condition_graph, condition_inputs = _traced(goes_on, examples)
        body_graph, body_inputs = _traced(body, examples)
    if has_graph:
        return None
    # Both graphs are given all that either takes from around it, each once and in memory of its own.
    around, places = _distinct([*condition_inputs, *body_inputs])
    split = len(condition_inputs)
    condition = _with_inputs(condition_graph, len(carried), places[:split], len(around))
    whole = _with_inputs(body_graph, len(carried), places[split:], len(around))
    with torch.no_grad():
        found: Any = cast(Any, while_loop_op)(condition, whole, tuple(carried), tuple(around))
    return with_tensors(state, list(found[1:]))


def _distinct(tensors: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The tensors without repetition, none sharing memory with another and none with a graph; and where each is found."""
    distinct: list[Tensor] = []
    known: dict[tuple, int] = {}
    storages: set[int] = set()
    places = []
    for tensor in tensors:
        storage = tensor.untyped_storage().data_ptr()
        key = (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in known:
            known[key] = len(distinct)
            distinct.append(tensor.detach().clone() if storage in storages else tensor.detach())
            storages.add(storage)
        places.append(known[key])
    return distinct, places


def _with_inputs(traced: torch.fx.GraphModule, own: int, places: list[int], number: int) -> torch.fx.GraphModule:
    """The graph with `number` inputs behind its `own` first ones, of which it takes those in `places` for the rest of its own."""
    graph = traced.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    last = inputs[own - 1]
    around = []
    for each in range(number):
        with graph.inserting_after(last):
            last = graph.placeholder(f"around_{each}")
        around.append(last)
    for node, place in zip(inputs[own:], places, strict=True):
        node.replace_all_uses_with(around[place])
        graph.erase_node(node)
    graph.eliminate_dead_code()
    traced.recompile()
    return traced


@contextmanager
def untraced() -> Iterator[None]:
    """Within the block nothing becomes part of a program that is being traced, and values may be looked at."""
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    with disable_proxy_modes_tracing(), course(Course.LOOKING):
        yield


def _traced(function: Callable[..., Any], examples: list[Tensor]) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The operations of a function of tensors, and the tensors that it takes from around it: further inputs of the graph."""
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(function)(*examples)
    return with_constants_as_inputs(traced)


def with_constants_as_inputs(traced: torch.fx.GraphModule) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The graph with every tensor that it holds as a further input, after the others; and those tensors."""
    graph = traced.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    found: dict[str, torch.fx.Node] = {}
    tensors: list[Tensor] = []
    for node in list(graph.nodes):
        if node.op != "get_attr" or not isinstance(value := getattr(traced, str(node.target), None), Tensor):
            continue
        if node.target not in found:
            with graph.inserting_after(last):
                last = found[node.target] = graph.placeholder(str(node.target).lstrip("_"))
            last.meta = dict(node.meta)
            tensors.append(value)
        node.replace_all_uses_with(found[node.target])
        graph.erase_node(node)
    for name in found:
        delattr(traced, name)
    traced.recompile()
    return traced, tensors


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own and in order: a loop's body must not hand on what it was given, nor in another layout.

    Always as an operation of the program: the compiler's own forms of others may lay their results out otherwise.
    """
    return tensor.detach().clone(memory_format=torch.contiguous_format)
