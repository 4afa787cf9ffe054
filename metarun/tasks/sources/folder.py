"""Your own images: one folder for each class."""

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from metarun import checks
from metarun.tasks.class_store import ClassStore
from metarun.tasks.packed_file import Originals, Progress, open_or_pack
from metarun.tasks.sources.class_split import split_of
from metarun.tasks.sources.image_files import as_text, find_images, some
from metarun.tasks.sources.images import MAX_PIXELS, Survey, decoded, surveyed
from metarun.tasks.types import SPLITS, Split

logger = logging.getLogger(__name__)

VERSION = "2"
_BEFORE = "1"
"""The version whose files are the same wherever greys of more than 8 bits use all of them, or there are none."""


def folder(
    path: str | None,
    cache: str | Path,
    image_size: int,
    channels: int,
    split_file: str | None,
    split_fractions: Sequence[float],
    split_seed: int,
    min_images: int | None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> ClassStore:
    """The store of `<path>/<class>/<image>`, or of `<path>/{train,val,test}/<class>/<image>`, which is its own split.

    Images may be of any format, mode and size, and at any depth in the folder of their class; each is cropped to its
    middle square and resized once. The packed file is named after what is in the folder, so a changed folder is packed again.
    What is found and not used is counted and named in a warning.

    Args:
        path: the folder; only read.
        cache: folder for the packed file.
        image_size: pixels per side.
        channels: 1 for grey, 3 for colour.
        split_file: JSON {"train": [classes], "val": [...], "test": [...]}; classes that it does not name are left out.
        split_fractions: without a file or split folders, shares of train, val and test.
        split_seed: of that split, by which classes are ordered: a class that is added moves few others.
        min_images: leave out classes with fewer images; None refuses a class of one image, which no episode can use.
        max_pixels: a larger image is refused, as reading it takes memory; it changes nothing in the store.
        progress: called with (images done, images in all) while packing.
    Raises:
        FileNotFoundError: the folder or the split file is not there.
        ValueError: there is nothing to split, a class is in two splits or has one image, or an image cannot be read.
    """
    if path is None:
        raise ValueError(
            "dataset=folder needs the folder of your images, one folder for each class. Set dataset.path=FOLDER."
        )
    checks.integer("image_size", image_size, minimum=1)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels!r}. Set dataset.channels.")
    checks.integer("max_pixels", max_pixels, minimum=1)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"dataset.path must be a folder with one folder for each class, and {as_text(root)} is not one."
        )
    found = find_images(root)
    if words := found.in_words():
        logger.warning("%s: %s", as_text(root), words)
    splits = found.splits or split_of(list(found.members), split_file, split_fractions, split_seed, "a folder")
    members, splits, left_out = _kept(found.members, splits, min_images, root)
    if left_out:
        logger.warning("%d classes of %s are left out: %s", len(left_out), as_text(root), some(left_out))
    stamped = [(name, file.as_posix(), *_stamp(root / file)) for name, files in members.items() for file in files]

    def packed(version: str) -> Path:
        settings = [version, image_size, channels, sorted((split, *names) for split, names in splits.items())]
        mark = hashlib.sha256(json.dumps([settings, stamped]).encode()).hexdigest()[:12]
        stem = "".join(letter if letter.isalnum() else "_" for letter in as_text(root.resolve().name))[:40]
        return Path(cache).expanduser() / f"folder-{stem}-{image_size}-{mark}.classes"

    files = [root / file for files in members.values() for file in files]

    @functools.cache
    def survey() -> Survey:
        return surveyed(files, max_pixels)

    def items() -> Iterator[Tensor]:
        settings = {"channels": channels, "size": image_size, "max_pixels": max_pixels, "whites": survey().whites}
        for file in files:
            yield decoded(file.read_bytes(), as_text(file), is_upright=True, **settings)[None]

    def find() -> Originals:
        by_seed = f"seed {split_seed}, shares {list(split_fractions)}"
        return Originals(
            classes=list(members),
            counts=[len(files) for files in members.values()],
            splits=splits,
            shape=(channels, image_size, image_size),
            items=items,
            source=f"folder {as_text(root)}",
            version=VERSION,
            notes={
                "originals": as_text(root),
                "left_out": json.dumps(left_out),
                "split": "folders" if found.splits else str(split_file or by_seed),
                "remarks": json.dumps(_remarks(survey(), root)),
            },
        )

    now, before = packed(VERSION), packed(_BEFORE)
    if before.is_file() and not now.exists() and not survey().whites:
        with contextlib.suppress(
            OSError
        ):  # another process did so, or this file system has no links: it is packed again
            os.link(before, now)
    store = open_or_pack(now, find, progress)
    for remark in json.loads(store.provenance.get("remarks", "[]")):
        logger.info("%s: %s", as_text(root), remark)
    return store


def _remarks(survey: Survey, root: Path) -> list[str]:
    """What a person should know of how the images were read."""
    remarks = [
        f"no grey of {bits} bits is above {white:,}, which is taken for white" for bits, white in survey.whites.items()
    ]
    if survey.series:
        names = some([as_text(file.relative_to(root)) for file in survey.series], 3)
        remarks.append(f"of files with several images the first is used ({len(survey.series):,}): {names}")
    return remarks


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
                f"class {single[0]} of {root} has one image, as have {len(single)} of {len(members)} classes: an episode "
                "needs two at least, for support and query. Add images, or set dataset.min_images=2 to leave them out."
            )
    named = {name for names in splits.values() for name in names}
    is_kept = {name: name in named and len(files) >= (min_images or 2) for name, files in members.items()}
    kept = {name: files for name, files in members.items() if is_kept[name]}
    if not kept:
        raise ValueError(f"no class of {root} has {min_images} images. Lower dataset.min_images.")
    left_out = [name for name in members if not is_kept[name]]
    return kept, {split: [name for name in splits[split] if is_kept[name]] for split in SPLITS}, left_out


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
