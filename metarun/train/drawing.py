"""The tasks of each outer step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.device.ranks import ALONE, Ranks
from metarun.tasks.types import TaskBatch, TaskSource

_DRAWN_BYTES = 2**16
"""Of inputs and targets: drawing less at once takes as long."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Training tasks, a function of (seed, step) alone.

    Attributes:
        size: tasks of a step, over all ranks.
        shots, queries: examples of a task, per class where there are classes.
    """

    source: TaskSource
    seed: int
    size: int
    shots: int
    queries: int
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = ALONE

    def of_step(self, step: int | Tensor) -> TaskBatch:
        """The tasks of one step, this rank's alone."""
        indices = step * self.size + torch.arange(self.size, device=self.device)
        return self.of(indices[self.ranks.share(self.size)])

    def from_step(self, step: int) -> Iterator[TaskBatch]:
        """The tasks of `step` and of each step after it, this rank's alone.

        Small tasks are drawn for several steps at once, always for the same ones together: where in a vector a number is worked
        out may decide its last bit, and a run that goes on from here must meet the same.
        """
        share = self.ranks.share(self.size)
        together = max(1, _DRAWN_BYTES // (self.size * self.of(torch.arange(1, device=self.device)).num_bytes))
        while True:
            first = step - step % together
            indices = torch.arange(first * self.size, (first + together) * self.size, device=self.device)
            drawn = self.of(indices.view(together, self.size)[:, share].flatten())
            yield from drawn.chunks(len(drawn) // together)[step - first :]
            step = first + together

    def of(self, indices: Tensor) -> TaskBatch:
        """Tasks of the training sequence by their indices."""
        tasks = self.source.sample(self.seed, "train", indices, self.shots, self.queries)
        return tasks.to(self.device, self.dtype)
