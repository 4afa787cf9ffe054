"""metarun.tasks.class_store: what is written is what is opened, or an error that says what is wrong."""

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metarun.tasks import class_store
from metarun.tasks.class_store import ClassStore, CorruptStoreError, open_or_build, open_store, write_store

REPOSITORY = Path(__file__).parents[2]


def small_store() -> ClassStore:
    images = torch.arange(6 * 2 * 3 * 4 * 4).to(torch.uint8).view(6, 2, 3, 4, 4)
    splits = {"train": ["a", "c", "e"], "val": ["b"], "test": ["d", "f"]}
    return ClassStore.build(images, list("abcdef"), splits, source="counting", version="1")


def assert_same(one: ClassStore, other: ClassStore) -> None:
    assert torch.equal(one.images, other.images) and torch.equal(one.counts, other.counts)
    assert one.classes == other.classes and one.provenance == other.provenance
    assert list(one.splits) == list(other.splits)
    assert all(torch.equal(one.splits[split], other.splits[split]) for split in one.splits)


def test_build_records_ids_counts_and_hashes():
    store = small_store()
    assert {split: ids.tolist() for split, ids in store.splits.items()} == {
        "train": [0, 2, 4],
        "val": [1],
        "test": [3, 5],
    }
    assert store.counts.tolist() == [2] * 6
    assert store.provenance == {
        "source": "counting",
        "version": "1",
        "sha256": hashlib.sha256(bytes(i % 256 for i in range(576))).hexdigest(),
        "split_sha256": hashlib.sha256(b"train a\ntrain c\ntrain e\nval b\ntest d\ntest f\n").hexdigest(),
    }


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ["a", "b"], "val": ["b"], "test": []}, "b is in train and val"),
        ({"train": ["a", "a"], "val": ["b"], "test": []}, "a is in train, twice"),
        ({"train": ["a"], "val": ["x", "y"], "test": []}, "split val names 2 classes that s lacks, first x"),
        ({"train": ["a"], "test": []}, "splits must be train, val, test, got train, test"),
    ],
)
def test_bad_splits_are_refused(splits, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ClassStore.build(torch.zeros(2, 1, 1, 2, 2, dtype=torch.uint8), ["a", "b"], splits, "s", "1")


def test_unsorted_names_and_other_dtypes_are_refused():
    splits = {"train": ["a"], "val": [], "test": ["b"]}
    with pytest.raises(ValueError, match="sorted, distinct names"):
        ClassStore.build(torch.zeros(2, 1, 1, 2, 2, dtype=torch.uint8), ["b", "a"], splits, "s", "1")
    with pytest.raises(ValueError, match="uint8"):
        ClassStore.build(torch.zeros(2, 1, 1, 2, 2), ["a", "b"], splits, "s", "1")


def test_round_trip_is_exact_and_leaves_one_file(tmp_path):
    path = tmp_path / "set.classes"
    write_store(path, small_store())
    opened = open_store(path)
    assert_same(opened, small_store())
    opened.verify()
    assert os.listdir(tmp_path) == ["set.classes"]
    assert path.stat().st_size % 4096 == 576  # the pixels start on a page


def test_writing_to_an_opened_store_does_not_reach_the_file_but_fails_verify(tmp_path):
    path = tmp_path / "set.classes"
    write_store(path, small_store())
    opened = open_store(path)
    opened.images[0, 0, 0, 0, 0] += 1
    with pytest.raises(CorruptStoreError, match="pixels of counting have SHA-256"):
        opened.verify()
    open_store(path).verify()


def damage_truncated(data: bytes) -> bytes:
    return data[:-1]


def damage_longer(data: bytes) -> bytes:
    return data + b"\0"


def damage_magic(data: bytes) -> bytes:
    return b"PK\x03\x04" + data[4:]


def damage_version(data: bytes) -> bytes:
    return data[:16] + b"\x63\0\0\0" + data[20:]


def damage_header(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


def damage_header_length(data: bytes) -> bytes:
    return data[:24] + b"\xff" * 8 + data[32:]


def damage_pixel(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def damage_empty(data: bytes) -> bytes:
    return b""


DAMAGE = [
    (damage_truncated, "bytes, expected"),
    (damage_longer, "bytes, expected"),
    (damage_magic, "starts with b'PK"),
    (damage_version, "format version 99, expected 1"),
    (damage_header, "the header does not have the recorded CRC-32"),
    (damage_header_length, "the header does not have the recorded CRC-32"),
    (damage_pixel, "the pixels do not have the recorded CRC-32"),
    (damage_empty, "0 bytes, shorter than"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_damage_is_named_and_repaired(tmp_path, caplog, damage, reason):
    path = tmp_path / "set.classes"
    write_store(path, small_store())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptStoreError) as caught:
        open_store(path)
    assert str(path) in str(caught.value) and reason in str(caught.value) and "Delete it" in str(caught.value)
    assert "\n" not in str(caught.value)

    with caplog.at_level(logging.WARNING):
        assert_same(open_or_build(path, small_store), small_store())
    assert len(caplog.records) == 1 and str(path) in caplog.text and "Building it again" in caplog.text
    assert_same(open_store(path), small_store())


def no_originals() -> ClassStore:
    raise FileNotFoundError("the zips are not there")


def test_damage_without_originals_names_both(tmp_path):
    path = tmp_path / "set.classes"
    path.write_bytes(b"x" * 100)
    with pytest.raises(CorruptStoreError, match=r"not a usable packed data set.*Delete it.*the zips are not there"):
        open_or_build(path, no_originals)


def test_an_existing_file_is_opened_without_building_or_locking(tmp_path):
    path = tmp_path / "set.classes"
    write_store(path, small_store())
    assert_same(open_or_build(path, no_originals), small_store())
    assert os.listdir(tmp_path) == ["set.classes"]


def test_a_failed_build_leaves_no_file(tmp_path):
    path = tmp_path / "new" / "set.classes"
    with pytest.raises(FileNotFoundError, match="the zips are not there"):
        open_or_build(path, no_originals)
    assert os.listdir(path.parent) == ["set.classes.lock"]
    assert_same(open_or_build(path, small_store), small_store())


def test_a_full_disk_leaves_nothing_and_names_the_key(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(class_store.os, "fsync", full)
    with pytest.raises(OSError, match=r"MiB needed\): No space left on device\. Set data\.cache or METARUN_CACHE"):
        write_store(tmp_path / "set.classes", small_store())
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write the packed data set to .*file.*Set data\.cache"):
        open_or_build(tmp_path / "file" / "set.classes", small_store)


PACKER = """
import logging, sys, time
from pathlib import Path
from test_class_store import small_store, wait_for
from metarun.tasks.class_store import open_or_build

folder = Path(sys.argv[1])

def build():
    with open(folder / "built", "a") as log:
        log.write("x")
    wait_for(folder / "go")
    return small_store()

logging.basicConfig(level=logging.INFO)
print(int(open_or_build(folder / "set.classes", build).images.sum()))
"""


def start_packer(folder: Path) -> subprocess.Popen:
    """A process that takes the lock, writes `built` and waits for `go`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
    arguments = [sys.executable, "-c", PACKER, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_of_two_processes_one_builds_and_both_use_it(tmp_path):
    first = start_packer(tmp_path)
    wait_for(tmp_path / "built")
    second = start_packer(tmp_path)
    assert any("Waiting for another process" in line for line in second.stderr)  # reads until it says so, or ends
    assert not (tmp_path / "set.classes").exists()
    (tmp_path / "go").touch()
    expected = f"{int(small_store().images.sum())}\n"
    assert [packer.communicate(timeout=60)[0] for packer in (first, second)] == [expected, expected]
    assert (tmp_path / "built").read_text() == "x"


def test_killed_while_building_leaves_nothing_and_the_next_process_builds(tmp_path):
    packer = start_packer(tmp_path)
    wait_for(tmp_path / "built")
    packer.send_signal(signal.SIGKILL)
    packer.communicate(timeout=60)
    assert not (tmp_path / "set.classes").exists()
    assert_same(open_or_build(tmp_path / "set.classes", small_store), small_store())


def test_killed_while_writing_leaves_nothing_under_the_final_name(tmp_path):
    path = tmp_path / "set.classes"
    child = os.fork()
    if child == 0:  # the process dies, unable to clean up, with all bytes written and only the rename to come
        class_store.os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
        try:
            write_store(path, small_store())
        finally:
            os._exit(1)  # not reached; without it a failure would go on as a second pytest
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["set.classes.partial"]
    assert_same(open_or_build(path, small_store), small_store())
    assert sorted(os.listdir(tmp_path)) == ["set.classes", "set.classes.lock"]
