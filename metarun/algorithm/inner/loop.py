"""The inner loop: every solver's steps are taken here, in training, in evaluation and when steps are computed again."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution, InnerSolver, S
from metarun.device.stages import staged
from metarun.maths.loops import repeat
from metarun.maths.trees import Params


def advanced(
    solver: InnerSolver[S],
    inner: InnerProblem,
    state: S | None,
    steps: int,
    *,
    phi: Params | None = None,
    first: int = 0,
) -> S:
    """The solver's state after step `steps - 1`, from that before step `first`.

    Where data depend on parameters, each step has data of its own, collected at the phi from which it is taken.

    Args:
        state: None: where step `first` begins, at phi.
        phi: None: theta.
    """
    if state is None:
        phi = inner.start if phi is None else phi
        state = solver.start(inner.collected(phi, first), phi)

    def step(state: S, number: int | Tensor) -> S:
        return solver.step(inner.collected(state.params, number), state, number)

    return repeat(step, state, steps, first=first)


def trajectory(
    solver: InnerSolver[S], inner: InnerProblem, steps: int, *, phi: Params | None = None, first: int = 0
) -> Iterator[S]:
    """The solver's states before step `first` and after it and each later one, up to `steps`; `steps + 1 - first` in all.

    Args:
        phi: where step `first` begins; None: at theta.
    """
    state = advanced(solver, inner, None, first, phi=phi, first=first)
    yield state
    for number in range(first, steps):
        state = advanced(solver, inner, state, number + 1, first=number)
        yield state


@staged("inner loop")
def solve(
    solver: InnerSolver[S],
    inner: InnerProblem,
    steps: int | None = None,
    *,
    phi: Params | None = None,
    first: int = 0,
) -> InnerSolution:
    """phi of all tasks after `steps` steps (None: the solver's own number), with a graph where theta has one.

    Args:
        phi, first: as of `trajectory`.
    """
    steps = solver.steps if steps is None else steps
    state = advanced(solver, inner, None, steps, phi=phi, first=first)
    return solver.solution(inner.collected(state.params, steps), state, steps)


def solutions(solver: InnerSolver[S], inner: InnerProblem, numbers: Sequence[int]) -> Iterator[InnerSolution]:
    """Of one trajectory, phi after each of these numbers of steps.

    Args:
        numbers: ascending, each once.
    """
    state, taken = None, 0
    for number in numbers:
        state = advanced(solver, inner, state, number, first=taken)
        taken = number
        yield solver.solution(inner.collected(state.params, number), state, number)
