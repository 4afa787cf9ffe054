"""metarun.tasks.residence: gathered on the host or kept on the device, the episodes are the same; memory does not grow."""

import dataclasses
import mmap
import threading
from pathlib import Path

import pytest
import torch

from metarun.tasks import residence
from metarun.tasks.class_store import ClassStore
from metarun.tasks.episodes import Episodes
from metarun.tasks.packed_file import Originals, open_store, write_store
from metarun.tasks.residence import Ahead, is_resident

from .test_episodes import counting_store, digest

CPU = torch.device("cpu")


def mapped(tmp_path: Path, store: ClassStore) -> ClassStore:
    """The same store from a file."""
    write_store(
        tmp_path / "set.classes",
        Originals(
            classes=store.classes,
            counts=store.counts.tolist(),
            splits={split: store.names(split) for split in store.splits},
            shape=tuple(store.items.shape[1:]),
            items=lambda: iter([store.items]),
            source="counting",
            version="1",
        ),
    )
    return open_store(tmp_path / "set.classes")


def resident_bytes() -> int:
    """Resident memory of this process that is mapped from files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile in /proc/self/status")


@pytest.mark.parametrize("moves", [{}, {"flips": True, "crop_padding": 1}])
@pytest.mark.parametrize("split", ["train", "test"])
def test_gathered_episodes_are_the_resident_ones(split, moves, tmp_path):
    store = mapped(tmp_path, counting_store())
    drawn = {}
    for kind in ("device", "host", "auto"):
        episodes = Episodes(store=store, ways=3, rotations=True, residence=kind, **moves).to("cpu")
        drawn[kind] = digest(episodes.sample(5, split, torch.arange(3, 40), 2, 4))
    assert len(set(drawn.values())) == 1


def test_a_file_is_kept_in_memory_up_to_a_size_and_what_is_drawn_here_always(tmp_path, monkeypatch):
    store = mapped(tmp_path, counting_store())
    assert is_resident(store, CPU, "auto") and not is_resident(store, CPU, "host") and is_resident(store, CPU, "device")
    monkeypatch.setattr(residence, "_CPU_RESIDENT_BYTES", store.num_bytes - 1)
    assert not is_resident(store, CPU, "auto") and is_resident(store, CPU, "device")
    assert is_resident(counting_store(), CPU, "auto")
    with pytest.raises(ValueError, match="residence must be one of auto, device, host, got 'gpu'"):
        Episodes(store=store, ways=3, rotations=False, residence="gpu")


def test_a_gpu_takes_what_fills_half_of_its_free_memory(monkeypatch):
    store = counting_store()
    for free, fits in ((2 * store.num_bytes, True), (2 * store.num_bytes - 2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert is_resident(store, torch.device("cuda"), "auto") == fits


def test_where_the_items_lie_is_said(tmp_path):
    store = mapped(tmp_path, counting_store())
    episodes = Episodes(store=store, ways=3, rotations=False)
    assert episodes.whereabouts == "126 of 6x6x2 in 18 classes of 7, 0 MiB, memory-mapped"
    host = dataclasses.replace(episodes, residence="host").to("cpu")
    assert host.whereabouts.endswith("gathered on the host for each episode (memory-mapped, pages given back)")
    assert Episodes(store=counting_store(), ways=3, rotations=False).whereabouts.endswith("in memory")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from Linux's /proc")
def test_pages_are_given_back_while_gathering_and_kept_while_resident(tmp_path):
    """48 MiB of images, nearly all drawn: kept, they are resident; gathered, at most what one batch touches is."""
    images = torch.arange(48 * 2**20, dtype=torch.int32).to(torch.uint8).view(16, 48, 4, 128, 128)
    names = [f"{i:02d}" for i in range(16)]
    splits = {"train": names[:12], "val": names[12:14], "test": names[14:]}
    store = mapped(tmp_path, ClassStore.build(images, names, splits, "bytes", "1"))
    del images
    grown = {}
    for kind in ("host", "device"):
        store.mapping.madvise(mmap.MADV_DONTNEED)
        episodes = Episodes(store=store, ways=5, rotations=False, residence=kind).to("cpu")
        before = resident_bytes()
        for first in range(0, 100, 2):
            episodes.sample(0, "train", torch.arange(first, first + 2), 1, 5)
        grown[kind] = resident_bytes() - before
    assert grown["host"] < 4 * 2**20 < 16 * 2**20 < grown["device"]


def test_ahead_answers_as_if_it_were_not_there_and_works_ahead():
    worked: list[tuple[int, bool]] = []
    done = threading.Semaphore(0)

    def compute(request: int) -> int:
        worked.append((request, threading.current_thread() is threading.main_thread()))
        done.release()
        return request**2

    ahead = Ahead(compute, lambda request: request + 1)
    for request in (3, 4, 5, 9, 10, 4):
        assert ahead(request) == request**2
        done.acquire(), done.acquire() if len(worked) < 2 else None
    ahead._thread.shutdown()
    in_main = [request for request, is_main in worked if is_main]
    assert in_main == [3, 9, 4]  # those that nothing foretold
    assert [request for request, is_main in worked if not is_main] == [4, 5, 6, 10, 11, 5]


def test_an_error_while_working_ahead_is_raised_when_it_is_asked_for():
    def compute(request: int) -> int:
        if request == 2:
            raise RuntimeError("no more")
        return request

    ahead = Ahead(compute, lambda request: request + 1)
    assert ahead(1) == 1
    with pytest.raises(RuntimeError, match="no more"):
        ahead(2)


@pytest.mark.parametrize("moves", [{}, {"flips": True, "crop_padding": 1}])
def test_every_device_is_given_the_same_episodes_from_the_host(moves, device, tmp_path):
    """By residence device and host, equal to the bit to those that a CPU draws from memory."""
    store = mapped(tmp_path, counting_store())
    cpu = Episodes(store=store, ways=3, rotations=True, **moves)
    for kind in ("device", "host"):
        there = Episodes(store=store, ways=3, rotations=True, residence=kind, **moves).to(device)
        for indices in (torch.arange(0, 8), torch.arange(8, 16), torch.arange(16, 24), torch.tensor([5, 3])):
            batch = there.sample(0, "train", indices.to(device), 2, 3)
            assert batch.support.inputs.device.type == device.type
            assert digest(batch.to("cpu", torch.float32)) == digest(cpu.sample(0, "train", indices, 2, 3))
