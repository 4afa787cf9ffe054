"""Where the numbers are computed, and how many tasks at once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from metarun import checks

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
        task_chunk: tasks worked on at once; None for all of them; "auto" for all on a GPU and what fits the cache on a CPU.
        compile: make one program of each step's meta-gradient (`metarun.algorithm.compiled`).
    """

    kind: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "float64"]
    threads: int | None
    task_chunk: int | Literal["auto"] | None
    compile: bool = False

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, ("auto", "cpu", "cuda"))
        checks.one_of("dtype", self.dtype, tuple(_DTYPES))
        checks.boolean("compile", self.compile)
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

    def open(self) -> torch.device:
        """The device; sets the process's threads, deterministic convolutions and full float32 precision.

        TF32 would cost conjugate gradients their conjugacy.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        use_cuda = self.kind == "cuda" or (self.kind == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if use_cuda else "cpu")

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as PyTorch names it."""
        return _DTYPES[self.dtype]

    def chunk(self, num_tasks: int, task_bytes: Callable[[], int]) -> int:
        """Tasks to work on at once, out of `num_tasks`: a function of shapes alone, so that a resumed run chooses the same.

        Args:
            task_bytes: what one task's forward passes save for backward; asked for "auto" on a CPU alone.
        """
        if self.task_chunk is None:
            return num_tasks
        if self.task_chunk != "auto":
            return min(self.task_chunk, num_tasks)
        if self.open().type == "cuda":
            return num_tasks
        return max(1, min(num_tasks, _CPU_CHUNK_BYTES // max(1, task_bytes())))
