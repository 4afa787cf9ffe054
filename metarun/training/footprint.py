"""What memory the tasks of a step are bound to take, estimated before it is allocated."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from metarun.device.memory import available_bytes, extrapolated, peak_live_bytes, require_bytes, saved_bytes
from metarun.maths.trees import Params
from metarun.problems.base import Problem, losses_of
from metarun.tasks.types import Split, TaskBatch, TaskSource

_KEYS: dict[Split, tuple[str, str, str]] = {
    "train": ("schedule.tasks_per_step", "dataset.shots", "dataset.queries"),
    "test": ("evaluation.tasks", "evaluation.shots", "evaluation.queries"),
    "val": ("evaluation.val_tasks", "evaluation.val_shots", "evaluation.val_queries"),
}
_PLENTY = 10
"""Times what is drawn and saved: no work on tasks is known that takes as much, so with more there is nothing to measure."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one task of a split, on the CPU, from tasks of at most 16 shots or queries: never by making a large one.

    Attributes:
        model: its parameters, leaves without task axis, on the CPU.
        dtype: the run's number format.
        work: what is done with a batch of tasks; asked for where memory might be too small, and then done on few.
    """

    source: TaskSource
    problem: Problem
    model: Params
    dtype: torch.dtype
    split: Split
    shots: int
    queries: int
    work: Callable[[TaskBatch], object]

    @cached_property
    def drawn(self) -> int:
        """Inputs and targets."""
        return extrapolated(lambda shots, queries: self._task(shots, queries).num_bytes, self.shots, self.queries)

    @cached_property
    def drawing(self) -> int:
        """The most at once while the task is drawn."""

        def measure(shots: int, queries: int) -> int:
            two = peak_live_bytes(lambda: self._sample(2, shots, queries))
            return (peak_live_bytes(lambda: self._sample(4, shots, queries)) - two) // 2

        self._sample(1, 1, 1)  # what a source makes once belongs to no task
        return extrapolated(measure, self.shots, self.queries, max)

    @cached_property
    def saved(self) -> int:
        """What the forward passes of both sets save for backward."""

        def measure(shots: int, queries: int) -> int:
            phi, task = self._phi, self._task(shots, queries)
            return saved_bytes(
                lambda: (
                    losses_of(self.problem, phi, self.problem.support(task, phi, 0))
                    + losses_of(self.problem, phi, self.problem.query(task, phi, 0))
                )
            )

        return extrapolated(measure, self.shots, self.queries)

    @cached_property
    def working(self) -> int:
        """The most at once while the task is worked on."""

        def measure(shots: int, queries: int) -> int:
            # A task alone may be worked on by other kernels.
            two, four = (self._sample(number, shots, queries).to("cpu", self.dtype) for number in (2, 4))
            return (peak_live_bytes(lambda: self.work(four)) - peak_live_bytes(lambda: self.work(two))) // 2

        return extrapolated(measure, self.shots, self.queries, max)

    def require(self, num_drawn: int, num_at_once: int, device: torch.device) -> None:
        """Raise `ValueError`, with the keys to change, where a device has less memory than tasks are bound to take.

        Args:
            num_drawn: tasks drawn together.
            num_at_once: of them, worked on together.
        """
        if _PLENTY * (num_drawn * self.drawn + num_at_once * self.saved) < available_bytes(device):
            return
        tasks, shots, queries = _KEYS[self.split]
        each = f"task(s) of {self.shots} shots and {self.queries} queries"
        require_bytes(
            num_drawn * self.drawing, f"drawing {num_drawn} {each}", f"Lower {tasks}, {shots} or {queries}.", device
        )
        require_bytes(
            num_drawn * self.drawn + num_at_once * self.working,
            f"working on {num_at_once} {each} at once",
            f"Lower device.task_chunk, {shots} or {queries}, or take a smaller model.",
            device,
        )

    @property
    def _phi(self) -> Params:
        return {name: leaf[None].detach().requires_grad_() for name, leaf in self.model.items()}

    def _sample(self, number: int, shots: int, queries: int) -> TaskBatch:
        return self.source.sample(0, self.split, torch.arange(number), shots, queries)

    def _task(self, shots: int, queries: int) -> TaskBatch:
        return self._sample(1, shots, queries).to("cpu", self.dtype)
