"""N-way K-shot episodes: each is an index into a `ClassStore`, drawn as a function of (seed, split, index)."""

import dataclasses
import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metarun import checks, rng
from metarun.tasks.augmentation import in_channels, moved
from metarun.tasks.class_store import ClassStore
from metarun.tasks.residence import Ahead, Residence, gathered, is_resident
from metarun.tasks.rotated_images import RotatedImages
from metarun.tasks.types import Examples, Split, TaskBatch

_INT64 = torch.iinfo(torch.int64)
_PER_WHITE = 1 / 255
"""Bytes become numbers in [0, 1] by a product, rounded to float32 as IEEE 754 has it, on every device. They are not divided: CUDA
turns a division by a number into a product with its reciprocal, and a CPU does not."""
_KEYS: dict[Split, dict[str, str]] = {
    "train": {"ways": "dataset.ways", "shots": "dataset.shots", "queries": "dataset.queries"},
    "test": {"ways": "dataset.test_ways", "shots": "evaluation.shots", "queries": "evaluation.queries"},
    "val": {"ways": "dataset.val_ways", "shots": "evaluation.val_shots", "queries": "evaluation.val_queries"},
}
"""The configuration keys of each split's tasks. By default test has the values of train, and val those of test, so that an error
of several splits is reported for the first of them."""


