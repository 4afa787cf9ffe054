"""metarun.tasks.sources.omniglot: drawings to a store, by content; the real set, and the episodes that it gives."""

import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from metarun.tasks.class_store import ClassStore
from metarun.tasks.episodes import Episodes
from metarun.tasks.sources import omniglot as module
from metarun.tasks.sources.catalogue import CATALOGUE
from metarun.tasks.sources.glyphs import glyphs
from metarun.tasks.sources.named import named_set
from metarun.tasks.types import SPLITS, Examples, TaskBatch
from tests.training.small import DATA

from .test_episodes import digest

MEMBERS = {
    "images_background": ["A/character01", "A/character02"],
    "images_evaluation": ["B/character01"],
}
TINY_SPLIT = {
    "train": ["images_background/A/character01"],
    "val": ["images_background/A/character02"],
    "test": ["images_evaluation/B/character01"],
}


def drawing(row: int) -> bytes:
    """A 1-bit PNG as in Omniglot: white paper, a black band of five rows."""
    image = Image.new("1", (105, 105), 1)
    image.paste(0, (0, row, 105, row + 5))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_zips(folder: Path) -> dict[str, Path]:
    zips = {}
    for part, characters in MEMBERS.items():
        zips[f"{part}.zip"] = folder / f"{part}.zip"
        with zipfile.ZipFile(zips[f"{part}.zip"], "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._x", b"ignored")
            for number, character in reversed(list(enumerate(characters))):  # members out of order
                for j in reversed(range(20)):
                    archive.writestr(f"{part}/{character}/{number:04d}_{j + 1:02d}.png", drawing(10 * number + 4 * j))
    return zips


@pytest.fixture
def tiny_split(monkeypatch):
    monkeypatch.setattr(module, "vinyals_split", lambda: TINY_SPLIT)


def test_drawings_are_in_order_of_name_inverted_and_whole_at_full_size(tmp_path, tiny_split):
    listed = module.from_zips(CATALOGUE["omniglot"], write_zips(tmp_path), 105)
    assert listed.classes == [TINY_SPLIT[split][0] for split in SPLITS] and list(listed.counts) == [20] * 3
    items = torch.cat(list(listed.items()))
    for c, number in enumerate((0, 1, 0)):
        for j in range(20):
            expected = torch.zeros(105, 105, dtype=torch.uint8)
            expected[10 * number + 4 * j : 10 * number + 4 * j + 5] = 255
            assert torch.equal(items[20 * c + j, 0], expected)


def test_drawings_are_resized_as_grey_not_binary(tmp_path, tiny_split):
    items = torch.cat(list(module.from_zips(CATALOGUE["omniglot"], write_zips(tmp_path), 28).items()))
    assert items.shape == (60, 1, 28, 28)
    assert len(items.unique()) > 10  # nearest neighbour would leave 0 and 255 alone
    # A band of 5 of 105 rows is 5 * 28 / 105 rows of ink; Lanczos keeps the sum but for clipping at 0 and 255.
    assert float(items[8].float().sum() / 255) == pytest.approx(28 * 5 * 28 / 105, rel=0.1)


def official_split() -> dict[str, set[str]]:
    """Alphabet/character of each split, from the list of jakesnell/prototypical-networks."""
    folder = DATA / "splits" / "omniglot_vinyals"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set METARUN_DATA")
    return {
        split: {line.rsplit("/", 1)[0] for line in (folder / f"{split}.txt").read_text().split()} for split in SPLITS
    }


def without_part(names: list[str]) -> set[str]:
    return {name.split("/", 1)[1] for name in names}


def test_split_is_the_official_one():
    if importlib.util.find_spec("torchmeta") is None:
        pytest.skip("torchmeta, which ships the split, is not installed")
    splits = module.vinyals_split()
    assert {split: len(names) for split, names in splits.items()} == {"train": 1028, "val": 172, "test": 423}
    assert {split: without_part(names) for split, names in splits.items()} == official_split()


