"""What a task is made of, as plain tensors with the task axis first."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Examples:
    """A support or a query set of B tasks: inputs [B, S, *input_shape]; targets [B, S, *target_shape].

    The targets of a classification are class ids, int64 [B, S], all smaller than `classes`: outputs from there on are of no
    class of these tasks. None: every output is, or there are no classes.
    """

    inputs: Tensor
    targets: Tensor
    classes: int | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Examples":
        """A copy on `device`, floating-point tensors in `dtype`."""
        return Examples(_moved(self.inputs, device, dtype), _moved(self.targets, device, dtype), self.classes)

    def __getitem__(self, tasks: slice) -> "Examples":
        return Examples(self.inputs[tasks], self.targets[tasks], self.classes)


@dataclass(frozen=True)
class TaskBatch:
    """B tasks. `latent` says what defines each (class ids [B, N], amplitude [B], ...), so that any task can be audited."""

    support: Examples
    query: Examples
    latent: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.support.inputs)

    @property
    def num_bytes(self) -> int:
        """Of inputs and targets."""
        sets = self.support, self.query
        return sum(tensor.nbytes for examples in sets for tensor in (examples.inputs, examples.targets))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "TaskBatch":
        """A copy on `device`, floating-point examples in `dtype`; `latent` keeps its dtypes."""
        latent = {name: value.to(device) for name, value in self.latent.items()}
        return TaskBatch(self.support.to(device, dtype), self.query.to(device, dtype), latent)

    def __getitem__(self, tasks: slice) -> "TaskBatch":
        latent = {name: value[tasks] for name, value in self.latent.items()}
        return TaskBatch(self.support[tasks], self.query[tasks], latent)

    def chunks(self, size: int) -> list["TaskBatch"]:
        """The batch cut into consecutive pieces of at most `size` tasks."""
        return [self[start : start + size] for start in range(0, len(self), size)]


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