@dataclass(frozen=True)
class _Run:
    """Consecutive episodes: `count` from `first` on."""

    seed: int
    split: Split
    first: int
    count: int
    shots: int
    queries: int

    def following(self) -> "_Run":
        return dataclasses.replace(self, first=self.first + self.count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """Classification tasks: classes without replacement, in random order; a label is a position in that order.

    Episodes are drawn in integer arithmetic, so every device draws the same ones, and wherever the items lie. Changing
    `shots` moves neither the classes nor the query images, so 1-shot and 5-shot results can be paired.

    Attributes:
        store: the examples.
        ways: classes per episode of split train.
        test_ways: of split test; None for `ways`.
        val_ways: of split val; None for those of test.
        output_size: logits of the model; None for the largest number of ways. Those beyond an episode's ways are outputs
            that no label asks for.
        rotations: count a class turned by 0, 90, 180 and 270 degrees as four classes, in split train alone. One
            episode may hold two turns of one class, as is usual with Omniglot.
        flips: mirror half of the images left to right, in split train alone.
        channels: of the images as they are given to a model: grey becomes colour in three equal channels, colour becomes grey by
            its luminance (0.299 R + 0.587 G + 0.114 B); None: as they are stored.
        inverted: give black for white and white for black.
        crop_padding: shift each image by up to so many pixels each way, black coming in, in split train alone.
        residence: "device" keeps the items on the device whole, "host" gathers them for each episode, "auto" decides by size.
    """

    store: ClassStore
    ways: int
    rotations: bool
    test_ways: int | None = None
    val_ways: int | None = None
    output_size: int | None = None
    flips: bool = False
    crop_padding: int = 0
    channels: int | None = None
    inverted: bool = False
    residence: Residence = "auto"
    _device: torch.device | None = None
    _ahead: Ahead[_Run, tuple[TaskBatch, torch.cuda.Event]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("rotations", "flips", "inverted"):
            checks.boolean(name, getattr(self, name))
        for split in _KEYS:
            if self.ways_of(split) < 2:
                raise ValueError(
                    f"ways must be >= 2 to classify, got {self.ways_of(split)}. Set {_KEYS[split]['ways']}."
                )
        widest = max(_KEYS, key=self.ways_of)
        most = self.ways_of(widest)
        if self.output_size is None:
            object.__setattr__(self, "output_size", most)
        elif self.output_size < most:
            raise ValueError(
                f"the model needs an output for each of the {most} ways of split {widest}, got {self.output_size}. "
                f"Set dataset.output_size={most}, or lower {_KEYS[widest]['ways']}."
            )
        checks.integer("crop_padding", self.crop_padding, minimum=0)
        checks.one_of("residence", self.residence, ("auto", "device", "host"))
        is_image = self.store.items.dtype == torch.uint8
        if is_image and self.crop_padding >= min(self.store.items.shape[-2:]):
            raise ValueError(
                f"crop_padding must leave something of each image: < {min(self.store.items.shape[-2:])}, got "
                f"{self.crop_padding}. Set dataset.source.crop_padding."
            )
        if self.channels is not None and not (is_image and {self.channels, self.store.items.shape[1]} <= {1, 3}):
            raise ValueError(
                f"channels must be 1 (grey) or 3 (colour), of images that are either, got {self.channels}. Set "
                "dataset.source.channels=null."
            )
        if not is_image and (self.rotations or self.flips or self.crop_padding or self.inverted):
            raise ValueError(
                "rotations, flips, crop_padding and inverted are for images, and these examples are features. Leave them out."
            )
        if self.rotations and self.store.items.shape[-2] != self.store.items.shape[-1]:
            height, width = self.store.items.shape[-2:]
            raise ValueError(f"quarter turns need square images, got {height}x{width}. Set dataset.rotations=false.")
        if self._device is not None and self._device.type == "cuda":
            compute = functools.partial(self._on_side_stream, torch.cuda.Stream(self._device))
            object.__setattr__(self, "_ahead", Ahead(compute, _Run.following))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, height, width; or features."""
        stored = tuple(self.store.items.shape[1:])
        return stored if self.channels is None else (self.channels, *stored[1:])

    def to(self, device: torch.device | str) -> "Episodes":
        """The same episodes on `device`: moves the store there, or gathers from it on the host (`residence`)."""
        device = torch.device(device)
        if is_resident(self.store, device, self.residence):
            return dataclasses.replace(self, store=self.store.to(device), _device=None)
        return dataclasses.replace(self, _device=device)

    @property
    def whereabouts(self) -> str:
        """What the store holds and where it lies, in words."""
        store, sides = self.store, self.input_shape
        if store.items.dtype == torch.uint8:  # as images are spoken of: width x height x channels
            sides = sides[::-1]
        shape = "x".join(map(str, sides))
        counts = store.counts
        fewest, most = int(counts.min()), int(counts.max())
        each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        size = f"{len(store.items):,} of {shape} in {len(store.classes):,} classes of {each}, "
        size += f"{store.num_bytes / 2**20:,.0f} MiB"
        if self._device is not None:
            how = "pinned and copied ahead" if self._device.type == "cuda" else "memory-mapped, pages given back"
            return f"{size}, gathered on the host for each episode ({how})"
        if store.items.device.type == "cuda":
            return f"{size}, on the GPU whole"
        return f"{size}, {'memory-mapped' if store.mapping is not None else 'in memory'}"

    def ways_of(self, split: Split) -> int:
        """Classes per episode."""
        if split == "val" and self.val_ways is not None:
            return self.val_ways
        return self.ways if split == "train" or self.test_ways is None else self.test_ways

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise unless every episode of `split` can be filled.

        Raises:
            ValueError: fewer classes than ways, or a class with fewer than `shots` + `queries` images.
        """
        keys = _KEYS[split]
        for name, number in (("shots", shots), ("queries", queries)):
            if number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}. Set {keys[name]}.")
        classes, ways = self.store.splits[split], self.ways_of(split)
        available = len(classes) * self._num_turns(split)
        if ways > available:
            note = " (turned classes counted)" if self._num_turns(split) > 1 else ""
            raise ValueError(
                f"split {split} has {available} classes{note}, but an episode needs ways = {ways}. Lower {keys['ways']}."
            )
        counts = self.store.counts[classes]
        num_short = int((counts < shots + queries).sum())
        if num_short:
            fewest, position = (int(value) for value in counts.min(0))
            worst = self.store.classes[int(classes[position])]
            kind = "images" if self.store.items.dtype == torch.uint8 else "examples"
            hint = f"{keys['queries']}={fewest - shots}" if fewest > shots else f"fewer {keys['shots']}"
            raise ValueError(
                f"{shots} shots + {queries} queries need {shots + queries} {kind} per class, but in split {split} "
                f"{num_short} of {len(classes)} classes have fewer, {worst} the fewest with {fewest}. "
                f"Lower {keys['shots']} or {keys['queries']} ({hint} would do)."
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
            Inputs float32, images in [0, 1], [B, N*K, *input_shape] and [B, N*Q, ...], grouped by label; targets int64.
            Latent: `classes` [B, N] ids in the store, `rotation` [B, N] quarter turns counter-clockwise,
            `support_images` [B, N, K] and `query_images` [B, N, Q], positions within the class.
        """
        if self._ahead is None:
            return self._sampled(seed, split, indices.to(self.store.counts.device), shots, queries)
        numbers = indices.tolist()  # waits for the device, which the trainer has just done anyway
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return self._sampled(seed, split, indices.cpu(), shots, queries)
        batch, copied = self._ahead(_Run(seed, split, numbers[0], len(numbers), shots, queries))
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in _tensors(batch):
            tensor.record_stream(stream)  # its memory was taken on the other stream
        return batch

    def _on_side_stream(self, stream: torch.cuda.Stream, run: _Run) -> tuple[TaskBatch, torch.cuda.Event]:
        """The episodes of a run on the GPU, worked on beside whatever else it does, and the event of their being there."""
        with torch.cuda.stream(stream):
            indices = torch.arange(run.first, run.first + run.count)
            batch = self._sampled(run.seed, run.split, indices, run.shots, run.queries)
            copied = torch.cuda.Event()
            copied.record(stream)
            return batch, copied

    def _sampled(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """`sample`, with `indices` where the store's counts are."""
        store, ways, turns = self.store, self.ways_of(split), self._num_turns(split)
        split_classes = store.splits[split]
        # The largest of independent random numbers, in order: a uniform ordered choice without replacement.
        class_draws = rng.bits(rng.key(seed, "episodes", split, "classes"), indices, len(split_classes) * turns)
        chosen = class_draws.topk(ways).indices
        classes = split_classes[chosen // turns]
        rotation = chosen % turns

        num_images = store.largest[split]
        image_draws = rng.bits(rng.key(seed, "episodes", split, "images"), indices, ways, num_images)
        is_missing = torch.arange(num_images, device=indices.device) >= store.counts[classes][..., None]
        # Queries from the top of the random order, support from the bottom: disjoint, and neither moves the other.
        query = image_draws.masked_fill(is_missing, _INT64.min).topk(queries).indices
        support = image_draws.masked_fill(is_missing, _INT64.max).topk(shots, largest=False).indices

        latent = {"classes": classes, "rotation": rotation, "support_images": support, "query_images": query}

        def examples(part: str, positions: Tensor) -> Examples:
            moves = self._moves(seed, split, part, indices, positions)
            return self._examples(classes, rotation if turns > 1 else None, positions, *moves)

        support_set, query_set = examples("support", support), examples("query", query)
        if self._device is not None:
            latent = {name: value.to(self._device, non_blocking=True) for name, value in latent.items()}
        return TaskBatch(support_set, query_set, latent)

    @functools.cached_property
    def _turned(self) -> RotatedImages | None:
        """The training images in all turns, made with the first turned episode, where they can be indexed as they are."""
        is_moved = self.flips or self.crop_padding > 0  # before the turn
        return None if is_moved or self._device is not None else RotatedImages.of(self.store, "train")

    def _num_turns(self, split: Split) -> int:
        return 4 if self.rotations and split == "train" else 1

    def _moves(
        self, seed: int, split: Split, part: str, indices: Tensor, positions: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Which of the images `positions` [B, N, K] are mirrored, and by how much each is shifted."""
        is_flipped = shift = None
        if split == "train" and (self.flips or self.crop_padding):
            _, ways, per_class = positions.shape
            # Images before classes, so that more shots leave the first ones as they were.
            key = rng.key(seed, "episodes", split, "moves", part)
            unit = rng.uniform(key, indices, per_class, ways, 3).transpose(1, 2)
            is_flipped = unit[..., 0] < 0.5 if self.flips else None
            if self.crop_padding:
                choices = 2 * self.crop_padding + 1
                shift = (unit[..., 1:] * choices).floor().to(torch.int64) - self.crop_padding
        return is_flipped, shift

    def _examples(
        self,
        classes: Tensor,
        rotation: Tensor | None,
        positions: Tensor,
        is_flipped: Tensor | None,
        shift: Tensor | None,
    ) -> Examples:
        """Images `positions` [B, N, K] of `classes` [B, N], each class turned by `rotation` [B, N] quarter turns."""
        tasks, ways, per_class = positions.shape
        stored, first = self.store.items, self.store.starts[classes]
        if rotation is not None and (turned := self._turned) is not None:
            stored, first, rotation = turned.items, turned.first_rows(classes, rotation), None
        rows = (first[..., None] + positions).flatten()
        if self._device is not None:
            items = gathered(self.store, rows, self._device)
            rotation, is_flipped, shift = (
                None if value is None else value.to(self._device, non_blocking=True)
                for value in (rotation, is_flipped, shift)
            )
        else:
            items = stored.index_select(0, rows)
        if rotation is not None or is_flipped is not None or shift is not None:
            items = moved(items.view(tasks, ways, per_class, *items.shape[1:]), rotation, is_flipped, shift)
        items = 255 - items if self.inverted else items
        inputs = items.view(tasks, ways * per_class, *self.store.items.shape[1:]).to(torch.float32)
        if items.dtype == torch.uint8:
            inputs = inputs.mul_(_PER_WHITE)
        if self.channels is not None:
            inputs = in_channels(inputs, self.channels)
        targets = torch.arange(ways, device=inputs.device).repeat_interleave(per_class).expand(tasks, -1)
        return Examples(inputs, targets.contiguous(), ways)


def _tensors(batch: TaskBatch) -> list[Tensor]:
    parts = (batch.support_set, batch.query_set)
    return [*(tensor for part in parts for tensor in (part.inputs, part.targets)), *batch.latent.values()]
