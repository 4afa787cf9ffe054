"""metarun.tasks.sources: what is wrong with original files is found before anything is packed, and said in one line."""

import shutil
from pathlib import Path

import pytest

from metarun.tasks.sources.catalogue import CATALOGUE

from . import small_archives
from .small_archives import make, store_of, unpack


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_archives.shrink_catalogue(monkeypatch)


ARCHIVES = {name: CATALOGUE[name].archives[0].name for name in ("miniimagenet", "tieredimagenet", "cub", "doublemnist")}


def refused(name: str, root: Path, cache: Path) -> str:
    """The one line of the error; nothing may be left that the next run would trust."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        store_of(name, root, cache)
    assert not [path for path in cache.iterdir() if not path.name.endswith(".lock")]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_web_page_instead_of_an_archive(name, tmp_path):
    folder = make(name, tmp_path)
    path = folder / ARCHIVES[name]
    path.write_bytes(b"\n<!DOCTYPE html><html>" + b"x" * 3000)
    message = refused(name, tmp_path, tmp_path / "cache")
    assert f"{path} is an HTML page of 3 kB: the download was refused" in message
    assert f"metarun data prepare {name}" in message


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_truncated_archive(name, share, tmp_path):
    folder = make(name, tmp_path)
    path = folder / ARCHIVES[name]
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    message = refused(name, tmp_path, tmp_path / "cache")
    assert str(path) in message and f"metarun data prepare {name}" in message


@pytest.mark.parametrize("name", ["miniimagenet", "cub", "doublemnist", "tieredimagenet"])
def test_a_flipped_byte_in_the_middle_is_found_by_the_checksums_inside(name, tmp_path):
    folder = make(name, tmp_path)
    path = folder / ARCHIVES[name]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))
    assert str(path) in refused(name, tmp_path, tmp_path / "cache")


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    for name, data in small_archives.mini_caches().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "mini-imagenet-cache-val.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    message = refused("miniimagenet", tmp_path, tmp_path / "cache")
    assert "mini-imagenet-cache-val.pkl" in message and "wants to load os.system" in message


def test_a_class_in_two_splits_is_named(tmp_path):
    caches = small_archives.mini_caches()
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(caches["mini-imagenet-cache-train.pkl"])
    for split in ("val", "test"):
        (tmp_path / f"mini-imagenet-cache-{split}.pkl").write_bytes(caches["mini-imagenet-cache-val.pkl"])
    message = refused("miniimagenet", tmp_path, tmp_path / "cache")
    assert "class n00000008 of miniimagenet is there twice, the second time in" in message


def test_missing_pictures_of_a_class_and_missing_classes_are_counted(tmp_path):
    folder = make("doublemnist", tmp_path)
    (archive,) = folder.glob("*.zip")
    unpack(archive, folder)
    label = next(iter((folder / archive.stem / "val").iterdir()))
    next(label.iterdir()).unlink()
    message = refused("doublemnist", tmp_path, tmp_path / "cache")
    assert f"each class of doublemnist has 3 examples, and {label.name} has 2" in message
    shutil.rmtree(label)
    message = refused("doublemnist", tmp_path, tmp_path / "cache")
    assert f"it lacks 1 of the split's 100 classes, first {label.name}" in message


def test_an_unreadable_picture_is_named(tmp_path):
    folder = make("cub", tmp_path)
    unpack(folder / "CUB_200_2011.tgz", folder)
    path = sorted((folder / "CUB_200_2011" / "images").rglob("*.jpg"))[40]
    path.write_bytes(path.read_bytes()[:200])
    message = refused("cub", tmp_path, tmp_path / "cache")
    assert path.name in message and "cannot be read as a picture" in message


def test_what_is_expected_where_is_said(tmp_path):
    message = refused("miniimagenet", tmp_path, tmp_path / "cache")
    for words in (
        str(tmp_path / "miniimagenet"),
        "mini-imagenet.tar.gz",
        "mini-imagenet-cache-{train,val,test}.pkl",
        "images/ and {train,val,test}.csv",
        "metarun data prepare miniimagenet",
        "METARUN_DATA",
    ):
        assert words in message
