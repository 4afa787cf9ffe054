"""What a computation costs: the most memory its tensors hold at once, and its time."""

import statistics
import time
from collections.abc import Callable

import torch

from metarun.device.memory import peak_live_bytes


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The most that `function` holds at once beyond what is there already: on a GPU by its allocator, else by `peak_live_bytes`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return peak_live_bytes(function)


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
