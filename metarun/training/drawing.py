"""The tasks of each outer step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
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
        fresh_size: further tasks of a step, over all ranks, for the direction alone (`Algorithm.num_fresh_tasks`).
    """

    source: TaskSource
    seed: int
    size: int
    shots: int
    queries: int
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = ALONE
    fresh_size: int = 0

    def of_step(self, step: int | Tensor) -> TaskBatch:
        """The tasks of one step, this rank's alone."""
        indices = step * self.size + torch.arange(self.size, device=self.device)
        return self.of(indices[self.ranks.share(self.size)])

    def fresh_of_step(self, step: int | Tensor) -> TaskBatch | None:
        """The further tasks of one step, of another sequence than the others; this rank's alone, None where there are none."""
        if not self.fresh_size:
            return None
        indices = step * self.fresh_size + torch.arange(self.fresh_size, device=self.device)
        return self._sampled(rng.key(self.seed, "fresh"), indices[self.ranks.share(self.fresh_size)])

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
        return self._sampled(self.seed, indices)

    def _sampled(self, seed: int, indices: Tensor) -> TaskBatch:
        tasks = self.source.sample(seed, "train", indices, self.shots, self.queries)
        return tasks.to(self.device, self.dtype)
