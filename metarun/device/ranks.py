"""The processes that share one run: what each does of the whole, and sums over all of them."""

import atexit
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from metarun.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `size`. One process alone communicates with nobody and needs nothing of `torch.distributed`.

    All ranks do the same arithmetic on the same sums, so that their parameters stay equal to the bit; the number of ranks
    changes results by rounding alone.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The rank's consecutive part of `count` tasks; parts differ by at most one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each.

        Raises:
            TrainingError: another rank is gone.
        """
        if self.size == 1:
            return tensor
        total = tensor.clone()
        try:
            dist.all_reduce(total)
        except RuntimeError as error:
            raise TrainingError(
                f"rank {self.rank} of {self.size} has lost another rank ({str(error).splitlines()[0]}). "
                "The last checkpoint stands; the same command goes on from there, with as many ranks as you like."
            ) from error
        return total

    def of_first(self, number: float, device: torch.device) -> float:
        """The first rank's number, to the bit, on every rank; that of the others counts for nothing."""
        own = torch.tensor(number if self.is_first else 0.0, dtype=torch.float64, device=device)
        return float(self.sum(own))

    def rows(self, tensor: Tensor) -> Tensor:
        """The rows [b, ...] of all ranks, in their order: [B, ...]."""
        if self.size == 1:
            return tensor
        counts = self.sum(torch.eye(self.size, device=tensor.device)[self.rank] * len(tensor)).round().long().tolist()
        start = sum(counts[: self.rank])
        whole = tensor.new_zeros((sum(counts), *tensor.shape[1:]))
        whole[start : start + len(tensor)] = tensor
        return self.sum(whole)

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


def ranks_from_environment(kind: str) -> Ranks:
    """The ranks that `torchrun` or our Slurm script started (RANK, WORLD_SIZE, LOCAL_RANK), connected; else one alone.

    Args:
        kind: "cuda" connects by NCCL and takes the GPU of LOCAL_RANK; "cpu" by gloo.
    """
    environment: dict[str, Any] = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if environment["RANK"] is None or environment["WORLD_SIZE"] is None or int(environment["WORLD_SIZE"]) == 1:
        return ALONE
    if kind == "cuda":
        torch.cuda.set_device(int(environment["LOCAL_RANK"] or 0))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        # Left to the interpreter's end, its threads may outlive what they need, and the process aborts: with it, all others.
        atexit.register(dist.destroy_process_group)
    return Ranks(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
