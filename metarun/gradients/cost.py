"""What a computation costs: the most memory its tensors hold at once, and its time."""

import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within the block, the bytes of all storages made there that are still alive: `now`, and at most so far, `peak`.

    What existed before is not counted. Sees what autograd saves and what the solvers keep, each storage once; it does not
    see what a kernel allocates and frees within one call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run the operation; count the storages of its results, but for those that came with its arguments."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._meet(leaf, 0)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._meet(leaf, leaf.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _meet(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._known:
            self._known.add(address)
            self.now += size
            weakref.finalize(storage, self._part, address, size).atexit = False

    def _part(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The most that `function` holds at once beyond what is there already: on a GPU by its allocator, else by `LiveBytes`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        function()
    return live.peak


def median_s(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall-clock time of `repeats` calls, in seconds."""
    times = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
