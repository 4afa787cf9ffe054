"""How many tasks at once fit a device's memory, from what few of them take."""

from collections.abc import Callable

import torch

from metarun.device.memory import peak_live_bytes
from metarun.device.peak_memory import AddedMemory

_MARGIN = 0.1
"""Of the memory that is there, left alone: allocators round, and kernels take workspaces by sizes of their own."""


def fitting_chunk(num_tasks: int, available: int, peak_of: Callable[[int], int]) -> int:
    """The largest of equal chunks of `num_tasks` tasks that fit `available` bytes; all of them where they do, at least 1.

    What a chunk takes is a line through what few tasks take: 2 and 4, as a task alone may be worked on by other kernels, and 1 and
    2 where there are no more than 4. Where even these do not fit there is nothing to draw a line through: fewer are taken.

    Args:
        peak_of: the most bytes held at once while so many tasks are worked on; may raise `torch.OutOfMemoryError`.
    """
    few, more = (2, 4) if num_tasks > 4 else (1, 2)
    if num_tasks == 1:
        return 1
    try:
        first = peak_of(few)
    except torch.OutOfMemoryError:
        return 1
    try:
        second = peak_of(more)
    except torch.OutOfMemoryError:
        return equal_chunk(num_tasks, few)
    # Exact integers: (1 - margin) available >= first + (second - first) (number - few) / (more - few).
    room = int((1 - _MARGIN) * available) - first
    growth = second - first
    if growth <= 0:
        return num_tasks if room >= 0 else 1
    return equal_chunk(num_tasks, few + room * (more - few) // growth)


def equal_chunk(num_tasks: int, most: int) -> int:
    """The size of as few chunks as there can be of at most `most` tasks, as equal as they can be."""
    most = max(1, min(most, num_tasks))
    number = -(-num_tasks // most)
    return -(-num_tasks // number)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes that `work` adds at once to what is held on a device.

    On a GPU by PyTorch's allocator; on a CPU what tensors take, without what kernels take within a call (`peak_live_bytes`).
    """
    if device.type == "cpu":
        return peak_live_bytes(work)
    added = AddedMemory(device)
    work()
    return int((added.mib() or 0.0) * 2**20)
