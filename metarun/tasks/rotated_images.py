"""The images of a split in all four quarter turns, in memory: a turned episode is then an index, like any other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.tasks.class_store import ClassStore
from metarun.tasks.types import Split

_MAX_BYTES = 128 * 2**20
"""Four times the images of a split may take so much; those of a larger one are turned anew for each episode."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RotatedImages:
    """Every image of a split in all four turns, turn after turn.

    Attributes:
        items: uint8 [4 * T, channels, side, side], the T upright ones first, then those turned by 90 degrees, and so on.
        starts: int64 [C], row of each class's first upright image; of no meaning for classes of other splits.
    """

    items: Tensor
    starts: Tensor

    @classmethod
    def of(cls, store: ClassStore, split: Split) -> "RotatedImages | None":
        """The turned images of `split`, beside `store`; None where they would take too much memory."""
        classes = store.splits[split]
        counts = store.counts[classes]
        num_bytes = 4 * int(counts.sum()) * store.items[0].numel()
        if num_bytes > _MAX_BYTES:
            return None
        ends = counts.cumsum(0)
        starts = torch.zeros_like(store.starts)
        starts[classes] = ends - counts
        total = int(ends[-1])
        rows = torch.arange(total, device=ends.device) + (store.starts - starts)[classes].repeat_interleave(counts)
        items = store.items.new_empty(4, total, *store.items.shape[1:])
        items[0] = store.items.index_select(0, rows)
        for quarter in range(1, 4):
            items[quarter] = torch.rot90(items[quarter - 1], 1, (-2, -1))
        return cls(items=items.flatten(0, 1), starts=starts)

    def first_rows(self, classes: Tensor, rotation: Tensor) -> Tensor:
        """Rows of the first images of `classes`, turned by `rotation` quarter turns counter-clockwise."""
        return self.starts[classes] + rotation * (len(self.items) // 4)
