"""Tasks that a person's own function makes: one call, one task."""

import dataclasses
import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from metarun import checks, rng
from metarun.errors import ConfigurationError
from metarun.tasks.types import Examples, Split, TaskBatch

_KEYS: dict[Split, tuple[str, str]] = {
    "train": ("dataset.shots", "dataset.queries"),
    "test": ("evaluation.shots", "evaluation.queries"),
    "val": ("evaluation.val_shots", "evaluation.val_queries"),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a function is told of the task that it is to make.

    Attributes:
        split: "train", "val" or "test".
        index: of the task in its split's sequence, from 0.
        generator: what to draw from, and nothing else: `torch.rand(3, generator=task.generator)`. It is a function of the seed,
            the split and the index, so that a run that goes on meets the same tasks.
        num_examples: how many examples to return; of each class, where there are classes.
        ways: classes of the task; None for a regression.
    """

    split: Split
    index: int
    generator: Generator
    num_examples: int
    ways: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionSource:
    """Tasks of a function of `Task` that returns inputs [n, ...] and targets, tensors or what `torch.as_tensor` takes.

    Of a regression n is `num_examples`, and targets are numbers [n] or [n, outputs]. Of a classification n is `ways` times
    `num_examples`, and targets are labels [n] from 0 on, each `num_examples` times, in any order. Of each task, or of each class
    of it, the first examples are support and the last ones queries: changing the number of one moves nothing else.

    The function is called on the CPU, once for each task: what it computes for one, metarun need not be told how to do for many.

    Attributes:
        function: the function.
        num_examples: examples of a task (of a class), at least shots + queries.
        ways: classes of a task; None for a regression.
    """

    function: Callable[[Task], Any]
    num_examples: int
    ways: int | None = None
    _device: torch.device | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(
                f"function must be a function of one task, got {self.function!r}. Set dataset.source.function._target_ to its name "
                "with its module, and keep _partial_: true beside it."
            )
        checks.integer("num_examples", self.num_examples, minimum=2)
        if self.ways is not None:
            checks.integer("ways", self.ways, minimum=2)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example, as the first task has it."""
        return tuple(self._first[0].shape[1:])

    @property
    def output_size(self) -> int:
        """The classes of a task, or the numbers to predict as the first task has them."""
        return self._first[1].shape[1] if self.ways is None else self.ways

    def to(self, device: torch.device | str) -> "FunctionSource":
        """The same tasks, made on the CPU and copied to `device`."""
        return dataclasses.replace(self, _device=torch.device(device))

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise `ValueError` unless the tasks have `shots` + `queries` examples, and the function makes one task twice alike."""
        for key, number in zip(_KEYS[split], (shots, queries), strict=True):
            if number < 1:
                raise ValueError(f"shots and queries must be >= 1, got {number}. Set {key}.")
        if shots + queries > self.num_examples:
            raise ValueError(
                f"{shots} shots + {queries} queries need {shots + queries} examples, and dataset.source.num_examples is "
                f"{self.num_examples}. Raise it, or lower {_KEYS[split][0]} or {_KEYS[split][1]}."
            )
        one, other = self._made(0, split, 0), self._made(0, split, 0)
        if not all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
            raise ValueError(
                f"{self._name} makes another task when it is called again for the same one: draw from task.generator alone, as in "
                "torch.rand(3, generator=task.generator)."
            )

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` (int64 [B]) of `split`.

        Returns:
            Inputs [B, K, ...] and targets as the function has them, of a classification [B, N*K, ...] grouped by label.
            Latent: `index` [B].
        """
        made = [self._alike(self._made(seed, split, index), split, index) for index in indices.tolist()]
        classes, device = self.ways or 1, self._device or torch.device("cpu")
        # [B, N, n, ...]: of each class the first are support, the last queries.
        inputs, targets = (torch.stack(values).unflatten(1, (classes, -1)) for values in zip(*made, strict=True))

        def examples(part: slice) -> Examples:
            chosen, asked = (value[:, :, part].flatten(1, 2).to(device) for value in (inputs, targets))
            return Examples(chosen, asked, self.ways)

        return TaskBatch(
            examples(slice(0, shots)),
            examples(slice(self.num_examples - queries, None)),
            {"index": indices.to(device)},
        )

    @functools.cached_property
    def _first(self) -> tuple[Tensor, Tensor]:
        return self._made(0, "train", 0)

    @property
    def _name(self) -> str:
        function = self.function.func if isinstance(self.function, functools.partial) else self.function
        return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"

    def _alike(self, made: tuple[Tensor, Tensor], split: Split, index: int) -> tuple[Tensor, Tensor]:
        """What was made for a task, if it has the shapes of the first one."""
        shapes, expected = ([list(value.shape) for value in values] for values in (made, self._first))
        if shapes != expected:
            raise ConfigurationError(
                f"{self._name}, task {index} of split {split}: every task must have the shapes of the first, {expected[0]} and "
                f"{expected[1]}, and this one has {shapes[0]} and {shapes[1]}."
            )
        return made

    def _made(self, seed: int, split: Split, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one task, those of a classification grouped by label.

        Raises:
            ConfigurationError: the function fails, or returns something else.
        """
        generator = rng.generator(seed, "function", split, index)
        task = Task(split=split, index=index, generator=generator, num_examples=self.num_examples, ways=self.ways)
        where = f"{self._name}, task {index} of split {split}"
        try:
            returned = self.function(task)
        except Exception as error:  # whatever a person's own code raises
            frame = traceback.extract_tb(error.__traceback__)[-1]
            said = " ".join(str(error).split())
            raise ConfigurationError(
                f"{where}: it failed ({frame.filename}, line {frame.lineno}: {type(error).__name__}: {said})."
            ) from error
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise ConfigurationError(
                f"{where}: it must return inputs and targets, and returned {_described(returned)}."
            )
        try:
            inputs, targets = (torch.as_tensor(value).detach().cpu() for value in returned)
        except (TypeError, ValueError, RuntimeError) as error:
            words = " and ".join(map(_described, returned))
            raise ConfigurationError(f"{where}: it must return two tensors, and returned {words}.") from error
        number = self.num_examples * (self.ways or 1)
        targets = targets[:, None] if self.ways is None and targets.dim() == 1 else targets
        if inputs.dim() < 2 or len(inputs) != number:
            raise ConfigurationError(f"{where}: inputs must be [{number}, ...], got {list(inputs.shape)}.")
        if not (inputs.isfinite().all() and targets.isfinite().all()):
            raise ConfigurationError(f"{where}: inputs and targets must be finite, and one of their numbers is not.")
        if self.ways is None:
            if targets.dim() != 2 or len(targets) != number or not targets.is_floating_point():
                raise ConfigurationError(
                    f"{where}: targets must be floating-point numbers [{number}] or [{number}, outputs], got {_described(targets)}."
                )
        else:
            counts = targets.unique(return_counts=True)
            expected = torch.arange(self.ways), torch.full((self.ways,), self.num_examples)
            if targets.shape != (number,) or not all(map(torch.equal, counts, expected)):
                raise ConfigurationError(
                    f"{where}: targets must be labels [{number}], each of 0 to {self.ways - 1} {self.num_examples} times, got "
                    f"{_described(targets)} with {dict(zip(*(c.tolist() for c in counts), strict=True))}."
                )
            order = targets.argsort(stable=True)
            inputs, targets = inputs[order], targets[order].to(torch.int64)
        return inputs, targets


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
