"""Your own pictures: one folder for each class."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from metarun import checks
from metarun.tasks.class_store import ClassStore
from metarun.tasks.packed_file import Originals, Progress, open_or_pack
from metarun.tasks.sources.pictures import decoded
from metarun.tasks.types import SPLITS, Split

logger = logging.getLogger(__name__)

VERSION = "1"


def folder(
    path: str | None,
    cache: str | Path,
    image_size: int,
    channels: int,
    split_file: str | None,
    split_fractions: Sequence[float],
    split_seed: int,
    min_images: int | None,
    progress: Progress | None = None,
) -> ClassStore:
    """The store of `<path>/<class>/<picture>`, or of `<path>/{train,val,test}/<class>/<picture>`, which is its own split.

    Pictures may be of any format, mode and size; each is cropped to its middle square and resized once. The packed file is
    named after what is in the folder, so a changed folder is packed again. Hidden files and those that are no pictures are
    passed over, with a warning.

    Args:
        path: the folder; only read.
        cache: folder for the packed file.
        image_size: pixels per side.
        channels: 1 for grey, 3 for colour.
        split_file: JSON {"train": [classes], "val": [...], "test": [...]}; classes that it does not name are left out.
        split_fractions: without a file or split folders, shares of train, val and test.
        split_seed: of that split, by which classes are ordered: a class that is added moves few others.
        min_images: leave out classes with fewer pictures; None refuses a class of one picture, which no episode can use.
        progress: called with (pictures done, pictures in all) while packing.
    Raises:
        FileNotFoundError: the folder or the split file is not there.
        ValueError: there is nothing to split, a class is in two splits or has one picture, or a picture cannot be read.
    """
    if path is None:
        raise ValueError(
            "dataset=folder needs the folder of your pictures, one folder for each class. Set dataset.path=FOLDER."
        )
    checks.integer("image_size", image_size, minimum=1)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels!r}. Set dataset.channels.")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.path must be a folder with one folder for each class, and {root} is not one.")
    members, given, num_passed = _members(root)
    if num_passed:
        logger.warning("%d files in %s are no pictures and are passed over", num_passed, root)
    splits = given or _split(sorted(members), split_file, split_fractions, split_seed)
    members, splits, left_out = _kept(members, splits, min_images, root)
    settings = [VERSION, image_size, channels, sorted((split, *names) for split, names in splits.items())]
    pictures = [(name, file.as_posix(), *_stamp(root / file)) for name, files in members.items() for file in files]
    mark = hashlib.sha256(json.dumps([settings, pictures]).encode()).hexdigest()[:12]
    if left_out:
        logger.warning("%d classes of %s are left out: %s", len(left_out), root, _some(left_out))

    def items() -> Iterator[Tensor]:
        for files in members.values():
            for file in files:
                data = (root / file).read_bytes()
                yield decoded(data, root / file, channels=channels, size=image_size, is_upright=True)[None]

    def find() -> Originals:
        return Originals(
            classes=list(members),
            counts=[len(files) for files in members.values()],
            splits=splits,
            shape=(channels, image_size, image_size),
            items=items,
            source=f"folder {root}",
            version=VERSION,
            notes={
                "originals": str(root),
                "left_out": json.dumps(left_out),
                "split": "folders"
                if given
                else str(split_file or f"seed {split_seed}, shares {list(split_fractions)}"),
            },
        )

    stem = "".join(letter if letter.isalnum() else "_" for letter in root.resolve().name)[:40]
    return open_or_pack(Path(cache).expanduser() / f"folder-{stem}-{image_size}-{mark}.classes", find, progress)


def _members(root: Path) -> tuple[dict[str, list[Path]], dict[Split, list[str]] | None, int]:
    """Pictures of each class relative to `root`, both in order of name; the split that the folders make; files passed over."""
    suffixes = set(Image.registered_extensions())
    tops = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    is_split = set(tops) == set(SPLITS)
    places: list[tuple[str, Path]] = []
    given: dict[Split, list[str]] | None = {} if is_split else None
    if given is not None:
        for split in SPLITS:
            inside = os.scandir(root / split)
            given[split] = sorted(entry.name for entry in inside if entry.is_dir() and not entry.name.startswith("."))
            places += [(name, Path(split) / name) for name in given[split]]
    else:
        places = [(name, Path(name)) for name in tops]
    members: dict[str, list[Path]] = {}
    num_passed = 0
    for name, place in sorted(places):
        files = sorted(file for file in (root / place).iterdir() if file.is_file() and not file.name.startswith("."))
        pictures = [place / file.name for file in files if file.suffix.lower() in suffixes]
        num_passed += len(files) - len(pictures)
        if name in members:
            first, second = members[name][0].parent, place
            raise ValueError(f"class {name} is there twice, in {root / first} and {root / second}: keep one of them.")
        if pictures:
            members[name] = pictures
        else:
            raise ValueError(f"{root / place} holds no picture. Take the folder away, or add pictures to it.")
    if not members:
        raise ValueError(f"{root} holds no folders of pictures: one folder for each class is expected.")
    return members, given, num_passed


def _split(classes: Sequence[str], file: str | None, fractions: Sequence[float], seed: int) -> dict[Split, list[str]]:
    if file is not None:
        return _split_of_file(Path(file).expanduser(), classes)
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split_fractions must be three shares (train, val, test) that add up to 1, got {list(fractions)}. "
            "Set dataset.split_fractions."
        )
    order = sorted(classes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    ends = [round(len(order) * sum(fractions[: i + 1])) for i in range(3)]
    return {split: order[start:end] for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False)}


def _split_of_file(path: Path, classes: Sequence[str]) -> dict[Split, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the split file {path} is not there. Set dataset.split_file to a JSON file, or to null."
        )
    try:
        splits = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the split file {path} is not JSON: {error}") from error
    is_lists = isinstance(splits, dict) and all(isinstance(names, list) for names in splits.values())
    if not is_lists or set(splits) != set(SPLITS):
        raise ValueError(f'the split file {path} must be {{"train": [classes], "val": [classes], "test": [classes]}}.')
    for split in SPLITS:
        unknown = [name for name in splits[split] if name not in classes]
        if unknown:
            raise ValueError(
                f"the split file {path} names {len(unknown)} {split} classes without a folder: {_some(unknown)}"
            )
    return {split: list(splits[split]) for split in SPLITS}


def _kept(
    members: Mapping[str, list[Path]], splits: Mapping[Split, list[str]], min_images: int | None, root: Path
) -> tuple[dict[str, list[Path]], dict[Split, list[str]], list[str]]:
    """Members and splits without the classes that are in no split or too small, and the names of these."""
    if min_images is not None:
        checks.integer("min_images", min_images, minimum=2)
    else:
        single = [name for name, files in members.items() if len(files) == 1]
        if single:
            raise ValueError(
                f"class {single[0]} of {root} has one picture, as have {len(single)} of {len(members)} classes: an episode "
                "needs two at least, for support and query. Add pictures, or set dataset.min_images=2 to leave them out."
            )
    named = {name for names in splits.values() for name in names}
    is_kept = {name: name in named and len(files) >= (min_images or 2) for name, files in members.items()}
    kept = {name: files for name, files in members.items() if is_kept[name]}
    if not kept:
        raise ValueError(f"no class of {root} has {min_images} pictures. Lower dataset.min_images.")
    left_out = [name for name in members if not is_kept[name]]
    return kept, {split: [name for name in splits[split] if is_kept[name]] for split in SPLITS}, left_out


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
