"""Omniglot: 1,623 characters of 50 alphabets, 20 drawings of each, from its zips, their folders or torchmeta's HDF5."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from metarun.tasks.packed_file import Originals
from metarun.tasks.sources.archives import read_zip, zip_members
from metarun.tasks.sources.catalogue import DataSet
from metarun.tasks.sources.hdf5 import array_of, opened
from metarun.tasks.sources.images import decoded, resized_array
from metarun.tasks.sources.listing import Files, grouped, originals_of, read_files
from metarun.tasks.sources.torchmeta_compat import split_lists
from metarun.tasks.types import Split

PARTS = ("images_background", "images_evaluation")
_MEMBER = re.compile(r"(images_\w+)/[^/]+/character\d+/\d+_\d+\.png")


def vinyals_split() -> dict[Split, list[str]]:
    """Class names of train, val and test as Vinyals et al. 2016 split them, from the files that torchmeta ships.

    One alphabet, Gurmukhi, has characters in train and in test.
    """
    return {
        split: [
            f"images_{part}/{alphabet}/{character}"
            for part, alphabets in nested.items()
            for alphabet, characters in alphabets.items()
            for character in characters
        ]
        for split, nested in split_lists("omniglot").items()
    }


def from_zips(entry: DataSet, files: Files, size: int) -> Originals:
    """The two official zips. They are checked by content: the same drawings are in circulation in other containers."""
    found = {part: zip_members(files[f"{part}.zip"], f"omniglot {part}") for part in PARTS}

    def read(part: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
        return read_zip(files[f"{part}.zip"], f"omniglot {part}", names)

    return _from_pngs(entry, found, read, size, {part: files[f"{part}.zip"] for part in PARTS})


def from_folders(entry: DataSet, files: Files, size: int) -> Originals:
    """The zips' contents, unpacked."""
    folders = {part: files[f"{part}/"] for part in PARTS}
    found = {
        part: [path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.png")]
        for part, folder in folders.items()
    }
    return _from_pngs(entry, found, lambda part, names: read_files(folders[part].parent, names), size, folders)


def _from_pngs(
    entry: DataSet,
    found: Mapping[str, list[str]],
    read: Callable[[str, list[str]], Iterator[tuple[str, bytes]]],
    size: int,
    paths: Mapping[str, Path],
) -> Originals:
    """Drawings `images_background/<alphabet>/<character>/<number>.png`, in the order of their names."""
    matches = {part: [m.group() for n in names if (m := _MEMBER.fullmatch(n))] for part, names in found.items()}
    groups = {
        part: grouped([n for n in names if n.startswith(f"{part}/")], lambda n: n.rpartition("/")[0])
        for part, names in matches.items()
    }

    def items() -> Iterator[Tensor]:
        for part in PARTS:  # "background" sorts before "evaluation", so classes come in order
            names = [name for members in groups[part].values() for name in members]
            for name, data in read(part, names):
                yield _drawing(data, f"{paths[part]}: {name}", size)

    counts = {name: len(members) for part in PARTS for name, members in groups[part].items()}
    return originals_of(
        entry, counts, vinyals_split(), (1, size, size), items, {"originals": ", ".join(map(str, paths.values()))}
    )


def _drawing(data: bytes, where: str, size: int) -> Tensor:
    """One drawing, ink 255: uint8 [1, 1, size, size]."""
    return 255 - decoded(data, where, channels=1, size=size)[None]


def from_hdf5(entry: DataSet, files: Files, size: int) -> Originals:
    """torchmeta's data.hdf5. It has lost the drawings' names, in an order of its own: they are put in order of content."""
    path = files["data.hdf5"]
    with opened(path, entry.name) as file:
        counts = {
            f"{part}/{alphabet}/{character}": len(drawings)
            for part in file
            for alphabet, characters in file[part].items()
            for character, drawings in characters.items()
        }

    def items() -> Iterator[Tensor]:
        with opened(path, entry.name) as file:
            for name in sorted(counts):
                drawings = sorted(array_of(entry, file[name]), key=lambda drawing: drawing.tobytes())
                inked = resized_array(
                    255 - np.stack(drawings), size
                )  # resampled as the official files are, then inverted
                yield 255 - inked

    return originals_of(entry, counts, vinyals_split(), (1, size, size), items, {"originals": str(path)})


READERS = {"archive": from_zips, "extracted": from_folders, "hdf5": from_hdf5}
