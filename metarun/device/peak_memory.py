"""What a stretch of work adds to the memory that is held: of this process alone, whoever started it."""

import contextlib
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): the peak resident set size becomes the current one


class AddedMemory:
    """The most memory held at once from here on, beyond what is held here.

    On a GPU what PyTorch has allocated there, else the pages of this process: `ru_maxrss` will not do, since a process
    inherits it from the one that forked it, which may be larger.
    """

    def __init__(self, device: "torch.device") -> None:
        self._device, self._hidden_below = device, 0.0
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device) / 2**20
            return
        with contextlib.suppress(OSError):  # not Linux, or not allowed in this container
            _CLEAR.write_text(_RESET_PEAK)
        self._before, peak = _status_mib("VmRSS"), peak_mib(device)
        if self._before is None or peak > self._before + 1:
            self._hidden_below = peak

    def mib(self) -> float | None:
        """In MiB; None where the system does not tell: a peak from before that could not be reset hides a lower one."""
        peak = peak_mib(self._device)
        if self._before is None or peak <= self._hidden_below:
            return None
        return max(0.0, peak - self._before)


def peak_mib(device: "torch.device") -> float:
    """The most memory held at once, in MiB: on a GPU by PyTorch, else by this process. `AddedMemory` begins it anew."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _status_mib(field: str) -> float | None:
    """A field of /proc/self/status; None where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{field}:")]
    return int(found[0][1]) / 2**10 if found else None
