"""metarun.tasks.sources.folder: one folder for each class, of any images, split by a file, by folders or by a seed."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.tasks.class_store import ClassStore
from metarun.tasks.episodes import Episodes
from metarun.tasks.sources import folder as source
from metarun.tasks.sources.folder import folder
from metarun.tasks.sources.images import Survey
from metarun.tasks.types import SPLITS

from .small_archives import noise

SETTINGS = {
    "image_size": 8,
    "channels": 3,
    "split_file": None,
    "split_fractions": [0.5, 0.25, 0.25],
    "split_seed": 0,
    "min_images": None,
}


def write_classes(root: Path, counts: dict[str, int]) -> None:
    """Classes of so many images, in turn PNG, JPEG and BMP, of several sizes."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            kind = ("png", "jpg", "bmp")[k % 3]
            image = Image.fromarray(noise(name, k, size=(8 + k % 2, 8, 3)))
            image.save(root / name / f"{k:03d}.{kind.upper() if k % 2 else kind}")


COUNTS = {f"class {c}": 3 + c % 4 for c in range(8)}


def store_of(root: Path, cache: Path, **changes) -> ClassStore:
    return folder(path=str(root), cache=cache, **SETTINGS | changes)


def test_classes_of_any_size_and_format(tmp_path):
    write_classes(tmp_path / "pets", COUNTS)
    store = store_of(tmp_path / "pets", tmp_path / "cache")
    assert store.classes == tuple(COUNTS) and store.counts.tolist() == list(COUNTS.values())
    first = store.items[store.starts]
    for position, name in enumerate(COUNTS):
        assert torch.equal(first[position], torch.from_numpy(noise(name, 0, size=(8, 8, 3))).permute(2, 0, 1))
    assert [len(store.names(split)) for split in SPLITS] == [4, 2, 2]
    episodes = Episodes(store=store, ways=2, rotations=False)
    for split in SPLITS:
        episodes.check(split, 1, 2)
    # The third image of a class is a BMP, without loss, 8x8.
    found = torch.from_numpy(noise("class 5", 2, size=(8, 8, 3))).permute(2, 0, 1)
    assert torch.equal(store.items[int(store.starts[5]) + 2], found)


def test_the_seeded_split_is_the_same_everywhere_and_moves_little(tmp_path):
    counts = {f"c{c:02d}": 2 for c in range(40)}
    write_classes(tmp_path / "a", counts)
    one = store_of(tmp_path / "a", tmp_path / "cache")
    again = store_of(tmp_path / "a", tmp_path / "elsewhere")
    other = store_of(tmp_path / "a", tmp_path / "cache", split_seed=1)
    names = [{split: store.names(split) for split in SPLITS} for store in (one, again, other)]
    assert names[0] == names[1] != names[2]
    assert names[0]["val"][:3] == ["c05", "c06", "c08"]  # a stored value: the same on every machine
    assert sorted(name for split in SPLITS for name in names[0][split]) == sorted(counts)
    write_classes(tmp_path / "a", {"c99": 2})
    grown = store_of(tmp_path / "a", tmp_path / "cache")
    moved = sum(len(set(names[0][split]) - set(grown.names(split))) for split in SPLITS)
    assert moved <= 2


def test_a_split_file(tmp_path):
    write_classes(tmp_path / "pets", COUNTS)
    file = tmp_path / "split.json"
    splits = {"train": ["class 7", "class 1"], "val": ["class 2"], "test": ["class 3", "class 0"]}
    file.write_text(json.dumps(splits))
    store = store_of(tmp_path / "pets", tmp_path / "cache", split_file=str(file))
    assert {split: store.names(split) for split in SPLITS} == {s: sorted(names) for s, names in splits.items()}
    assert len(store.classes) == 5 and json.loads(store.provenance["left_out"]) == ["class 4", "class 5", "class 6"]
    for content, words in (
        ("{", "is not JSON"),
        ('{"train": []}', 'must be {"train": [classes], "val": [classes], "test": [classes]}'),
        (json.dumps(splits | {"val": ["dog"]}), "names 1 val classes without a folder: dog"),
        (json.dumps(splits | {"val": ["class 7"]}), "class 7 is in train and val"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError) as caught:
            store_of(tmp_path / "pets", tmp_path / "cache", split_file=str(file))
        assert words in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"split file .*nowhere\.json is not there\. Set dataset\.split_file"):
        store_of(tmp_path / "pets", tmp_path / "cache", split_file=str(tmp_path / "nowhere.json"))


