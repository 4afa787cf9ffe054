"""Memory: how much there is, what a computation holds, and what a larger one is bound to hold."""

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CGROUPS = Path("/sys/fs/cgroup")
_OF_PROCESS = Path("/proc/self/cgroup")
_CPU = torch.device("cpu")
_FEW, _MORE = 8, 16


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


def peak_live_bytes(function: Callable[[], object]) -> int:
    """The most that `function` holds at once, by `LiveBytes`."""
    with LiveBytes() as live:
        function()
    return live.peak


def saved_bytes(function: Callable[[], Tensor]) -> int:
    """Bytes that autograd saves for the backward pass while `function` runs; each storage is counted once."""
    sizes: dict[int, int] = {}
    alive = []  # a freed storage's address could come again

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(sizes.values())


def extrapolated(measure: Callable[[int, int], int], first: int, second: int, combine: Callable = sum) -> int:
    """`measure(first, second)` from sizes of at most 16, for a measure that grows along a straight line with each size.

    Args:
        combine: of the growths with either size past 8: `sum` where they add up, `max` where the larger size alone counts.
    """
    small = min(first, _FEW), min(second, _FEW)
    base = measure(*small)
    growths = [0, 0]
    if first > _FEW:
        more = min(first, _MORE)
        growths[0] = (measure(more, small[1]) - base) * (first - _FEW) // (more - _FEW)
    if second > _FEW:
        more = min(second, _MORE)
        growths[1] = (measure(small[0], more) - base) * (second - _FEW) // (more - _FEW)
    return base + combine(growths)


def available_bytes(device: torch.device) -> int:
    """What may still be had on a device without another giving way: a GPU's free memory, or the machine's.

    On a GPU what PyTorch's allocator keeps for itself and does not use counts as free: it hands that out first.

    On the CPU the least of what the kernel calls available and what is left of the limits of this process's control groups
    (a container's, a Slurm job's); where the kernel does not say, all memory there is.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return min(_of_kernel(), *_left_of_groups())


def require_bytes(size: int, what: str, remedy: str, device: torch.device = _CPU) -> None:
    """Raise `ValueError`, in words, where a device has less memory than `size`, which `what` is bound to take."""
    available = available_bytes(device)
    if size > available:
        raise ValueError(
            f"{what} takes at least {size / 2**30:,.1f} GiB of memory, and {available / 2**30:,.1f} GiB are there. {remedy}"
        )


def _of_kernel() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_of_groups() -> list[int]:
    """Of each control group that limits memory, its limit less what it holds; pages of files can be given back."""
    try:
        lines = _OF_PROCESS.read_text().splitlines()
    except OSError:
        return [2**63]
    left = [2**63]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # Version 2 has one tree of all controllers, version 1 one of its own for memory.
        root = _CGROUPS / controllers
        limit, usage = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        inside = root / path.lstrip("/")
        for group in (inside, *inside.parents):
            if group.is_relative_to(root) and (known := _numbers(group, limit, usage)) is not None:
                left.append(known)
    return left


def _numbers(group: Path, limit: str, usage: str) -> int | None:
    """What is left of one group's limit; None where it has none."""
    try:
        most, held = int((group / limit).read_text()), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or "max"
        return None
    return max(0, most - held + int(stat.get("total_inactive_file", stat.get("inactive_file", 0))))
