"""The inner loop: every solver's steps are taken here, in training, in evaluation and when steps are computed again."""

from collections import deque
from collections.abc import Iterator, Sequence

from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.protocols import InnerSolution, InnerSolver, S
from metarun.maths.trees import Params


def trajectory(
    solver: InnerSolver[S], inner: InnerProblem, steps: int, *, phi: Params | None = None, first: int = 0
) -> Iterator[S]:
    """The solver's states before step `first` and after it and each later one, up to `steps`; `steps + 1 - first` in all.

    Where data depend on parameters, each step has data of its own, collected at the phi from which it is taken.

    Args:
        phi: where step `first` begins; None: at theta.
    """
    phi = inner.start if phi is None else phi
    state = solver.start(inner.collected(phi, first), phi)
    yield state
    for number in range(first, steps):
        state = solver.step(inner.collected(state.params, number), state, number)
        yield state


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
    (state,) = deque(trajectory(solver, inner, steps, phi=phi, first=first), maxlen=1)
    return solver.solution(inner.collected(state.params, steps), state, steps)


def solutions(solver: InnerSolver[S], inner: InnerProblem, numbers: Sequence[int]) -> Iterator[InnerSolution]:
    """Of one trajectory, phi after each of these numbers of steps.

    Args:
        numbers: ascending, each once.
    """
    asked = iter(numbers)
    wanted = next(asked, None)
    for number, state in enumerate(trajectory(solver, inner, max(numbers, default=0))):
        if number == wanted:
            yield solver.solution(inner.collected(state.params, number), state, number)
            wanted = next(asked, None)