def test_split_folders(tmp_path):
    for split, names in {"train": ("b", "d"), "val": ("a",), "test": ("c",)}.items():
        write_classes(tmp_path / "pets" / split, dict.fromkeys(names, 2))
    store = store_of(tmp_path / "pets", tmp_path / "cache")
    assert {split: store.names(split) for split in SPLITS} == {"train": ["b", "d"], "val": ["a"], "test": ["c"]}
    assert store.classes == ("a", "b", "c", "d")
    write_classes(tmp_path / "pets" / "val", {"d": 2})
    with pytest.raises(ValueError, match=r"class d is there twice, in .*train/d and .*val/d"):
        store_of(tmp_path / "pets", tmp_path / "cache")


def test_a_store_of_the_version_before_is_kept_where_its_contents_are_the_same(tmp_path, monkeypatch):
    """Version 1 took 65,535 for white of every grey of more than 8 bits."""
    write_classes(tmp_path / "pets", COUNTS)
    deep = Image.fromarray(np.full((8, 8), 4095, np.uint16))
    with monkeypatch.context() as patch:
        patch.setattr(source, "VERSION", "1")
        patch.setattr(source, "surveyed", lambda *_: Survey({}, []))
        first = store_of(tmp_path / "pets", tmp_path / "cache")
        deep.save(tmp_path / "pets" / "class 0" / "100.png")
        dark = store_of(tmp_path / "pets", tmp_path / "cache")
    assert int(dark.items[int(dark.counts[0]) - 1].max()) == 16
    packed = sorted((tmp_path / "cache").glob("*.classes"))
    again = store_of(tmp_path / "pets", tmp_path / "cache")
    assert int(again.items[int(again.counts[0]) - 1].max()) == 255 and "above 4,095" in again.provenance["remarks"]
    (tmp_path / "pets" / "class 0" / "100.png").unlink()
    kept = store_of(tmp_path / "pets", tmp_path / "cache")
    assert torch.equal(kept.items, first.items)
    assert len({path.stat().st_ino for path in (tmp_path / "cache").glob("*.classes")}) == len(packed) + 1
    assert len(list((tmp_path / "cache").glob("*.classes"))) == len(packed) + 2


def test_greys_of_a_set_share_one_range(tmp_path, caplog):
    write_classes(tmp_path / "scans", dict.fromkeys("abcd", 2))
    for name, values in {"a": [0, 100], "b": [50, 200]}.items():
        Image.fromarray(np.tile(np.array(values, np.int32), (8, 4))).save(tmp_path / "scans" / name / "32.tif")
    with caplog.at_level(logging.INFO):
        store = store_of(tmp_path / "scans", tmp_path / "cache")
    assert store.items[2, 0, 0, :2].tolist() == [0, 100] and store.items[5, 0, 0, :2].tolist() == [50, 200]
    assert caplog.messages == [f"{tmp_path / 'scans'}: no grey of 32 bits is above 255, which is taken for white"]


def test_of_a_file_with_several_images_the_first_is_used_and_that_is_said_each_time(tmp_path, caplog):
    write_classes(tmp_path / "pets", dict.fromkeys("abcd", 2))
    pages = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 20, 30)]
    pages[0].save(tmp_path / "pets" / "a" / "9.tif", save_all=True, append_images=pages[1:])
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            store = store_of(tmp_path / "pets", tmp_path / "cache")
    assert int(store.items[2].max()) == 10
    remark = f"{tmp_path / 'pets'}: of files with several images the first is used (1): a/9.tif"
    assert caplog.messages == [remark, remark]


def test_an_image_larger_than_the_limit(tmp_path):
    write_classes(tmp_path / "pets", dict.fromkeys("abcd", 2))
    path = tmp_path / "pets" / "a" / "large.png"
    Image.new("L", (300, 40)).save(path)
    message = rf"{path} has 12,000 pixels, and (5,000|11,999) are allowed.*raise data\.max_pixels"
    with pytest.raises(ValueError, match=message):
        store_of(tmp_path / "pets", tmp_path / "cache", max_pixels=5000)
    with pytest.raises(ValueError, match=message):
        store_of(tmp_path / "pets", tmp_path / "cache", max_pixels=11_999)
    assert len(store_of(tmp_path / "pets", tmp_path / "cache", max_pixels=12_000).items) == 9
    assert (
        len(store_of(tmp_path / "pets", tmp_path / "cache", max_pixels=1).items) == 9
    )  # packed once, it is not read again


def test_what_is_found_and_not_used_is_told_in_one_line(tmp_path, caplog):
    write_classes(tmp_path / "pets", COUNTS)
    (tmp_path / "pets" / "class 1" / "notes.txt").write_text("x")
    (tmp_path / "pets" / "class 1" / ".DS_Store").write_text("x")
    write_classes(tmp_path / "pets" / "class 2", {"more": 2})
    with caplog.at_level(logging.WARNING):
        store = store_of(tmp_path / "pets", tmp_path / "cache")
    assert len(store.items) == sum(COUNTS.values()) + 2
    assert caplog.messages == [
        f"{tmp_path / 'pets'}: images in subfolders belong to their class (2). "
        "not used: hidden (1): class 1/.DS_Store; no image (1): class 1/notes.txt"
    ]