@pytest.fixture(scope="module")
def real(omniglot_places) -> ClassStore:
    return named_set("omniglot", *omniglot_places, 28)


def test_the_real_set_is_whole_split_as_published_and_opened_again_without_the_originals(real, omniglot_places):
    assert real.items.shape == (32_460, 1, 28, 28) and real.counts.tolist() == [20] * 1623
    assert len(real.items.flatten(1).unique(dim=0)) > 32_400  # no drawing decoded twice
    names = {split: real.names(split) for split in SPLITS}
    assert {split: without_part(members) for split, members in names.items()} == official_split()
    assert sum(len(set(members)) for members in names.values()) == len(set().union(*names.values())) == 1623
    again = named_set("omniglot", "nowhere", omniglot_places[1], 28)
    assert torch.equal(again.items, real.items) and again.provenance == real.provenance
    again.verify()


def divided(batch: TaskBatch) -> TaskBatch:
    """With each byte b as the quotient b / 255, as the first version had it; now it is b times the float32 nearest to 1/255."""

    def old(examples: Examples) -> Examples:
        return Examples((examples.inputs * 255).round() / 255, examples.targets, examples.classes)

    return TaskBatch(old(batch.support_set), old(batch.query_set), batch.latent)


# SHA-256 of the first eight episodes of seed 0, as the first version drew them: 5 ways, 1 shot.
OMNIGLOT = {
    "train": "f884c5f07e0e779426ef823e024e9ac84c7463aad4dc5d7cef6866f8fbbf9b2c",
    "val": "0f2556b707bf90e972d6aa5af7474881a7d1260e76f19faaec780dd806b50cb8",
    "test": "5d38c618d4aaf576238b8a52a0e919ed2817b8a5775a390e13ff3ae92c1a95a7",
}
GLYPHS = {
    "train": "8c77575e80d843a6c452d2a3e8588e783846001e9620f166ce53b9d95e76b98c",
    "val": "d9f058fc779933235cf86b4dfdbf2f932a912a47b7210b972002ae4a6c98a6d8",
    "test": "a4318128ff32ec61e82c4d5688fe22459045fb7e8eae7e38f57d177a9ca8f02f",
}


@pytest.mark.parametrize("split", SPLITS)
def test_episodes_are_those_of_the_first_version(split, real):
    assert real.provenance["sha256"] == "255fbb66efe334ae4ffdf873a5d430b6232d966a38612f804baa3297751298c5"
    episodes = Episodes(store=real, ways=5, rotations=True)
    assert digest(divided(episodes.sample(0, split, torch.arange(8), 1, 15))) == OMNIGLOT[split]


@pytest.mark.parametrize("split", SPLITS)
def test_glyph_episodes_are_those_of_the_first_version(split):
    """The integers exactly; the drawn pixels are floating-point work, which another processor may round otherwise."""
    store = glyphs({"train": 12, "val": 5, "test": 6}, 18, 14, 0)
    batch = Episodes(store=store, ways=5, rotations=False).sample(0, split, torch.arange(8), 1, 5)
    if store.provenance["sha256"] != "c47cb389f7b73b7ded9e893eed5d74c2dbd9e5b2090847f52804d52a027c15ec":
        pytest.skip("glyphs are drawn with other roundings on this processor")
    assert digest(divided(batch)) == GLYPHS[split]


def test_reading_the_same_characters_in_another_order_of_members_changes_nothing(tmp_path, tiny_split):
    zips = write_zips(tmp_path)
    first = torch.cat(list(module.from_zips(CATALOGUE["omniglot"], zips, 28).items()))
    shuffled = {}
    for name, path in zips.items():
        shuffled[name] = tmp_path / f"other-{name}"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(shuffled[name], "w") as new:
            members = sorted(old.namelist(), key=lambda member: hashlib.md5(member.encode()).digest())
            for member in members:
                new.writestr(member, old.read(member))
    assert torch.equal(torch.cat(list(module.from_zips(CATALOGUE["omniglot"], shuffled, 28).items())), first)
