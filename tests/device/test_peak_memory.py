"""metarun.device.peak_memory: what is added is what is added, whoever started the process and whatever it held before."""

import sys
from pathlib import Path

import pytest
import torch

from metarun.device import peak_memory as memory
from metarun.device.peak_memory import AddedMemory, peak_mib

from ..training.small import python

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SLACK = 4.0  # MiB: pages of the allocator, of Python, of whatever else lives in this process


def held(mib: int) -> torch.Tensor:
    """Memory that is written to, and so there; of more than 32 MiB, so that the allocator takes fresh pages for it."""
    return torch.ones(mib * 2**17, dtype=torch.float64)


@linux
def test_added_is_the_most_held_at_once_beyond_the_start():
    before = held(100)
    added = AddedMemory(CPU)
    one = held(64)
    del one
    another = held(32)
    found = added.mib()
    if found is None:
        pytest.skip("the peak cannot be reset here")
    assert found == pytest.approx(64, abs=SLACK)
    assert AddedMemory(CPU).mib() == pytest.approx(0, abs=SLACK)
    del before, another


@linux
def test_a_peak_that_cannot_be_reset_is_not_taken_for_ours(tmp_path, monkeypatch):
    if AddedMemory(CPU).mib() is None:  # begins anew: whatever this process held at most before
        pytest.skip("the peak cannot be reset here")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "missing" / "clear_refs")
    hill = held(128)
    del hill
    added = AddedMemory(CPU)
    small = held(64)
    assert added.mib() is None
    large = held(192)
    assert added.mib() == pytest.approx(64 + 192, abs=SLACK)
    del small, large


@linux
def test_a_process_does_not_count_what_its_parent_holds():
    """It inherits the parent's `ru_maxrss`: 15 of 15 jobs of a sweep had the same peak."""
    before = held(300)
    code = "import types; from metarun.device.peak_memory import peak_mib; print(peak_mib(types.SimpleNamespace(type='cpu')))"
    process = python("-c", code)
    out, err = process.communicate()
    assert err == ""
    assert 5 < float(out) < 100 < 300 < peak_mib(CPU)
    del before


def test_without_proc_nothing_is_claimed(tmp_path, monkeypatch):
    for name in ("_STATUS", "_CLEAR"):
        monkeypatch.setattr(memory, name, Path(tmp_path / "missing" / name))
    added = AddedMemory(CPU)
    assert peak_mib(CPU) > 0
    assert added.mib() is None
