"""A named data set: its packed file if there is one, else whichever of its original files are here, packed now."""

import logging
from collections.abc import Mapping
from pathlib import Path

from metarun import checks
from metarun.tasks.class_store import ClassStore
from metarun.tasks.packed_file import Originals, Progress, open_or_pack
from metarun.tasks.sources import cifar100, class_folders, hdf5, imagenet, omniglot
from metarun.tasks.sources.archives import is_web_page, kilobytes
from metarun.tasks.sources.catalogue import CATALOGUE, DataSet, complete, missing_message, packed_path
from metarun.tasks.sources.listing import Reader, check_contents

logger = logging.getLogger(__name__)

_READERS: dict[str, Mapping[str, Reader]] = {
    "omniglot": omniglot.READERS,
    "miniimagenet": hdf5.READERS | imagenet.MINI_READERS,
    "tieredimagenet": hdf5.READERS | imagenet.TIERED_READERS,
    "cifar_fs": cifar100.READERS,
    "fc100": cifar100.READERS,
    "cub": hdf5.READERS | class_folders.CUB_READERS,
    "doublemnist": hdf5.READERS | class_folders.MNIST_READERS,
    "triplemnist": hdf5.READERS | class_folders.MNIST_READERS,
    "letter": hdf5.READERS,
    "plants_margin": hdf5.READERS,
    "plants_shape": hdf5.READERS,
    "plants_texture": hdf5.READERS,
}


def named_set(
    name: str, root: str | Path, cache: str | Path, image_size: int | None = None, progress: Progress | None = None
) -> ClassStore:
    """The store of a named set. The first call packs the originals; later calls map the packed file and need nothing else.

    Nothing is downloaded: that is `metarun data prepare NAME`.

    Args:
        name: one of the catalogue.
        root: folder of the originals, or whose folder of torchmeta's name has them; only read.
        cache: folder for the packed file.
        image_size: pixels per side; None for sets of vectors.
        progress: called with (items done, items in all) while packing.
    Raises:
        FileNotFoundError: the originals are not there.
        ValueError: they are damaged or hold something else.
        ImportError: torchmeta, which ships the splits, is not installed.
    """
    entry = entry_of(name)
    if entry.has_images:
        checks.integer("image_size", image_size, minimum=1)
    path = packed_path(Path(cache).expanduser(), name, image_size if entry.has_images else None)
    return open_or_pack(path, lambda: find_originals(entry, Path(root).expanduser(), image_size or 0), progress)


def entry_of(name: str) -> DataSet:
    """The catalogue's entry.

    Raises:
        ValueError: there is none.
    """
    if name not in CATALOGUE:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def find_originals(entry: DataSet, root: Path, size: int) -> Originals:
    """The first complete layout, listed and counted.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or holds another number of classes or examples.
    """
    for layout, files in complete(entry, root):
        for name, path in files.items():
            if not name.endswith(("/", ".csv", ".json")) and is_web_page(path):
                raise ValueError(
                    f"{path} is an HTML page of {kilobytes(path)}: the download was refused. "
                    f"Delete it and run: metarun data prepare {entry.name}"
                )
        listed = _READERS[entry.name][layout.kind](entry, files, size)
        check_contents(entry, listed)
        return listed
    raise FileNotFoundError(missing_message(entry, root))
