"""metarun.device.memory: what is there, and what a larger computation takes."""

import pytest
import torch

from metarun.device import memory
from metarun.device.memory import available_bytes, extrapolated, peak_live_bytes, require_bytes

CPU = torch.device("cpu")


def test_straight_lines_are_continued_exactly():
    def line(first: int, second: int) -> int:
        return 7 + 3 * first + 5 * second

    asked = []

    def measure(first: int, second: int) -> int:
        asked.extend([first, second])
        return line(first, second)

    for sizes in [(3, 5), (3, 12), (3, 10**9), (10**9, 10**6)]:
        assert extrapolated(measure, *sizes) == line(*sizes)
    assert max(asked) == 16
    assert extrapolated(lambda first, second: 4 * max(first, second), 100, 1000, max) == 4000


def test_the_peak_is_of_what_lives_at_once():
    def work() -> None:
        first = torch.ones(1000)  # 4000 bytes
        second = first + 1
        del first
        second * 2

    assert peak_live_bytes(work) == 8000


def test_what_a_device_has_not_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**30)
    require_bytes(2**30, "this", "Do that.")
    with pytest.raises(ValueError) as raised:
        require_bytes(3 * 2**29, "this", "Do that.")
    assert str(raised.value) == "this takes at least 1.5 GiB of memory, and 1.0 GiB are there. Do that."


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_with_what_it_holds(version, tmp_path, monkeypatch):
    """A group of 1 GiB holds 300 MiB, 100 of them pages of files; the group inside it has no limit of its own."""
    limit, usage, unlimited = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", str(2**63 - 4096)),
        2: ("memory.max", "memory.current", "max"),
    }[version]
    root = tmp_path / ("memory" if version == 1 else "")
    for group, most, held in ((root / "job", str(2**30), 300 * 2**20), (root / "job" / "step", unlimited, 2**20)):
        group.mkdir(parents=True)
        (group / limit).write_text(f"{most}\n")
        (group / usage).write_text(f"{held}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {100 * 2**20}\n")
    processes = tmp_path / "cgroup"
    processes.write_text("3:cpu:/elsewhere\n4:memory:/job/step\n" if version == 1 else "0::/job/step\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OF_PROCESS", processes)
    monkeypatch.setattr(memory, "_of_kernel", lambda: 2**40)
    assert available_bytes(CPU) == 2**30 - 200 * 2**20


def test_without_groups_the_kernel_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_OF_PROCESS", tmp_path / "not there")
    monkeypatch.setattr(memory, "_of_kernel", lambda: 5)
    assert available_bytes(CPU) == 5
