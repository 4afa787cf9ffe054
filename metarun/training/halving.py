"""What to do where a device's memory is full: the same with fewer tasks at once."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def halving(work: Callable[[int], _Result], chunk: int) -> tuple[_Result, int]:
    """`work(chunk)`, with half the chunk, and half of that, where the device's memory is full; and the chunk that it was done with.

    Each halving is said. `work` must change nothing before it is done, as it is begun anew, and it must not wait for other ranks.

    Raises:
        torch.OutOfMemoryError: one task at once is too much.
    """
    while True:
        try:
            return work(chunk), chunk
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise
        # Outside the handler: the error holds the frames, and they hold the tensors that are to be freed.
        fewer = chunk // 2
        _logger.warning(
            "the device's memory is too small for %d tasks at once: going on with %d, from here on (the same but for rounding)",
            chunk,
            fewer,
        )
        chunk = fewer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
