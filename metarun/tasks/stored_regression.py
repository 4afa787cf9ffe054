"""Regression on stored examples: a task is some rows of one group, drawn as a function of (seed, split, index)."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
from metarun.tasks.class_store import ClassStore
from metarun.tasks.curves import check_points
from metarun.tasks.types import Examples, Split, TaskBatch

_INT64 = torch.iinfo(torch.int64)
_KEYS: dict[Split, tuple[str, str]] = {
    "train": ("dataset.shots", "dataset.queries"),
    "test": ("evaluation.shots", "evaluation.queries"),
    "val": ("evaluation.val_shots", "evaluation.val_queries"),
}
"""As in `metarun.tasks.episodes`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRegression:
    """Each task is one of the split's, all alike probable, with other rows of it each time; no row is in both of its sets.

    Changing `shots` moves neither the tasks nor the query rows.

    Attributes:
        store: the examples with their targets; its classes are the tasks.
    """

    store: ClassStore

    def __post_init__(self) -> None:
        if self.store.targets is None:
            raise ValueError("a regression needs targets, and the store of these examples has none.")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the store's items."""
        return tuple(self.store.items.shape[1:])

    @property
    def output_size(self) -> int:
        """Numbers to predict of one example."""
        return self._targets.shape[1]

    def to(self, device: torch.device | str) -> "StoredRegression":
        """The same tasks, with the examples on `device`."""
        return dataclasses.replace(self, store=self.store.to(device))

    @property
    def whereabouts(self) -> str:
        """What the store holds and where it lies, in words."""
        store, shape = self.store, "x".join(map(str, self.input_shape))
        fewest, most = int(store.counts.min()), int(store.counts.max())
        each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        words = f"{len(store.items):,} of {shape} in {len(store.classes):,} tasks of {each}, "
        return words + f"{store.num_bytes / 2**20:,.0f} MiB, {'on the GPU' if store.items.is_cuda else 'in memory'}"

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise `ValueError` unless every task of `split` has `shots` + `queries` rows, and there is one."""
        check_points(shots, queries)
        tasks = self.store.splits[split]
        if not len(tasks):
            raise ValueError(
                f"split {split} has no task: {len(self.store.classes)} are there. Set dataset.split_fractions, or say in the "
                "data which split each is of."
            )
        counts = self.store.counts[tasks]
        num_short = int((counts < shots + queries).sum())
        if num_short:
            fewest, position = (int(value) for value in counts.min(0))
            worst, keys = self.store.classes[int(tasks[position])], _KEYS[split]
            hint = f"{keys[1]}={fewest - shots}" if fewest > shots else f"fewer {keys[0]}"
            raise ValueError(
                f"{shots} shots + {queries} queries need {shots + queries} examples per task, but in split {split} {num_short} of "
                f"{len(tasks)} tasks have fewer, {worst} the fewest with {fewest}. Lower {keys[0]} or {keys[1]} ({hint} would "
                "do), or leave small tasks out: dataset.min_examples."
            )

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` (int64 [B]) of `split`.

        Returns:
            Inputs float32 [B, K, *input_shape] and [B, Q, ...], targets float32 [B, K, outputs] and [B, Q, outputs]. Latent:
            `task` [B] ids in the store, `support_rows` [B, K] and `query_rows` [B, Q], positions within the task.
        """
        store = self.store
        indices = indices.to(store.counts.device)
        tasks = store.splits[split]
        unit = rng.uniform(rng.key(seed, "stored_regression", split, "task"), indices, 1)[:, 0]
        chosen = tasks[(unit * len(tasks)).floor().to(torch.int64)]
        draws = rng.bits(rng.key(seed, "stored_regression", split, "rows"), indices, store.largest[split])
        is_missing = torch.arange(store.largest[split], device=indices.device) >= store.counts[chosen][:, None]
        # As for episodes: queries from the top of the random order, support from the bottom.
        query = draws.masked_fill(is_missing, _INT64.min).topk(queries).indices
        support = draws.masked_fill(is_missing, _INT64.max).topk(shots, largest=False).indices

        def examples(positions: Tensor) -> Examples:
            rows = store.starts[chosen][:, None] + positions
            inputs, targets = (
                values.index_select(0, rows.flatten()).view(*rows.shape, *values.shape[1:])
                for values in (store.items.to(torch.float32), self._targets)
            )
            return Examples(inputs, targets)

        latent = {"task": chosen, "support_rows": support, "query_rows": query}
        return TaskBatch(examples(support), examples(query), latent)

    @property
    def _targets(self) -> Tensor:
        assert self.store.targets is not None  # __post_init__
        return self.store.targets
