"""metarun.tasks.sources.archives: a member that would fill the memory is refused before it is unpacked."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from metarun.tasks.sources.archives import LARGEST_IMAGE, read_tar, read_zip, zip_members


def written_zip(path: Path, sizes: dict[str, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, size in sizes.items():
            archive.writestr(name, bytes(size))
    return path


def written_tar(path: Path, sizes: dict[str, int]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, size in sizes.items():
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return path


def test_a_zip_with_a_member_larger_than_any_image_is_refused_unread(tmp_path, monkeypatch):
    path = written_zip(tmp_path / "set.zip", {"a.png": 10, "b.png": LARGEST_IMAGE + 1})
    assert path.stat().st_size < LARGEST_IMAGE / 100
    whole = written_zip(tmp_path / "whole.zip", {"a.png": 10, "b.png": 20, "folder/": 0})
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError) as caught:
        zip_members(path, "doublemnist")
    assert "b.png in it unpacks to 16,777,217 bytes, and no file of the set has more than 16,777,216" in str(
        caught.value
    )
    assert str(caught.value).startswith(f"{path} (") and str(caught.value).endswith("metarun data prepare doublemnist")
    assert zip_members(whole, "doublemnist", largest=20) == ["a.png", "b.png"]


def test_a_zip_that_understates_a_size_gives_no_more_than_that(tmp_path):
    path = written_zip(tmp_path / "set.zip", {"a.png": 100_000})
    stated, real = (size.to_bytes(4, "little") for size in (1000, 100_000))
    path.write_bytes(path.read_bytes().replace(real, stated))
    assert zip_members(path, "doublemnist") == ["a.png"]
    with pytest.raises(ValueError, match=r"set\.zip .*truncated, or not such a file \(Bad CRC-32 for file 'a\.png'\)"):
        list(read_zip(path, "doublemnist", ["a.png"]))


def test_a_tar_is_refused_at_the_header_of_a_member_that_is_wanted_and_too_large(tmp_path):
    path = written_tar(tmp_path / "set.tgz", {"./a.jpg": 10, "notes.bin": 5000, "b.jpg": 2001})
    found = [(name, file.read()) for name, file in read_tar(path, "cub", lambda name: name == "a.jpg", largest=2000)]
    assert found == [("a.jpg", bytes(10))]
    with pytest.raises(
        ValueError, match=r"set\.tgz .* is not cub: b\.jpg in it unpacks to 2,001 bytes, and no file .* 2,000"
    ):
        list(read_tar(path, "cub", lambda name: name.endswith(".jpg"), largest=2000))


def test_a_zip_that_is_encrypted_is_told_in_one_line(tmp_path):
    path = written_zip(tmp_path / "set.zip", {"a.png": 10})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is encrypted, password required") as caught:
        list(read_zip(path, "doublemnist", ["a.png"]))
    assert "\n" not in str(caught.value)