def test_a_class_whose_name_is_not_utf_8(tmp_path):
    write_classes(tmp_path / "pets", {"a": 2, "b": 2, "c": 2})
    os.mkdir(os.fsencode(tmp_path / "pets") + b"/K\xe4se")
    for k in (0, 1):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(
            os.fsdecode(os.fsencode(tmp_path / "pets") + b"/K\xe4se/\xe4%d.png" % k)
        )
    store = store_of(tmp_path / "pets", tmp_path / "cache")
    assert store.classes == (r"K\xe4se", "a", "b", "c") and store.items[:2, 0, 0, 0].tolist() == [0, 1]
    assert r"K\xe4se" in {name for split in SPLITS for name in store.names(split)}


def test_a_class_of_one_image_is_refused_or_left_out(tmp_path, caplog):
    write_classes(tmp_path / "pets", COUNTS | {"lonely": 1, "single": 1})
    message = r"class lonely of .* has one image, as have 2 of 10 classes.*dataset\.min_images=2"
    with pytest.raises(ValueError, match=message):
        store_of(tmp_path / "pets", tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        store = store_of(tmp_path / "pets", tmp_path / "cache", min_images=2)
    assert "lonely" not in store.classes and json.loads(store.provenance["left_out"]) == ["lonely", "single"]
    assert "2 classes" in caplog.text and "lonely, single" in caplog.text
    fewer = store_of(tmp_path / "pets", tmp_path / "cache", min_images=5)
    assert int(fewer.counts.min()) == 5 and len(fewer.classes) == sum(count >= 5 for count in COUNTS.values())
    with pytest.raises(ValueError, match=r"no class of .* has 50 images\. Lower dataset\.min_images"):
        store_of(tmp_path / "pets", tmp_path / "cache", min_images=50)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"x" * 40])
def test_an_unreadable_image_leaves_nothing(data, tmp_path):
    write_classes(tmp_path / "pets", COUNTS)
    path = tmp_path / "pets" / "class 3" / "000.png"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        store_of(tmp_path / "pets", tmp_path / "cache")
    assert str(path) in str(caught.value) and "Replace it or take it away" in str(caught.value)
    assert all(name.endswith(".lock") for name in os.listdir(tmp_path / "cache"))


def test_a_changed_folder_is_packed_again_and_an_unchanged_one_is_not(tmp_path):
    write_classes(tmp_path / "pets", COUNTS)
    store_of(tmp_path / "pets", tmp_path / "cache")
    (packed,) = (tmp_path / "cache").glob("*.classes")
    written = packed.stat().st_mtime_ns
    store_of(tmp_path / "pets", tmp_path / "cache")
    assert packed.stat().st_mtime_ns == written and len(list((tmp_path / "cache").glob("*.classes"))) == 1
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pets" / "class 0" / "000.png")
    changed = store_of(tmp_path / "pets", tmp_path / "cache")
    assert int(changed.items[0].sum()) == 0 and len(list((tmp_path / "cache").glob("*.classes"))) == 2


def test_grey_and_size(tmp_path):
    write_classes(tmp_path / "pets", COUNTS)
    assert store_of(tmp_path / "pets", tmp_path / "cache", channels=1, image_size=5).items.shape[1:] == (1, 5, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": None}, "Set dataset.path=FOLDER"),
        ({"channels": 4}, "channels must be 1 (grey) or 3 (colour), got 4. Set dataset.channels."),
        ({"image_size": 0}, "image_size must be an integer >= 1, got 0"),
        ({"split_fractions": [0.5, 0.5]}, "must be three shares (train, val, test) that add up to 1, got [0.5, 0.5]"),
        ({"split_fractions": [0.9, 0.3, -0.2]}, "Set dataset.split_fractions"),
        ({"min_images": 1}, "min_images must be an integer >= 2, got 1"),
        ({"max_pixels": 0}, "max_pixels must be an integer >= 1, got 0"),
    ],
)
def test_settings_that_cannot_be(changes, words, tmp_path):
    write_classes(tmp_path / "pets", {"a": 2, "b": 2})
    arguments = {"path": str(tmp_path / "pets"), "cache": tmp_path / "cache"} | SETTINGS | changes
    with pytest.raises(ValueError) as caught:
        folder(**arguments)
    assert words in str(caught.value)


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset\.path must be a folder .*nowhere is not one"):
        store_of(tmp_path / "nowhere", tmp_path / "cache")
