"""Omniglot from its two official zip files: 1,623 characters of 50 alphabets, 20 drawings of each."""

import importlib.util
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from metarun.tasks.class_store import ClassStore, open_or_build
from metarun.tasks.types import SPLITS, Split

VERSION = "1"  # of the preparation: part of the packed file's name, so a change of the pixels never meets an old file
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
SIDE = 105
URL = "https://github.com/brendenlake/omniglot/raw/master/python/{}.zip"

_MEMBER = re.compile(r"(images_\w+)/[^/]+/character\d+/\d+_\d+\.png")

Progress = Callable[[int, int], None]


def omniglot(root: str | Path, cache: str | Path, image_size: int = 28, progress: Progress | None = None) -> ClassStore:
    """Omniglot at `image_size`, ink 255 on 0, with the split of Vinyals et al. 2016 (1028 / 172 / 423 characters).

    The first call decodes and packs the originals; later calls map the packed file and need neither zips nor torchmeta.
    The zips are checked by content (characters, drawings, size, CRC of every member), not by hash: the same drawings
    are in circulation in other containers. The split has one alphabet, Gurmukhi, with characters in train and in test.

    Args:
        root: folder that holds `images_background.zip` and `images_evaluation.zip`, or whose `omniglot/` does.
        cache: folder for the packed file; the folder of the originals is never written to.
        image_size: pixels per side, from 105 by Lanczos resampling.
        progress: called with (drawings done, drawings in all) while packing.
    Raises:
        FileNotFoundError: a zip is missing.
        ValueError: a zip is damaged or holds something else.
        ImportError: torchmeta, which ships the split, is not installed.
    Source: Lake et al. 2015. Lanczos and inverted ink as in cbfinn/maml; torchmeta resizes bilinearly.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be >= 1, got {image_size}. Set dataset.image_size.")

    def build() -> ClassStore:
        zips = find_zips(Path(root).expanduser())
        return pack(zips, image_size, vinyals_split(), CHARACTERS, progress)

    return open_or_build(Path(cache).expanduser() / f"omniglot-{image_size}-v{VERSION}.classes", build)


def find_zips(root: Path) -> dict[str, Path]:
    """The zip of each set, from the first of `root` and `root/omniglot` that holds it."""
    folders = [root, root / "omniglot"]
    zips = {}
    for name in CHARACTERS:
        found = [folder / f"{name}.zip" for folder in folders if (folder / f"{name}.zip").is_file()]
        if found:
            zips[name] = found[0]
    missing = [name for name in CHARACTERS if name not in zips]
    if missing:
        raise FileNotFoundError(
            f"Omniglot needs {' and '.join(f'{name}.zip' for name in missing)}, "
            f"not found in {folders[0]} or {folders[1]}. "
            f"Download {' and '.join(URL.format(name) for name in missing)} into one of them, "
            "or set data.root or METARUN_DATA to the folder that has the files."
        )
    return zips


def vinyals_split() -> dict[Split, list[str]]:
    """Class names of train, val and test, from the files that torchmeta ships; torchmeta is found, not imported.

    Its `import` runs every data set's dependencies, and fails on today's torch.

    Raises:
        ImportError: torchmeta is not installed.
    """
    spec = importlib.util.find_spec("torchmeta")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the Omniglot split is read from the files of torchmeta, which is not installed. "
            "Run: pip install --no-deps torchmeta==1.8.0"
        )
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "assets" / "omniglot"
    splits: dict[Split, list[str]] = {}
    for split in SPLITS:
        nested = json.loads((folder / f"{split}.json").read_text())
        splits[split] = [
            f"images_{part}/{alphabet}/{character}"
            for part, alphabets in nested.items()
            for alphabet, characters in alphabets.items()
            for character in characters
        ]
    return splits


def pack(
    zips: Mapping[str, Path],
    image_size: int,
    splits: Mapping[Split, list[str]],
    expected_characters: Mapping[str, int],
    progress: Progress | None = None,
) -> ClassStore:
    """Decode every drawing into one store; classes and drawings are in the order of their names.

    Raises:
        ValueError: a zip is damaged, or does not hold `expected_characters` of 20 drawings of 105x105.
    """
    total = sum(expected_characters.values()) * DRAWINGS
    images = torch.empty(total, image_size, image_size, dtype=torch.uint8)
    names: list[str] = []
    done = 0
    for part in sorted(zips):
        with _opened(zips[part]) as archive:
            drawings = _drawings(archive, zips[part], part, expected_characters[part])
            names += sorted({member.rsplit("/", 1)[0] for member in drawings})
            for member in drawings:
                images[done] = _decoded(_read(archive, zips[part], member), zips[part], member, image_size)
                done += 1
                if progress is not None and (done % 500 == 0 or done == total):
                    progress(done, total)
    images = images.view(len(names), DRAWINGS, 1, image_size, image_size)
    return ClassStore.build(images, names, splits, source="omniglot", version=VERSION)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        with open(path, "rb") as file:
            start = file.read(256).lstrip().lower()
        is_page = start.startswith((b"<!doctype", b"<html", b"<?xml"))
        kind = "a web page saved under this name" if is_page else "truncated, or not a zip file"
        raise _damaged(path, kind) from error


def _drawings(archive: zipfile.ZipFile, path: Path, part: str, expected_characters: int) -> list[str]:
    """Names of all drawings in the archive, sorted, after checking how many there are of each character."""
    matches = [match for name in archive.namelist() if (match := _MEMBER.fullmatch(name))]
    members = sorted(match.group() for match in matches if match.group(1) == part)
    counts: dict[str, int] = {}
    for member in members:
        character = member.rsplit("/", 1)[0]
        counts[character] = counts.get(character, 0) + 1
    if len(counts) != expected_characters:
        raise _damaged(path, f"{len(counts)} characters, expected {expected_characters}")
    for character, count in counts.items():
        if count != DRAWINGS:
            raise _damaged(path, f"{count} drawings of {character}, expected {DRAWINGS}")
    return members


def _read(archive: zipfile.ZipFile, path: Path, member: str) -> bytes:
    try:
        return archive.read(member)  # checks the member's CRC
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damaged(path, f"{member} cannot be read: {error}") from error


def _decoded(data: bytes, path: Path, member: str, image_size: int) -> Tensor:
    """One drawing, ink 255: uint8 [image_size, image_size]."""
    try:
        drawing = Image.open(io.BytesIO(data))
        drawing.load()
    except OSError as error:  # PIL raises nothing more specific
        raise _damaged(path, f"{member} is not a PNG: {error}") from error
    if drawing.size != (SIDE, SIDE):
        raise _damaged(path, f"{member} is {drawing.size[0]}x{drawing.size[1]}, expected {SIDE}x{SIDE}")
    # "L" first: PIL resizes 1-bit images by nearest neighbour, which breaks the strokes.
    grey = drawing.convert("L").resize((image_size, image_size), Image.Resampling.LANCZOS)
    return 255 - torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(image_size, image_size)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} ({path.stat().st_size:,} bytes) is not the Omniglot file: {reason}. "
        f"Delete it and download {URL.format(path.stem)} again."
    )
