"""Outer steps taken by a program, between two looks at their numbers."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metarun.algorithm.meta_parameters import MetaParameters
from metarun.device.ranks import Ranks
from metarun.maths.structures import tensors_of, with_tensors
from metarun.problems.base import Problem
from metarun.run_folder.state import TrainState
from metarun.tasks.types import TaskBatch
from metarun.training.drawing import Drawing
from metarun.training.optimizer import MakeOptimizer, MakeSchedule, watches_score
from metarun.training.optimizer_rule import changing_settings, memory_of, remember
from metarun.training.outer_step import NO_STEP, OuterStep, StepState, without_sums
from metarun.training.program import NoProgram, Program

_LOOK_S = 0.2
"""Steps are taken without looking for about as long: a person sees the bar move, and a signal is answered."""
_AGREES = 1e-2
"""Relative difference of a step's loss and gradient norm, as the program and the step itself have them, up to which it is rounding:
searches may end elsewhere by it."""


class ProgramSteps:
    """The steps of a run by a program that holds their state; `settle` brings it back to where the trainer has it.

    Args:
        make: the program of a function, from examples of its arguments (`program.compiled` or `program.captured`).
        step: the outer step.
        state: after at least one step.
    Raises:
        NoProgram: with the reason.
    """

    def __init__(
        self,
        make: Callable[..., Program],
        step: OuterStep,
        state: TrainState,
        theta: MetaParameters,
        optimizer: torch.optim.Optimizer,
        lr_schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        device = next(iter(theta.values())).device
        self._state, self._theta, self._optimizer, self._lr_schedule = state, theta, optimizer, lr_schedule
        self._names = step.names
        self._rate = torch.zeros((), dtype=torch.float64, device=device)
        self._given_rate: float | None = None
        self._step_s: float | None = None
        begin = StepState(
            theta={name: leaf.detach() for name, leaf in theta.items()},
            memory=memory_of(optimizer),
            algorithm={name: value.to(device) for name, value in state.algorithm.items()},
            step=torch.full((), state.step, dtype=torch.int64, device=device),
            sums=torch.zeros(len(step.names), dtype=torch.float64, device=device),
            failed=torch.full((), NO_STEP, dtype=torch.int64, device=device),
        )
        self._batches: Iterator[TaskBatch] | None = None
        examples: list[TaskBatch] = []
        if not is_drawn_in_a_program(step.drawing, state.step):
            self._batches = step.drawing.from_step(state.step)
            examples = [step.drawing.of_step(state.step)]
        self._set_rate()
        self._structure = begin
        self._program = make(step, begin, self._rate, *examples)
        self._values = [tensor.clone() for tensor in tensors_of(begin)]
        self._check(step, begin, examples)
        self._begin()

    def take(self, until: int, asked_to_stop: Callable[[], bool]) -> int | None:
        """Take steps up to `until`, fewer where a look at them is due, and add up their numbers in the run's state.

        Returns:
            The step whose numbers are not finite, with everything as it was before that; None: all were.
        """
        state = self._state
        started, first = time.perf_counter(), state.step
        schedule = self._lr_schedule
        at_start = schedule.state_dict(), self._optimizer.param_groups[0]["lr"]
        steps_itself = not watches_score(schedule)
        until = min(until, first + max(1, int(_LOOK_S / self._step_s))) if self._step_s else min(until, first + 1)
        program, values, rate = self._program, self._values, self._rate
        group = self._optimizer.param_groups[0]
        while state.step < until:
            if group["lr"] != self._given_rate:
                self._set_rate()
            values = program(values, rate, *(tensors_of(next(self._batches)) if self._batches is not None else ()))
            if steps_itself:
                schedule.step()
            state.step += 1
            if asked_to_stop():
                break
        self._values = values
        now = self._now()
        sums, failed = now.sums.tolist(), int(now.failed)
        taken = time.perf_counter() - started
        self._step_s = taken / (state.step - first)
        if failed != NO_STEP:
            # The schedule has gone on without the steps: it takes those again that were good.
            schedule.load_state_dict(at_start[0])
            group["lr"] = at_start[1]
            for _ in range(failed - first if steps_itself else 0):
                schedule.step()
            state.step = failed
        for name, value in zip(self._names, sums, strict=True):
            state.sums[f"train/{name}"] = state.sums.get(f"train/{name}", 0.0) + value
        state.sums["time/step_s"] = state.sums.get("time/step_s", 0.0) + taken
        state.count += state.step - first
        state.step_s += taken
        self._begin()
        return None if failed == NO_STEP else failed

    def settle(self) -> None:
        """Give the run's parameters, its optimizer and its state what the program has."""
        now = self._now()
        with torch.no_grad():
            for name, leaf in self._theta.items():
                leaf.copy_(now.theta[name])
        remember(self._optimizer, [{name: value.clone() for name, value in each.items()} for each in now.memory])
        self._state.algorithm = {name: value.clone() for name, value in now.algorithm.items()}

    def _now(self) -> StepState:
        return with_tensors(self._structure, list(self._values))

    def _begin(self) -> None:
        """Forget the sums."""
        self._values = tensors_of(without_sums(self._now()))

    def _set_rate(self) -> None:
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._rate.fill_(rate)
        self._given_rate = rate

    def _check(self, step: OuterStep, begin: StepState, examples: Sequence[TaskBatch]) -> None:
        """Refuse a program whose first step is not the step's: compilers are wrong at times."""
        expected = step(begin, self._rate, *examples)
        found = with_tensors(begin, list(self._program(tensors_of(begin), self._rate, *tensors_of(list(examples)))))
        for name in ("loss", "gradient_norm"):
            place = step.names.index(name)
            one, other = float(expected.sums[place]), float(found.sums[place])
            if not abs(one - other) <= _AGREES * abs(one):
                raise NoProgram(f"its first step has {name} {other:.6g}, and the step itself {one:.6g}")


def is_drawn_in_a_program(drawing: Drawing, step: int) -> bool:
    """Whether the tasks of a step can be traced as a function of its number: those of other steps must come out to the bit."""

    def draw(step: Tensor) -> list[Tensor]:
        return tensors_of(drawing.of_step(step))

    numbers = [torch.full((), step + ahead, dtype=torch.int64, device=drawing.device) for ahead in (0, 1, 5)]
    try:
        traced = make_fx(draw)(numbers[0])
    except (RuntimeError, TypeError, ValueError):  # it reads values, or asks another library
        return False
    return all(
        torch.equal(one, other)
        for number in numbers[1:]
        for one, other in zip(traced(number), draw(number), strict=True)
    )


def no_program_for(
    problem: Problem, ranks: Ranks, make: MakeOptimizer, make_schedule: MakeSchedule, steps: int
) -> str | None:
    """Why the steps of a run cannot be a program, whatever the algorithm; None where they can."""
    if problem.data_depend_on_params:
        return "each step collects data anew, which is no function of tensors alone"
    if ranks.size > 1:
        return f"{ranks.size} ranks share each step, and what they tell each other is no part of a program"
    changing = changing_settings(make, make_schedule, steps)
    if changing:
        return (
            f"lr_schedule changes {', '.join(changing)} of the optimizer, too, and a program takes these for constant"
        )
    return None
