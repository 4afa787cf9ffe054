"""Where a store's items lie while a run draws from them, and how they reach the device."""

import mmap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from metarun import checks
from metarun.tasks.class_store import ClassStore

Residence = Literal["auto", "device", "host"]

_CPU_RESIDENT_BYTES = 256 * 2**20
"""Up to here a memory-mapped file is left in memory once read; pages of a larger one are given back after each use."""
_GPU_SHARE = 0.5
"""Of the free memory of a GPU that items may take: the rest is the model's and its graphs'."""

Request = TypeVar("Request")
Result = TypeVar("Result")


def is_resident(store: ClassStore, device: torch.device, residence: Residence) -> bool:
    """Whether the items are kept on `device` whole, or gathered on the host for every episode.

    Raises:
        ValueError: `residence` is none of the three.
    """
    checks.one_of("residence", residence, ("auto", "device", "host"))
    if residence != "auto":
        return residence == "device"
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return store.num_bytes <= _GPU_SHARE * free
    return store.mapping is None or store.num_bytes <= _CPU_RESIDENT_BYTES


def gathered(store: ClassStore, rows: Tensor, device: torch.device) -> Tensor:
    """Items `rows` (int64 [R], on the host) of a store on the host, on `device`: [R, *shape].

    Pages that were read go back to the system at once, so resident memory does not grow with what has been drawn; they
    stay in its file cache, so the disk is read once. For a GPU the items are copied from pinned memory, without waiting.
    """
    if device.type == "cuda":
        shape = (len(rows), *store.items.shape[1:])
        pinned = torch.empty(shape, dtype=store.items.dtype, pin_memory=True)
        items = torch.index_select(store.items, 0, rows, out=pinned).to(device, non_blocking=True)
    else:
        items = store.items.index_select(0, rows)
    if store.mapping is not None:
        store.mapping.madvise(mmap.MADV_DONTNEED)
    return items


class Ahead(Generic[Request, Result]):
    """Answers requests that mostly follow each other: the next is worked on in a thread while the last is being used.

    The answers are those of `compute`, whatever is asked; only the waiting differs.
    """

    def __init__(self, compute: Callable[[Request], Result], following: Callable[[Request], Request]) -> None:
        self._compute, self._following = compute, following
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="episodes")
        self._next: tuple[Request, Future[Result]] | None = None

    def __call__(self, request: Request) -> Result:
        """The result of `compute(request)`."""
        expected = self._next
        result = expected[1].result() if expected and expected[0] == request else self._compute(request)
        following = self._following(request)
        self._next = (following, self._thread.submit(self._compute, following))
        return result
