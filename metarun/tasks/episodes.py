"""N-way K-shot episodes: each is an index into a `ClassStore`, drawn as a function of (seed, split, index)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
from metarun.tasks.class_store import ClassStore
from metarun.tasks.types import Examples, Split, TaskBatch

_INT64 = torch.iinfo(torch.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """Classification tasks: `ways` classes without replacement, in random order; a label is a position in that order.

    Episodes are drawn on the device that holds the store, in integer arithmetic, so every device draws the same ones.
    Changing `shots` moves neither the classes nor the query images, so 1-shot and 5-shot results can be paired.

    Attributes:
        store: the images.
        ways: classes per episode.
        rotations: count a class turned by 0, 90, 180 and 270 degrees as four classes, in split train alone. One
            episode may hold two turns of one class, as is usual with Omniglot.
    """

    store: ClassStore
    ways: int
    rotations: bool

    def __post_init__(self) -> None:
        if self.ways < 2:
            raise ValueError(f"ways must be >= 2 to classify, got {self.ways}. Set dataset.ways.")
        height, width = self.store.images.shape[-2:]
        if self.rotations and height != width:
            raise ValueError(f"quarter turns need square images, got {height}x{width}. Set dataset.rotations=false.")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return tuple(self.store.images.shape[2:])

    @property
    def output_size(self) -> int:
        """One logit per way."""
        return self.ways

    def to(self, device: torch.device | str) -> "Episodes":
        """The same episodes, drawn on `device`: moves the store there."""
        return Episodes(store=self.store.to(device), ways=self.ways, rotations=self.rotations)

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise unless every episode of `split` can be filled.

        Raises:
            ValueError: fewer than `ways` classes, or a class with fewer than `shots` + `queries` images.
        """
        if shots < 1:
            raise ValueError(f"shots must be >= 1, got {shots}. Set dataset.shots.")
        if queries < 1:
            raise ValueError(f"queries must be >= 1, got {queries}. Set dataset.queries or evaluation.queries.")
        classes = self.store.splits[split]
        available = len(classes) * self._num_turns(split)
        if self.ways > available:
            turned = " (turned classes counted)" if self._num_turns(split) > 1 else ""
            raise ValueError(
                f"split {split} has {available} classes{turned}, but an episode needs ways = {self.ways}. "
                "Lower dataset.ways."
            )
        counts = self.store.counts[classes]
        num_short = int((counts < shots + queries).sum())
        if num_short:
            fewest, position = counts.min(0)
            worst = self.store.classes[int(classes[position])]
            raise ValueError(
                f"{shots} shots + {queries} queries need {shots + queries} images per class, but in split {split} "
                f"{num_short} of {len(classes)} classes have fewer, {worst} the fewest with {int(fewest)}. "
                "Lower dataset.shots, dataset.queries or evaluation.queries."
            )

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Episodes `indices` of `split`.

        Call `check` once before; `sample` does not repeat it, as it would wait for the device.

        Args:
            seed: any integer; with the split it names the sequence of episodes.
            split: whose classes to draw from.
            indices: int64 [B], which episodes of the sequence.
            shots: support images per class, K.
            queries: query images per class, Q.
        Returns:
            Inputs float32 in [0, 1], [B, N*K, channels, H, W] and [B, N*Q, ...], grouped by label; targets int64.
            Latent: `classes` [B, N] ids in the store, `rotation` [B, N] quarter turns counter-clockwise,
            `support_images` [B, N, K] and `query_images` [B, N, Q], positions within the class.
        """
        store, ways, turns = self.store, self.ways, self._num_turns(split)
        indices = indices.to(store.images.device)
        split_classes = store.splits[split]
        # The largest of independent random numbers, in order: a uniform ordered choice without replacement.
        class_draws = rng.bits(rng.key(seed, "episodes", split, "classes"), indices, len(split_classes) * turns)
        chosen = class_draws.topk(ways).indices
        classes = split_classes[chosen // turns]
        rotation = chosen % turns

        num_images = store.images.shape[1]
        image_draws = rng.bits(rng.key(seed, "episodes", split, "images"), indices, ways, num_images)
        is_padding = torch.arange(num_images, device=indices.device) >= store.counts[classes][..., None]
        # Queries from the top of the random order, support from the bottom: disjoint, and neither moves the other.
        query = image_draws.masked_fill(is_padding, _INT64.min).topk(queries).indices
        support = image_draws.masked_fill(is_padding, _INT64.max).topk(shots, largest=False).indices

        latent = {"classes": classes, "rotation": rotation, "support_images": support, "query_images": query}
        turned = rotation if turns > 1 else None
        return TaskBatch(self._examples(classes, turned, support), self._examples(classes, turned, query), latent)

    def _num_turns(self, split: Split) -> int:
        return 4 if self.rotations and split == "train" else 1

    def _examples(self, classes: Tensor, rotation: Tensor | None, positions: Tensor) -> Examples:
        """Images `positions` [B, N, K] of `classes` [B, N], each class turned by `rotation` [B, N] quarter turns."""
        tasks, ways, per_class = positions.shape
        _, num_images, channels, height, width = self.store.images.shape
        rows = classes[..., None] * num_images + positions
        pixels = self.store.images.flatten(0, 1).flatten(1).index_select(0, rows.flatten())
        if rotation is not None:
            source = _turned_pixels(height, pixels.device)[rotation]  # [B, N, H*W]
            source = source[:, :, None, None].expand(tasks, ways, per_class, channels, height * width)
            pixels = pixels.view(source.shape).gather(-1, source)
        inputs = pixels.view(tasks, ways * per_class, channels, height, width).to(torch.float32).div_(255)
        targets = torch.arange(ways, device=inputs.device).repeat_interleave(per_class).expand(tasks, -1)
        return Examples(inputs, targets.contiguous())


def _turned_pixels(side: int, device: torch.device) -> Tensor:
    """For 0 to 3 quarter turns, where each pixel of the turned image comes from: int64 [4, side * side]."""
    upright = torch.arange(side * side, device=device).view(side, side)
    return torch.stack([torch.rot90(upright, turns).flatten() for turns in range(4)])
