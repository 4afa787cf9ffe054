"""What a task is made of, as plain tensors with the task axis first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Data(Protocol):
    """What B tasks are learned from or measured on, whatever their kind: stored examples, or what a policy has collected.

    Attributes:
        inputs: of the model, [B, S, ...].
        targets: all else that a loss is made of: a tensor [B, S, ...], or several by name.
        classes: outputs from there on are of no class of these tasks; None: every output is, or there are no classes.
        norms: inputs whose statistics norm layers take in place of their own: one tensor [B, K, ...], or none.
    """

    @property
    def inputs(self) -> Tensor: ...  # noqa: D102

    @property
    def targets(self) -> Any: ...  # noqa: D102

    @property
    def classes(self) -> int | None: ...  # noqa: D102

    @property
    def norms(self) -> tuple[Tensor, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Examples:
    """A support or a query set of B tasks: inputs [B, S, *input_shape]; targets [B, S, *target_shape].

    The targets of a classification are class ids, int64 [B, S], all smaller than `classes` (`Data`).
    """

    inputs: Tensor
    targets: Tensor
    classes: int | None = None
    norms: tuple[Tensor, ...] = ()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Examples":
        """A copy on `device`, floating-point tensors in `dtype`."""
        return self._map(lambda tensor: _moved(tensor, device, dtype))

    def normalised_by(self, others: "Examples") -> "Examples":
        """The same, norm layers taking their statistics of the inputs of `others`."""
        return replace(self, norms=(others.inputs,))

    @property
    def num_bytes(self) -> int:
        """Of inputs and targets."""
        return self.inputs.nbytes + self.targets.nbytes

    def __getitem__(self, tasks: slice) -> "Examples":
        return self._map(lambda tensor: tensor[tasks])

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        norms = tuple(function(tensor) for tensor in self.norms)
        return Examples(function(self.inputs), function(self.targets), self.classes, norms)


@dataclass(frozen=True)
class TaskBatch:
    """B tasks. `latent` says what defines each (class ids [B, N], amplitude [B], ...), so that any task can be audited.

    Tasks whose data depend on parameters have no support and query sets: what is in `latent` is all there is of them.
    """

    support: Examples | None
    query: Examples | None
    latent: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.support.inputs if self.support is not None else next(iter(self.latent.values())))

    @property
    def support_set(self) -> Examples:
        """The stored support set.

        Raises:
            ValueError: there is none.
        """
        return _stored(self.support)

    @property
    def query_set(self) -> Examples:
        """The stored query set; raises as `support_set`."""
        return _stored(self.query)

    @property
    def num_bytes(self) -> int:
        """Of inputs and targets, or of what defines the tasks where there are none."""
        sets = [examples.num_bytes for examples in (self.support, self.query) if examples is not None]
        return sum(sets or [value.nbytes for value in self.latent.values()])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "TaskBatch":
        """A copy on `device`, floating-point examples in `dtype`; `latent` keeps its dtypes."""
        latent = {name: value.to(device) for name, value in self.latent.items()}
        return self._with(lambda examples: examples.to(device, dtype), latent)

    def __getitem__(self, tasks: slice) -> "TaskBatch":
        return self._with(lambda examples: examples[tasks], {name: value[tasks] for name, value in self.latent.items()})

    def chunks(self, size: int) -> list["TaskBatch"]:
        """The batch cut into consecutive pieces of at most `size` tasks."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def _with(self, function: Callable[[Examples], Examples], latent: dict[str, Tensor]) -> "TaskBatch":
        support = None if self.support is None else function(self.support)
        return TaskBatch(support, None if self.query is None else function(self.query), latent)


class TaskSource(Protocol):
    """Where tasks come from. Task `indices[b]` of a split is a function of (seed, split, index) alone."""

    input_shape: tuple[int, ...]
    output_size: int

    def to(self, device: torch.device | str) -> "TaskSource":
        """The same tasks, drawn on `device`."""
        ...

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise `ValueError`, with the keys to change, if the split cannot give `shots` + `queries` examples."""
        ...

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` (int64 [B]) with `shots` support and `queries` query examples (per class, where there are classes)."""
        ...


def _moved(tensor: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)


def _stored(examples: Examples | None) -> Examples:
    if examples is None:
        raise ValueError("these tasks hold no examples: their data depend on the parameters")
    return examples
