"""metarun.tasks.packed_file: what is written is what is opened, or an error that says what is wrong."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from metarun.tasks import packed_file
from metarun.tasks.class_store import ClassStore, CorruptStoreError
from metarun.tasks.packed_file import Originals, open_or_pack, open_store, write_store

REPOSITORY = Path(__file__).parents[2]
COUNTS = (1, 4, 2, 3, 1, 1)
SHAPE = (3, 4, 4)


def pixels() -> torch.Tensor:
    return torch.arange(sum(COUNTS) * 48).to(torch.uint8).view(-1, *SHAPE)


def small_originals(**changes) -> Originals:
    """Six classes of one to four images, given in blocks that are no classes."""
    fields = {
        "classes": list("abcdef"),
        "counts": COUNTS,
        "splits": {"train": ["a", "c", "e"], "val": ["b"], "test": ["d", "f"]},
        "shape": SHAPE,
        "items": lambda: iter(pixels().split(5)),
        "source": "counting",
        "version": "1",
        "notes": {"originals": "nowhere"},
    }
    return Originals(**fields | changes)


def assert_whole(store: ClassStore) -> None:
    assert torch.equal(store.items, pixels()) and tuple(store.counts.tolist()) == COUNTS
    assert store.classes == tuple("abcdef")
    assert {split: ids.tolist() for split, ids in store.splits.items()} == {
        "train": [0, 2, 4],
        "val": [1],
        "test": [3, 5],
    }
    assert store.provenance["originals"] == "nowhere"
    store.verify()


def test_round_trip_is_exact_and_leaves_one_file(tmp_path):
    path = tmp_path / "set.classes"
    seen = []
    write_store(path, small_originals(), lambda done, total: seen.append((done, total)))
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert_whole(open_store(path))
    assert os.listdir(tmp_path) == ["set.classes"]
    with open(path, "rb") as file:
        file.seek(4096)  # the items start on a page
        assert file.read(576) == bytes(i % 256 for i in range(576))


def test_vectors_come_back_to_the_bit(tmp_path):
    values = torch.tensor([[0.1, -1e30], [float(2**-149), 3.0], [1 / 3, 0.0]])
    vectors = small_originals(
        classes=["x", "y"],
        counts=(1, 2),
        splits={"train": ["x"], "val": [], "test": ["y"]},
        shape=(2,),
        dtype=torch.float32,
        items=lambda: iter([values]),
    )
    write_store(tmp_path / "v", vectors)
    assert torch.equal(open_store(tmp_path / "v").items, values)


def test_writing_to_an_opened_store_does_not_reach_the_file_but_fails_verify(tmp_path):
    path = tmp_path / "set.classes"
    write_store(path, small_originals())
    opened = open_store(path)
    opened.items[0, 0, 0, 0] += 1
    with pytest.raises(CorruptStoreError, match="items of counting have SHA-256"):
        opened.verify()
    open_store(path).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": lambda: iter([pixels()[:11]])}, "gave 11 items, and 12 were listed"),
        ({"items": lambda: iter([pixels().float()])}, "gave torch.float32"),
        ({"items": lambda: iter([pixels()[..., :3]])}, "gave torch.uint8"),
    ],
)
def test_originals_that_are_not_what_they_said_leave_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "set.classes", small_originals(**changes))
    assert os.listdir(tmp_path) == []


def test_a_class_without_an_image_and_a_class_in_two_splits_are_refused():
    with pytest.raises(ValueError, match="every class of counting must have an example"):
        small_originals(counts=(0, 4, 2, 3, 1, 2))
    with pytest.raises(ValueError, match="a is in train and val"):
        small_originals(splits={"train": ["a"], "val": ["a"], "test": []})


DAMAGE = [
    (lambda data: data[:-1], "bytes, expected"),
    (lambda data: data + b"\0", "bytes, expected"),
    (lambda data: b"PK\x03\x04" + data[4:], "starts with b'PK"),
    (lambda data: data[:16] + b"\x63\0\0\0" + data[20:], "format version 99, expected 2"),
    (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "the header does not have the recorded CRC-32"),
    (lambda data: data[:24] + b"\xff" * 8 + data[32:], "bytes, expected"),
    (lambda data: data[:4500] + bytes([data[4500] ^ 1]) + data[4501:], "MiB 0 of its items does not have"),
    (lambda data: b"", "0 bytes, shorter than"),
    (lambda data: bytes(4096) + data[4096:], "starts with b'\\x00"),  # killed before the prefix was written
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_damage_is_named_and_repaired(tmp_path, caplog, damage, reason):
    path = tmp_path / "set.classes"
    write_store(path, small_originals())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptStoreError) as caught:
        open_store(path)
    assert str(path) in str(caught.value) and reason in str(caught.value) and "Delete it" in str(caught.value)
    assert "\n" not in str(caught.value)

    with caplog.at_level(logging.WARNING):
        assert_whole(open_or_pack(path, small_originals))
    assert len(caplog.records) == 1 and str(path) in caplog.text and "Packing it again" in caplog.text
    assert_whole(open_store(path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([], "it must be an object, and is a list"),
        (b"{", "its header is no JSON"),
        (b"\xff", "its header is no JSON"),
        (b"[" * 100_000, "its header is no JSON"),
        ({"shape": None}, "shape must be a list, and is null"),
        ({"shape": [-6, -24]}, "it states items of uint8 [-6, -24]"),
        ({"dtype": "object"}, "it states items of object"),
        ({"shape": [10**12, 3, 4, 4]}, "it states 48000000000000 bytes of items in 1 blocks, and there are"),
        ({"crc32": []}, "bytes of items in 0 blocks, and there are"),
        ({"counts": [2**70]}, "its header cannot be: "),
        ({"counts": [1, 2]}, "counts must be"),
        ({"splits": {"train": [99], "val": [], "test": []}}, "split train names class 99"),
        ({"provenance": {}}, "provenance has no source"),
    ],
)
def test_a_header_that_has_its_checksum_and_cannot_be_is_named(changes, reason, tmp_path):
    path = tmp_path / "set.classes"
    write_store(path, small_originals())
    data = path.read_bytes()
    magic, version, _, offset, _ = packed_file._PREFIX.unpack_from(data)
    content = json.loads(data[offset:]) | changes if isinstance(changes, dict) else changes
    header = content if isinstance(content, bytes) else json.dumps(content).encode()
    prefix = packed_file._PREFIX.pack(magic, version, zlib.crc32(header), offset, len(header))
    path.write_bytes(prefix + data[len(prefix) : offset] + header)
    with pytest.raises(CorruptStoreError) as caught:
        open_store(path)
    assert str(path) in str(caught.value) and reason in str(caught.value) and "Delete it" in str(caught.value)
    assert_whole(open_or_pack(path, small_originals))


def test_a_file_that_cannot_be_read_names_itself_and_a_way_out(tmp_path):
    path = tmp_path / "set.classes"
    path.mkdir()
    with pytest.raises(
        OSError, match=rf"{path} cannot be read: Is a directory\. Mend that, or take it away.*data\.cache"
    ):
        open_or_pack(path, small_originals)


def test_of_a_large_file_evenly_spread_blocks_are_checked_and_all_when_asked(tmp_path, monkeypatch):
    """Nine blocks of 64 bytes, of which three are looked at: the first, the middle and the last."""
    monkeypatch.setattr(packed_file, "_BLOCK", 64)
    monkeypatch.setattr(packed_file, "_CHECKED_BLOCKS", 3)
    path = tmp_path / "set.classes"
    write_store(path, small_originals())
    whole = path.read_bytes()
    noticed = []
    for block in range(9):
        data = bytearray(whole)
        data[4096 + 64 * block + 7] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(CorruptStoreError, match=f"MiB {block} of"):
            open_store(path, is_whole=True)
        try:
            open_store(path)
        except CorruptStoreError:
            noticed.append(block)
    assert noticed == [0, 4, 8]


def no_originals() -> Originals:
    raise FileNotFoundError("the zips are not there")


def test_damage_without_originals_names_both(tmp_path):
    path = tmp_path / "set.classes"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(CorruptStoreError, match=r"not a usable packed data set.*Delete it.*the zips are not there"):
        open_or_pack(path, no_originals)


def test_an_existing_file_is_opened_without_packing_or_locking(tmp_path):
    path = tmp_path / "set.classes"
    write_store(path, small_originals())
    assert_whole(open_or_pack(path, no_originals))
    assert os.listdir(tmp_path) == ["set.classes"]


def test_a_failed_search_leaves_no_file(tmp_path):
    path = tmp_path / "new" / "set.classes"
    with pytest.raises(FileNotFoundError, match="the zips are not there"):
        open_or_pack(path, no_originals)
    assert os.listdir(path.parent) == ["set.classes.lock"]
    assert_whole(open_or_pack(path, small_originals))


def test_an_original_that_cannot_be_read_is_not_taken_for_a_full_cache(tmp_path):
    def items():
        yield pixels()[:5]
        raise PermissionError(13, "Permission denied", "/data/image.png")

    with pytest.raises(PermissionError) as caught:
        write_store(tmp_path / "set.classes", small_originals(items=items))
    assert caught.value.filename == "/data/image.png"
    assert os.listdir(tmp_path) == []


def test_a_disk_with_too_little_room_is_found_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_file.shutil, "disk_usage", lambda path: SimpleNamespace(free=500))
    with pytest.raises(OSError, match=r"MiB needed\): No space left on device, 0 MiB free\. Set data\.cache"):
        write_store(tmp_path / "set.classes", small_originals(items=no_originals))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_while_packing_leaves_nothing_and_names_the_key(tmp_path):
    """A real limit: this process may write files of 4300 bytes and no longer, so the second block fails."""
    path = tmp_path / "set.classes"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4300, 4300))
            write_store(path, small_originals())
        except OSError as error:
            status = 0 if "Set data.cache or METARUN_CACHE" in str(error) and not os.listdir(tmp_path) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write the packed data set to .*file.*Set data\.cache"):
        open_or_pack(tmp_path / "file" / "set.classes", small_originals)


PACKER = """
import logging, sys
from pathlib import Path
from test_packed_file import small_originals, wait_for
from metarun.tasks.packed_file import open_or_pack

