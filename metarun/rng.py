"""Randomness as a function of (seed, labels, index): no generator is ever carried from step to step.

`bits` and `uniform` are a counter-based generator in integer tensor arithmetic: row `i` of the result depends on the key and
on `indices[i]` alone, so task 17 is the same task whatever the batch, the chunk, the rank or the device that draws it.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed 64-bit integer (Steele et al. 2014, SplitMix64)
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def key(seed: int, *labels: str | int) -> int:
    """A signed 64-bit key from a seed and labels, by SHA-256: the same on every machine and in every process."""
    text = "\x1f".join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


@contextlib.contextmanager
def seeded_construction(seed: int, *labels: str | int) -> Iterator[None]:
    """Within the block, PyTorch's global CPU generator is seeded by (seed, labels); afterwards it is as it was before.

    Module constructors draw their parameters from the global generator and know no other; this is the one place where
    it is touched, and it is put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, *labels) & (2**63 - 1))
        yield


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A generator on the CPU, seeded by (seed, labels), for code of a person's own that draws from one.

    What it gives depends on PyTorch's version, and on how much is drawn at once: what is metarun's own draws by `bits`.
    """
    return torch.Generator().manual_seed(key(seed, *labels) & (2**63 - 1))


def _shifted_right(x: Tensor, amount: int) -> Tensor:
    """Logical right shift, as a new tensor; PyTorch's own shift of signed integers copies the sign."""
    return (x >> amount).bitwise_and_((1 << (64 - amount)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """The SplitMix64 finaliser: a bijection of 64-bit integers in which every input bit reaches every output bit.

    Each intermediate is worked on in place: a fresh megabyte for every operation costs more than the operation.
    """
    x = _shifted_right(x, 30).bitwise_xor_(x).mul_(_MIX_1)
    x = _shifted_right(x, 27).bitwise_xor_(x).mul_(_MIX_2)
    return _shifted_right(x, 31).bitwise_xor_(x)


def bits(key: int, indices: Tensor, *shape: int) -> Tensor:
    """64 random bits for every index and position.

    Args:
        key: from `key(seed, *labels)`.
        indices: int64 [B], one per task.
        shape: what to draw for each of them.
    Returns:
        int64 [B, *shape] on the device of `indices`.
    """
    rows = _mixed(_mixed(indices * _GOLDEN + key))
    count = 1
    for size in shape:
        count *= size
    return _mixed(rows[:, None] + _positions(count, indices.device)).reshape(len(indices), *shape)


@functools.lru_cache(maxsize=64)
def _positions(count: int, device: torch.device) -> Tensor:
    """The multiples 1 to `count` of the golden ratio.

    Made once and by NumPy, so that they are data in a traced program and no arithmetic: PyTorch's compiler takes multiples of a
    range for indices, and as large as these they corrupt its memory (2.13).
    """
    multiples = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN & (2**64 - 1))
    return torch.from_numpy(multiples.view(np.int64)).to(device)


def uniform(key: int, indices: Tensor, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1) with 53 random bits: float64 [B, *shape]."""
    return _shifted_right(bits(key, indices, *shape), 11).to(torch.float64) * 2.0**-53
