"""metarun.device.chunks: how many tasks fit, by invented models of memory and by what work really takes."""

import pytest
import torch

from metarun.device.chunks import equal_chunk, fitting_chunk, peak_bytes


class Memory:
    """`base + each * n` bytes while n tasks are worked on, out of `size`; more is refused as a GPU does."""

    def __init__(self, base: int, each: int, size: int = 10**18) -> None:
        self.base, self.each, self.size = base, each, size
        self.asked: list[int] = []

    def __call__(self, number: int) -> int:
        self.asked.append(number)
        taken = self.base + self.each * number
        if taken > self.size:
            raise torch.OutOfMemoryError("as on a GPU")
        return taken


@pytest.mark.parametrize(
    ("num_tasks", "available", "expected"),
    [
        # Base 100 and 10 a task: nine tenths of the memory, less the base, over 10 is the most at once.
        (32, 10_000, 32),
        (32, 467, 32),  # 420 = 0.9 * 466.7 is what 32 take
        (32, 466, 16),  # 31 fit: two chunks, and equal ones have 16
        (32, 289, 16),  # 16 fit
        (32, 288, 11),  # 15 fit: three chunks of 11, 11 and 10
        (25, 223, 9),  # 10 fit: three chunks of 9, 9 and 7
        (25, 134, 2),
        (25, 123, 1),
        (25, 1, 1),  # and the step itself will say what it lacks
        (25, -5, 1),
        (4, 156, 4),
        (4, 155, 2),
        (2, 10_000, 2),
        (1, 1, 1),
    ],
)
def test_the_largest_equal_chunks_that_fit_are_found_from_a_line(num_tasks, available, expected):
    memory = Memory(100, 10)
    assert fitting_chunk(num_tasks, available, memory) == expected
    assert memory.asked == ([2, 4] if num_tasks > 4 else [1, 2] if num_tasks > 1 else [])
    # Nothing larger fits: one chunk fewer, as equal as they can be, would take more than nine tenths.
    fewer_chunks = -(-num_tasks // expected) - 1
    if fewer_chunks and num_tasks > 1:
        assert memory(-(-num_tasks // fewer_chunks)) > 0.9 * available


def test_a_device_too_small_for_what_is_measured():
    assert fitting_chunk(32, 10**6, Memory(0, 10, size=15)) == 1
    assert fitting_chunk(32, 10**6, Memory(0, 10, size=35)) == 2


def test_memory_that_does_not_grow_holds_all_tasks_or_none():
    assert fitting_chunk(32, 1000, Memory(100, 0)) == 32
    assert fitting_chunk(32, 50, Memory(100, 0)) == 1


def test_chunks_are_as_few_and_as_equal_as_can_be():
    for num_tasks in range(1, 40):
        for most in range(1, 45):
            size = equal_chunk(num_tasks, most)
            pieces = [min(size, num_tasks - start) for start in range(0, num_tasks, size)]
            assert size <= most and sum(pieces) == num_tasks
            assert len(pieces) == -(-num_tasks // min(most, num_tasks))
            # No smaller size has as few chunks.
            assert size == 1 or -(-num_tasks // (size - 1)) > len(pieces)


def test_peak_bytes_on_a_cpu_are_those_of_tensors():
    def work() -> torch.Tensor:
        return (torch.ones(1000, dtype=torch.float64) * 2).sum()  # two of 8000 bytes at once

    assert peak_bytes(torch.device("cpu"), work) == pytest.approx(16_000, abs=16)


@pytest.mark.gpu
def test_peak_bytes_on_a_gpu_are_those_of_its_allocator():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device here")
    device = torch.device("cuda")
    held = torch.ones(2**20, device=device)
    assert peak_bytes(device, lambda: (held * 2, held * 3)) == 2 * held.nbytes  # allocated in blocks of 512 bytes
