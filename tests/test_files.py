"""metarun.files: what is read has its shape, and what the machine refuses is named with a way out."""

import errno
import fcntl
import json
import os

import pytest

from metarun.errors import ConfigurationError, DamagedFile, FileError
from metarun.files import NUMBER, clear_leftovers, lock, mismatch, read_json, write_atomically
from metarun.run_folder.folder import RunFolder

SHAPE = {"name": str, "rows": [{"steps": int}], "mean": NUMBER}
GOOD = {"name": "a", "rows": [{"steps": 1}, {"steps": 2, "more": []}], "mean": 0.5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"mean": 1}, ""),
        ({"mean": None, "more": 1}, ""),
        ({"mean": "0.5"}, 'mean must be a number or null, and is "0.5"'),
        ({"name": None}, "name must be a text, and is null"),
        ({"rows": {}}, "rows must be a list, and is an object"),
        ({"rows": [{"steps": 1}, {"steps": True}]}, "rows[1].steps must be an integer, and is true"),
        ({"rows": [{"steps": 1}, {}]}, "rows[1] has no steps"),
        ({"rows": [3]}, "rows[0] must be an object, and is 3"),
    ],
)
def test_what_keeps_a_value_from_its_shape(change, words):
    assert mismatch(GOOD | change, SHAPE) == words


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "it must be an object, and is a list"),
        (b"{}", "it has no name"),
        (b'{"name": "\xff"}', "'utf-8' codec can't decode byte 0xff in position 10: invalid start byte"),
        (b'{"a":' * 100_000, "maximum recursion depth exceeded while decoding a JSON object from a unicode string"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "its values are nested more than 50 deep"),
    ],
)
def test_a_damaged_file_is_one_line_with_its_path_and_the_way_out(tmp_path, data, reason):
    path = tmp_path / "result.json"
    path.write_bytes(data)
    with pytest.raises(DamagedFile) as raised:
        read_json(path, SHAPE, "Delete it.")
    assert str(raised.value) == f"{path} is damaged ({reason}). Delete it."
    assert isinstance(raised.value, ConfigurationError)


def test_a_whole_file_comes_back(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(GOOD))
    assert read_json(path, SHAPE) == GOOD
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", SHAPE)
    with pytest.raises(FileError, match=r"^\S+ cannot be read: Is a directory\. "):
        read_json(tmp_path, SHAPE)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.ENOSPC,
            "No space left on device. Free some space there and give the same command again, or set run.root",
        ),
        (errno.EDQUOT, "Disk quota exceeded. Free some space there"),
        (errno.EACCES, "Permission denied. Set run.root (METARUN_OUTPUTS) to a folder of yours."),
        (errno.EIO, "Input/output error. Look at the disk"),
        (errno.EBUSY, "Device or resource busy. Give the same command again when it can be."),
    ],
)
def test_what_the_machine_refuses_is_named_with_the_way_out(tmp_path, monkeypatch, number, words):
    def refusing(_file):
        raise OSError(number, os.strerror(number))  # as write and fsync do: without a path

    monkeypatch.setattr(os, "fsync", refusing)
    with pytest.raises(FileError) as raised:
        write_atomically(tmp_path / "config.json", b"{}")
    assert str(raised.value).startswith(f"{tmp_path / 'config.json'} cannot be written: {words}")
    assert raised.value.errno == number
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refusing(_file, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    folder = RunFolder(tmp_path / "run")
    folder.make()
    monkeypatch.setattr(fcntl, "flock", refusing)
    with pytest.raises(FileError) as raised, folder.locked():
        pass
    assert str(raised.value) == (
        f"{folder.path / '.lock'} cannot be locked: No locks available. Its file system has no locks: set run.root "
        "(METARUN_OUTPUTS, data.cache) to a folder on another, such as a local disk."
    )


def test_the_earlier_file_is_kept_where_it_is_asked_for(tmp_path):
    path, kept = tmp_path / "last.pt", tmp_path / "previous.pt"
    write_atomically(path, b"one", kept=kept)
    assert not kept.exists()
    write_atomically(path, b"two", kept=kept)
    write_atomically(path, b"three", kept=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"three", b"two")


def test_what_killed_writers_left_is_taken_away_under_the_lock(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.make()
    left = [
        folder.path / ".result.json.123.tmp",
        folder.checkpoints / ".last.pt.99.tmp",
        folder.path / "..writable.1.tmp",
    ]
    others = [folder.path / "notes.tmp", folder.path / ".mine.tmp", folder.checkpoints / "last.pt"]
    for path in (*left, *others):
        path.write_bytes(b"x")
    with folder.locked():
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in others)
        with open(folder.path / ".lock", "w") as second:
            assert not lock(second, folder.path / ".lock", waits=False)
        with (
            pytest.raises(ConfigurationError, match="another process is running this configuration in"),
            folder.locked(),
        ):
            pass
    clear_leftovers(tmp_path / "nowhere")