folder = Path(sys.argv[1])

def find():
    with open(folder / "found", "a") as log:
        log.write("x")
    wait_for(folder / "go")
    return small_originals()

logging.basicConfig(level=logging.INFO)
print(int(open_or_pack(folder / "set.classes", find).items.sum()))
"""


def start_packer(folder: Path) -> subprocess.Popen:
    """A process that takes the lock, writes `found` and waits for `go`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
    arguments = [sys.executable, "-c", PACKER, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.scenario
def test_of_two_processes_one_packs_and_both_use_it(tmp_path):
    first = start_packer(tmp_path)
    wait_for(tmp_path / "found")
    second = start_packer(tmp_path)
    assert any("Waiting for another process" in line for line in second.stderr)  # reads until it says so, or ends
    assert not (tmp_path / "set.classes").exists()
    (tmp_path / "go").touch()
    expected = f"{int(pixels().sum())}\n"
    assert [packer.communicate(timeout=60)[0] for packer in (first, second)] == [expected, expected]
    assert (tmp_path / "found").read_text() == "x"


@pytest.mark.scenario
def test_killed_before_writing_leaves_nothing_and_the_next_process_packs(tmp_path):
    packer = start_packer(tmp_path)
    wait_for(tmp_path / "found")
    packer.send_signal(signal.SIGKILL)
    packer.communicate(timeout=60)
    assert not (tmp_path / "set.classes").exists()
    assert_whole(open_or_pack(tmp_path / "set.classes", small_originals))


@pytest.mark.parametrize("moment", ["while decoding", "before the rename"])
def test_killed_while_packing_leaves_nothing_under_the_final_name(tmp_path, moment):
    path = tmp_path / "set.classes"

    def dies():
        yield pixels()[:5]
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:  # the process dies, unable to clean up
        try:
            if moment == "before the rename":
                packed_file.os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
                write_store(path, small_originals())
            else:
                write_store(path, small_originals(items=dies))
        finally:
            os._exit(1)  # not reached; without it a failure would go on as a second pytest
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["set.classes.partial"]
    assert_whole(open_or_pack(path, small_originals))
    assert sorted(os.listdir(tmp_path)) == ["set.classes", "set.classes.lock"]
