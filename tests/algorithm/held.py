"""How much autograd holds for backward passes while a meta-step is made."""

import dataclasses
import weakref
from collections.abc import Callable

import torch
from torch import Tensor


class Live:
    """Bytes of the tensors that autograd holds for backward passes: now, and at most so far."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> "Held":
        held = Held(tensor.detach())  # an output that is saved would hold its own node, and never go
        self.now += tensor.nbytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(held, self.release, tensor.nbytes)
        return held

    def release(self, size: int) -> None:
        self.now -= size


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """A saved tensor; goes away with the graph's node."""

    tensor: Tensor


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes held at any moment of `work`."""
    live = Live()
    with torch.autograd.graph.saved_tensors_hooks(live.pack, lambda held: held.tensor):
        work()
    return live.peak
