"""Where the numbers are computed, and how many tasks at once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from metarun import checks
from metarun.device.precision import allow_tf32

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_CPU_CHUNK_BYTES = 24 * 2**20
"""What the graphs of one chunk's tasks may hold on a CPU: past the cache the same work takes up to three times as long."""
_MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
"""More are never faster, and a process that cannot have as many as it asks for ends by a segmentation fault."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Device, number format and threads of a run.

    Attributes:
        kind: "auto" (a GPU if there is one), "cpu" or "cuda".
        dtype: "float32" or "float64".
        threads: CPU threads, or None for PyTorch's choice.
        task_chunk: tasks worked on at once; None for all of them; "auto" for what fits a GPU's memory (`measures_chunk`), or a
            CPU's cache.
        program: how outer steps are taken: "eager", one operation after the other; "compiled" to machine code, on a CPU; "captured"
            as a CUDA graph, on a GPU; "auto": captured on a GPU, and on a CPU compiled where the steps that remain are worth it.
        tf32: let products and convolutions on a GPU round their factors to ten bits (TF32), curvature products excepted.
    """

    kind: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "float64"]
    threads: int | None
    task_chunk: int | Literal["auto"] | None
    program: Literal["auto", "eager", "compiled", "captured"] = "auto"
    tf32: bool = False

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, ("auto", "cpu", "cuda"))
        checks.one_of("dtype", self.dtype, tuple(_DTYPES))
        checks.one_of("program", self.program, ("auto", "eager", "compiled", "captured"))
        checks.boolean("tf32", self.tf32)
        if self.threads is not None:
            checks.integer("threads", self.threads, minimum=1)
            if self.threads > _MOST_THREADS:
                raise ValueError(
                    f"threads must be at most {_MOST_THREADS} on this machine of {os.cpu_count()} cores, got {self.threads}"
                )
        if self.task_chunk is not None and self.task_chunk != "auto":
            checks.integer("task_chunk", self.task_chunk, minimum=1)
        if self.kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "kind is cuda, and PyTorch sees no CUDA device here. Choose device=cpu or device=auto, "
                "or install a CUDA build of PyTorch and check the driver with nvidia-smi."
            )
        if self.tf32:
            self._check_tf32()
        if self.program == "compiled" and self._type == "cuda":
            raise ValueError(
                "program=compiled is for a CPU; on a GPU steps are captured. Set program=captured or auto."
            )
        if self.program == "captured" and self._type == "cpu":
            raise ValueError("program=captured is for a GPU, and this run is on a CPU. Set program=compiled or auto.")

    def _check_tf32(self) -> None:
        """Refuse TF32 where it would have no effect, or one that it must not have."""
        if self._type != "cuda":
            where = "kind is cpu" if self.kind == "cpu" else "kind is auto, and PyTorch sees no CUDA device here"
            raise ValueError(f"tf32 is for products on a GPU, and {where}: this run is on the CPU. Leave tf32=false.")
        if self.dtype != "float32":
            raise ValueError(f"tf32 is a way to multiply float32 numbers, got dtype={self.dtype}. Leave tf32=false.")

    @property
    def _type(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.kind == "cuda" or (self.kind == "auto" and torch.cuda.is_available()) else "cpu"

    def open(self) -> torch.device:
        """The device; sets the process's threads, deterministic convolutions, full float32 precision or TF32, and a rank's own GPU.

        The GPU before anything is put there: data and constants of the model stay where they were made.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        allow_tf32(self.tf32)
        torch.backends.cudnn.deterministic = True
        if self._type == "cuda" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device(self._type)

    @property
    def measures_chunk(self) -> bool:
        """Whether the tasks worked on at once are found by working on a few of them (`metarun.device.chunks`)."""
        return self.task_chunk == "auto" and self._type == "cuda"

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as PyTorch names it."""
        return _DTYPES[self.dtype]

    def chunk(self, num_tasks: int, task_bytes: Callable[[], int]) -> int:
        """Tasks to work on at once, out of `num_tasks`: a function of shapes alone, so that a resumed run chooses the same.

        "auto" on a GPU gives all of them here: how many fit is known when a few have been worked on there (`measures_chunk`).

        Args:
            task_bytes: what one task's forward passes save for backward; asked for "auto" on a CPU alone.
        """
        if self.task_chunk is None:
            return num_tasks
        if self.task_chunk != "auto":
            return min(self.task_chunk, num_tasks)
        if self.measures_chunk:
            return num_tasks
        return max(1, min(num_tasks, _CPU_CHUNK_BYTES // max(1, task_bytes())))
