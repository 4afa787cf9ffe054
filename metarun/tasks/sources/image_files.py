"""Which images lie in a folder of classes, and what else does: everything found is used, or counted and named."""

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from metarun.tasks.types import SPLITS, Split

_WITHOUT_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}
"""Formats that Pillow lists and cannot turn into pixels: it only writes them, or leaves them to another program."""

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in a folder.

    Attributes:
        root: the folder.
        members: the images of each class, relative to `root`; both in order of name.
        splits: the classes of train, val and test, where each of them has a folder.
        unused: files and folders that are not used, by reason.
    """

    root: Path
    members: dict[str, list[Path]] = field(default_factory=dict)
    splits: dict[Split, list[str]] = field(default_factory=dict)
    unused: dict[str, list[str]] = field(default_factory=dict)

    def in_words(self) -> str:
        """What is not used and why, and how many images lie deeper than their class; empty where all is plain."""
        depth = 3 if self.splits else 2
        deeper = sum(len(file.parts) > depth for files in self.members.values() for file in files)
        parts = [f"images in subfolders belong to their class ({deeper:,})"] if deeper else []
        if self.unused:
            reasons = [f"{reason} ({len(names):,}): {some(sorted(names), 3)}" for reason, names in self.unused.items()]
            parts.append(f"not used: {'; '.join(reasons)}")
        return ". ".join(parts)


def find_images(root: Path) -> Found:
    """The images of `<root>/<class>/.../<image>`, or of `<root>/<split>/<class>/.../<image>`.

    A file is an image by its suffix. Links are followed. Folders are splits where they are called train, val and test (or
    training, valid, validation, testing, in letters of any case) and no image lies in them directly.

    Raises:
        ValueError: there is no class, a class has no image or is there twice, or a split has no folder or two.
    """
    found = Found(root=root)
    above = (os.path.realpath(root),)
    tops = _folders(root, above, found)
    split_of = _split_folders(root, tops)
    classes = tops
    if split_of:
        classes = []
        for top in sorted(tops, key=lambda top: top.name):
            if top.name not in split_of:
                _pass_over(top, found, "folder beside the splits")
                continue
            inside = _folders(top.path, (*above, os.path.realpath(top.path)), found)
            found.splits[split_of[top.name]] = [as_text(entry.name) for entry in inside]
            classes += inside
    for entry in sorted(classes, key=lambda entry: as_text(entry.name)):
        _add_class(entry, above, found)
    if not found.members:
        besides = f" ({words})" if (words := found.in_words()) else ""
        raise ValueError(f"{as_text(root)} holds no folders of images: one folder for each class is expected{besides}.")
    if len(classes) == 1 and not _has_images(classes[0].path):
        raise ValueError(
            f"{as_text(root)} has one folder, {as_text(classes[0].name)}, and its images lie deeper. Set dataset.path to "
            "the folder that holds the folders of all classes."
        )
    return found


def images_below(folder: Path) -> list[Path]:
    """Every image in a folder at any depth, in order of name, whatever its folders stand for."""
    found = Found(root=folder)
    return [folder / file for file in sorted(_images(os.fspath(folder), (os.path.realpath(folder),), found))]


def as_text(path: str | Path) -> str:
    r"""A path as text that can be written anywhere: bytes that are not UTF-8 become escapes, as in `K\xe4se`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def some(names: Sequence[str], number: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")


def _add_class(entry: os.DirEntry[str], above: tuple[str, ...], found: Found) -> None:
    name, num_unused = as_text(entry.name), sum(map(len, found.unused.values()))
    files = [Path(file) for file in sorted(_images(entry.path, above, found))]
    if name in found.members:
        first = found.members[name][0]
        twin = found.root.joinpath(*first.parts[: 2 if found.splits else 1])
        raise ValueError(
            f"class {name} is there twice, in {as_text(twin)} and {as_text(entry.path)}: keep one of them. "
            "It is the classes that are split here, not the images of each."
        )
    if not files:
        others = sum(map(len, found.unused.values())) - num_unused
        among = f" among its {others} files" if others else ""
        raise ValueError(f"{as_text(entry.path)} holds no image{among}. Take the folder away, or add images to it.")
    found.members[name] = files


def _entries(folder: str | Path, above: tuple[str, ...], found: Found) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, in order of name; what is hidden and links that lead nowhere, or back to `above`, are counted."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name == "__MACOSX":  # what macOS adds to a zip
            _pass_over(entry, found, "hidden")
        elif entry.is_symlink() and not os.path.exists(entry.path):
            _pass_over(entry, found, "broken link")
        elif entry.is_symlink() and entry.is_dir() and _leads_back(entry.path, above):
            _pass_over(entry, found, "link to a folder that it is in")
        else:
            yield entry


def _leads_back(link: str, above: tuple[str, ...]) -> bool:
    target = os.path.realpath(link)
    return any(folder == target or folder.startswith(os.path.join(target, "")) for folder in above)


def _folders(folder: str | Path, above: tuple[str, ...], found: Found) -> list[os.DirEntry[str]]:
    """Those in a folder where no images are expected; files are counted."""
    folders = []
    for entry in _entries(folder, above, found):
        if entry.is_dir():
            folders.append(entry)
        else:
            _pass_over(entry, found, "image outside of a class" if _is_image(entry) else "no image")
    return folders


def _images(folder: str, above: tuple[str, ...], found: Found) -> Iterator[str]:
    """Every image at any depth below a folder, relative to the root; other files are counted."""
    above = (*above, os.path.realpath(folder))
    for entry in _entries(folder, above, found):
        if entry.is_dir():
            yield from _images(entry.path, above, found)
        elif _is_image(entry):
            yield _relative(entry, found)
        else:
            _pass_over(entry, found, "no image")


def _pass_over(entry: os.DirEntry[str], found: Found, reason: str) -> None:
    found.unused.setdefault(reason, []).append(as_text(_relative(entry, found)))


def _relative(entry: os.DirEntry[str], found: Found) -> str:
    """Its path below the root; all entries come from there, and `os.path.relpath` takes ten times as long."""
    return entry.path[len(os.path.join(found.root, "")) :]


def _is_image(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in _suffixes() and entry.is_file()


@functools.cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind not in _WITHOUT_PIXELS)


def _split_folders(root: Path, tops: Sequence[os.DirEntry[str]]) -> dict[str, Split]:
    """Which split each folder stands for; empty where the folders are classes.

    Raises:
        ValueError: the folders are splits, and one of the three has none or two.
    """
    names = [top.name for top in tops if top.name.lower() in _SPLIT_NAMES and not _has_images(top.path)]
    split_of: dict[str, Split] = {name: _SPLIT_NAMES[name.lower()] for name in names}
    has_all = set(split_of.values()) == set(SPLITS)
    if (has_all and len(names) > len(SPLITS)) or (names and not has_all and len(names) == len(tops)):
        raise ValueError(
            f"{as_text(root)} has the folders {', '.join(names)}, and a split by folders needs one each of train, val and "
            "test. Make them so, or set dataset.path to the one that holds the folders of all classes."
        )
    return split_of if has_all else {}


def _has_images(folder: str) -> bool:
    """Directly, not deeper."""
    return any(_is_image(entry) for entry in os.scandir(folder) if not entry.name.startswith("."))
