"""metarun.tasks.sources: what is wrong with original files is found before anything is packed, and said in one line."""

import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from metarun.tasks.sources.catalogue import CATALOGUE
from metarun.tasks.sources.torchmeta_compat import split_lists

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


def test_missing_images_of_a_class_and_missing_classes_are_counted(tmp_path):
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


def test_an_unreadable_image_is_named(tmp_path):
    folder = make("cub", tmp_path)
    unpack(folder / "CUB_200_2011.tgz", folder)
    path = sorted((folder / "CUB_200_2011" / "images").rglob("*.jpg"))[40]
    path.write_bytes(path.read_bytes()[:200])
    message = refused("cub", tmp_path, tmp_path / "cache")
    assert path.name in message and "cannot be read as an image" in message


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


def write_pickles(name: str, root: Path) -> None:
    files = small_archives.mini_caches() if name == "miniimagenet" else small_archives.tiered_pickles()
    for file, data in files.items():
        (root / file).write_bytes(data)


def write_hdf5(name: str, root: Path) -> None:
    if name == "cifar_fs":
        pairs = [pair for pairs in split_lists("cifar100", "cifar-fs").values() for pair in pairs]
        with h5py.File(root / "data.hdf5", "w") as file:
            for coarse, fine in pairs:
                file.create_dataset(f"{coarse}/{fine}", data=small_archives.noise(fine, size=(3, 8, 8, 3)))
        return
    small_archives.features(root, name)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """One of what disks, connections and hands do to files: mostly at the ends, where the structure is."""
    ends = [draw.randrange(1024), -1 - draw.randrange(1024), draw.randrange(len(data))]
    place = draw.choice([end % len(data) for end in ends])
    return draw.choice(
        [
            data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :],
            data[:place] + bytes(len(data[place : place + 64])) + data[place + 64 :],
            data[:place],
            data[:place] + data,
            draw.choice([b"", b"\xff\xfetext", b"[]", b"{}", b"null", b"[" * 100_000]),
        ]
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("miniimagenet", write_pickles),
        ("tieredimagenet", write_pickles),
        ("letter", write_hdf5),
        ("cifar_fs", write_hdf5),
    ],
)
def test_files_damaged_at_random_are_told_in_one_line_with_a_path(name, write, tmp_path):
    write(name, tmp_path)
    files = sorted(tmp_path.iterdir())
    originals = {path: path.read_bytes() for path in files}
    for seed in range(12):
        draw = random.Random(f"{name} {seed}")
        path = draw.choice(files)
        path.write_bytes(damaged(originals[path], draw))
        try:
            store_of(name, tmp_path, tmp_path / f"cache {seed}")  # pickles and HDF5 have no checksums of their items
        except (ValueError, FileNotFoundError) as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error), seed
            assert not list((tmp_path / f"cache {seed}").glob("*.classes*[!k]"))
        path.write_bytes(originals[path])


@pytest.mark.parametrize("content", ["3", "{}", '["a", 1]', "[", "\udcff"])
def test_labels_that_are_no_list_of_names(content, tmp_path):
    small_archives.features(tmp_path, "letter")
    (tmp_path / "val_labels.json").write_text(content, errors="surrogateescape")
    message = refused("letter", tmp_path, tmp_path / "cache")
    assert (
        message.startswith(f"{tmp_path / 'val_labels.json'} (")
        and "is not letter labels, a JSON list of names" in message
    )


def test_pickles_of_another_form_name_the_file(tmp_path):
    caches = small_archives.mini_caches()
    for content, words in (
        ([1, 2], "what it holds has another form"),
        ({"image_data": [1], "class_dict": {}}, "what it holds has another form"),
        ({"class_dict": {}}, "'image_data' is missing in it"),
        ({"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 2]}}, "names rows 0 to 2 of 2"),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0.5]}},
            "what it holds has another form",
        ),
    ):
        for name, data in caches.items():
            (tmp_path / name).write_bytes(data)
        (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(small_archives.python2_pickle(content))
        message = refused("miniimagenet", tmp_path, tmp_path / "cache")
        assert message.startswith(f"{tmp_path / 'mini-imagenet-cache-test.pkl'} (") and words in message


def test_an_hdf5_file_that_would_fill_the_memory_is_refused(tmp_path):
    small_archives.features(tmp_path, "letter")
    with h5py.File(tmp_path / "val_data.hdf5", "r+") as file:
        label = next(iter(file["datasets"]))
        del file["datasets"][label]
        file["datasets"].create_dataset(
            label, shape=(3, 2**40), dtype="u1", chunks=(1, 2**20)
        )  # a few bytes in the file
    message = refused("letter", tmp_path, tmp_path / "cache")
    assert f"/datasets/{label} in it takes 3,298,534,883,328 bytes, and no file of the set 67," in message
