"""How many tasks of a split a device holds while they are worked on, found by working on a few of them there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from metarun.device.chunks import fitting_chunk, peak_bytes
from metarun.device.memory import available_bytes
from metarun.maths.trees import Params
from metarun.tasks.types import Split, TaskBatch, TaskSource

_COPIES = 4
"""Of theta beside the tasks: itself, its gradient, and what an optimizer keeps of both."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Chunks of a split's tasks on a device.

    Attributes:
        source: on the device.
        theta: there too; leaves without task axis.
        work: what is done with a batch of tasks.
    """

    source: TaskSource
    theta: Params
    device: torch.device
    dtype: torch.dtype
    split: Split
    shots: int
    queries: int
    work: Callable[[TaskBatch], object]

    def chunk(self, num_tasks: int) -> int:
        """Of `num_tasks` tasks that lie on the device together, how many to work on at once (`fitting_chunk`)."""
        kept = num_tasks * self._sample(1).num_bytes + _COPIES * sum(leaf.nbytes for leaf in self.theta.values())
        return fitting_chunk(num_tasks, available_bytes(self.device) - kept, self.peak)

    def peak(self, number: int) -> int:
        """Bytes held at once while so many tasks are worked on, beyond what is held before."""
        tasks = self._sample(number)
        return peak_bytes(self.device, lambda: self.work(tasks))

    def _sample(self, number: int) -> TaskBatch:
        indices = torch.arange(number, device=self.device)
        return self.source.sample(0, self.split, indices, self.shots, self.queries).to(self.device, self.dtype)
