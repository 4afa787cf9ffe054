"""metarun.tasks.sources.omniglot: zips to a store, by content; clear errors for what goes wrong with files."""

import importlib.util
import io
import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources import omniglot as module
from metarun.tasks.sources.omniglot import find_zips, omniglot, pack, vinyals_split

DATA = Path(os.environ.get("METARUN_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TINY = {"images_background": 2, "images_evaluation": 1}
TINY_SPLIT = {
    "train": ["images_background/A/character01"],
    "val": ["images_background/A/character02"],
    "test": ["images_evaluation/B/character01"],
}
MEMBERS = {
    "images_background": ["A/character01", "A/character02"],
    "images_evaluation": ["B/character01"],
}


def drawing(row: int, side: int = 105) -> bytes:
    """A 1-bit PNG as in Omniglot: white paper, a black band of five rows."""
    image = Image.new("1", (side, side), 1)
    image.paste(0, (0, row, side, row + 5))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_zips(folder: Path, drawings: int = 20, side: int = 105) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    zips = {}
    for part, characters in MEMBERS.items():
        zips[part] = folder / f"{part}.zip"
        with zipfile.ZipFile(zips[part], "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._x", b"ignored")
            for number, character in reversed(list(enumerate(characters))):  # members out of order
                for j in reversed(range(drawings)):
                    archive.writestr(
                        f"{part}/{character}/{number:04d}_{j + 1:02d}.png", drawing(10 * number + 4 * j, side)
                    )
    return zips


def test_pack_orders_by_name_inverts_and_keeps_pixels_at_full_size(tmp_path):
    seen = []
    store = pack(write_zips(tmp_path), 105, TINY_SPLIT, TINY, lambda done, total: seen.append((done, total)))
    assert store.classes == tuple(TINY_SPLIT[split][0] for split in TINY_SPLIT)
    assert store.images.shape == (3, 20, 1, 105, 105)
    for c, number in enumerate((0, 1, 0)):
        for j in range(20):
            expected = torch.zeros(105, 105, dtype=torch.uint8)
            expected[10 * number + 4 * j : 10 * number + 4 * j + 5] = 255
            assert torch.equal(store.images[c, j, 0], expected)
    assert [store.splits[split].tolist() for split in ("train", "val", "test")] == [[0], [1], [2]]
    assert seen == [(60, 60)]


def test_pack_resizes_grey_not_binary(tmp_path):
    store = pack(write_zips(tmp_path), 28, TINY_SPLIT, TINY)
    assert store.images.shape == (3, 20, 1, 28, 28)
    assert len(store.images.unique()) > 10  # nearest neighbour would leave 0 and 255 alone
    # A band of 5 of 105 rows is 5 * 28 / 105 rows of ink; Lanczos keeps the sum but for clipping at 0 and 255.
    assert float(store.images[0, 8].float().sum() / 255) == pytest.approx(28 * 5 * 28 / 105, rel=0.1)


@pytest.mark.parametrize("below", ["", "omniglot"])
def test_zips_are_found_in_the_root_or_below_it(tmp_path, below):
    zips = write_zips(tmp_path / below)
    assert find_zips(tmp_path) == zips


def test_missing_files_are_listed_with_folders_addresses_and_keys(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        omniglot(tmp_path / "nowhere", tmp_path / "cache")
    message = str(caught.value)
    for part in ("images_background", "images_evaluation"):
        assert f"{part}.zip" in message
        assert f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip" in message
    for part in (str(tmp_path / "nowhere"), str(tmp_path / "nowhere" / "omniglot"), "data.root", "METARUN_DATA"):
        assert part in message
    assert "\n" not in message

    zips = write_zips(tmp_path / "half")
    zips["images_evaluation"].unlink()
    with pytest.raises(FileNotFoundError, match=r"needs images_evaluation\.zip, not found"):
        find_zips(tmp_path / "half")


def damaged(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return re.escape(f"{path} ({len(data):,} bytes) is not the Omniglot file: ")


def test_damaged_zips_are_named_with_size_and_remedy(tmp_path):
    zips = write_zips(tmp_path)
    path = zips["images_background"]
    whole = path.read_bytes()
    remedy = r".*Delete it and download https://github\.com/.*images_background\.zip again\."
    with pytest.raises(ValueError, match=damaged(path, whole[:1000]) + "truncated, or not a zip file" + remedy):
        pack(zips, 28, TINY_SPLIT, TINY)
    with pytest.raises(ValueError, match=damaged(path, b"\n<!DOCTYPE html><html>") + "a web page" + remedy):
        pack(zips, 28, TINY_SPLIT, TINY)
    with pytest.raises(ValueError, match=damaged(path, b"") + "truncated, or not a zip file" + remedy):
        pack(zips, 28, TINY_SPLIT, TINY)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        first = archive.infolist()[5]
    flipped = bytearray(whole)
    flipped[first.header_offset + 30 + len(first.filename) + first.compress_size // 2] ^= 0xFF
    with pytest.raises(ValueError, match=damaged(path, bytes(flipped)) + ".*cannot be read" + remedy):
        pack(zips, 28, TINY_SPLIT, TINY)


def test_zips_with_other_content_are_refused(tmp_path):
    zips = write_zips(tmp_path / "few")
    with pytest.raises(ValueError, match="2 characters, expected 964"):
        pack(zips, 28, TINY_SPLIT, module.CHARACTERS)
    with pytest.raises(ValueError, match=r"19 drawings of images_background/A/character01, expected 20"):
        pack(write_zips(tmp_path / "short", drawings=19), 28, TINY_SPLIT, TINY)
    with pytest.raises(ValueError, match=r"0000_01\.png is 50x50, expected 105x105"):
        pack(write_zips(tmp_path / "small", side=50), 28, TINY_SPLIT, TINY)
    swapped = {"images_background": zips["images_evaluation"], "images_evaluation": zips["images_background"]}
    with pytest.raises(ValueError, match="0 characters, expected 2"):
        pack(swapped, 28, TINY_SPLIT, TINY)


def test_without_torchmeta_the_command_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps torchmeta==1\.8\.0"):
        vinyals_split()


def official_split() -> dict[str, set[str]]:
    """Alphabet/character of each split, from the list of jakesnell/prototypical-networks."""
    folder = DATA / "splits" / "omniglot_vinyals"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set METARUN_DATA")
    return {
        split: {line.rsplit("/", 1)[0] for line in (folder / f"{split}.txt").read_text().split()}
        for split in ("train", "val", "test")
    }


def without_part(names: list[str]) -> set[str]:
    return {name.split("/", 1)[1] for name in names}


def test_split_is_the_official_one():
    if importlib.util.find_spec("torchmeta") is None:
        pytest.skip("torchmeta, which ships the split, is not installed")
    splits = vinyals_split()
    assert {split: len(names) for split, names in splits.items()} == {"train": 1028, "val": 172, "test": 423}
    assert {split: without_part(names) for split, names in splits.items()} == official_split()


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> tuple[ClassStore, Path]:
    if not any((folder / "images_background.zip").is_file() for folder in (DATA, DATA / "omniglot")):
        pytest.skip(f"no Omniglot in {DATA}; set METARUN_DATA")
    if importlib.util.find_spec("torchmeta") is None:
        pytest.skip("torchmeta, which ships the split, is not installed")
    cache = tmp_path_factory.mktemp("cache")
    return omniglot(DATA, cache), cache


def test_the_real_set_is_whole_split_as_published_and_opened_again_without_the_originals(real):
    store, cache = real
    assert store.images.shape == (1623, 20, 1, 28, 28)
    assert len(store.images.flatten(0, 1).flatten(1).unique(dim=0)) > 32_400  # no drawing decoded twice
    names = {split: [store.classes[i] for i in ids.tolist()] for split, ids in store.splits.items()}
    assert {split: without_part(members) for split, members in names.items()} == official_split()
    assert sum(len(set(members)) for members in names.values()) == len(set().union(*names.values())) == 1623
    again = omniglot("nowhere", cache)
    assert torch.equal(again.images, store.images) and again.provenance == store.provenance
    again.verify()
