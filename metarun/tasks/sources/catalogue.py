"""The named data sets as facts: what they hold, which files they come from, where those may lie. Imports nothing heavy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An official file.

    Attributes:
        name: as its makers call it.
        md5: of the official bytes, or None where its makers publish none.
        address: where it can be downloaded from.
        num_bytes: of the official file, or None where that is not known.
    """

    name: str
    md5: str | None
    address: str
    num_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which the originals may lie: all of `files` in one folder; a name that ends in "/" is a folder.

    Attributes:
        kind: archive, extracted, pickles, hdf5 or images.
        files: their names.
        words: the same in short, where there are many.
    """

    kind: str
    files: tuple[str, ...]
    words: str = ""

    def __str__(self) -> str:
        return self.words or " and ".join(self.files)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A named set.

    Attributes:
        name: as in `dataset=NAME`.
        title: what it is, in a few words.
        folder: below the data folder, where torchmeta keeps its files; the data folder itself will do too.
        classes: of train, val and test.
        num_items: in all.
        per_class: of each class, or None where classes differ.
        shape: channels, height and width as packed by default, or (features,).
        licence: as its makers word it.
        archives: what `metarun data prepare` downloads.
        layouts: what is accepted, the first that is complete being used.
    """

    name: str
    title: str
    folder: str
    classes: tuple[int, int, int]
    num_items: int
    per_class: int | None
    shape: tuple[int, ...]
    licence: str
    archives: tuple[Archive, ...]
    layouts: tuple[Layout, ...]

    @property
    def num_bytes(self) -> int:
        """Of the packed file at the default size, without its header."""
        size = self.num_items * (1 if len(self.shape) == 3 else 4)
        for side in self.shape:
            size *= side
        return size

    @property
    def largest_file(self) -> int:
        """Bytes that a file with many of its items may have: those of all, packed, and some for labels."""
        return self.num_bytes + 2**26

    @property
    def has_images(self) -> bool:
        """Else vectors."""
        return len(self.shape) == 3


def is_inverted(store: Mapping[str, Any]) -> bool:
    """Whether a set's images are drawings, black on white in a file, whose ink is white here.

    Args:
        store: its resolved configuration, `dataset.source.store`.
    """
    return store.get("name") == "omniglot" or str(store.get("_target_")).endswith(".glyphs.glyphs")


def folders(entry: DataSet, root: Path) -> tuple[Path, Path]:
    """Where the originals are looked for: `root`, and torchmeta's folder in it."""
    return (root, root / entry.folder)


def complete(entry: DataSet, root: Path) -> Iterator[tuple[Layout, dict[str, Path]]]:
    """Every layout that lies complete in one folder, with the paths of its files, in order of preference."""
    for layout in entry.layouts:
        for folder in folders(entry, root):
            paths = {name: folder / name for name in layout.files}
            if all(is_there(path, name) for name, path in paths.items()):
                yield layout, paths


def is_there(path: Path, name: str) -> bool:
    """Whether the file, or folder, `name` exists at `path`."""
    return path.is_dir() if name.endswith("/") else path.is_file()


def missing_message(entry: DataSet, root: Path) -> str:
    """Which files are expected where, in one line."""
    first, second = folders(entry, root)
    choices = "; or ".join(map(str, entry.layouts))
    parts = []
    for layout in entry.layouts:
        for folder in (first, second):
            there = [name for name in layout.files if is_there(folder / name, name)]
            if there and len(there) < len(layout.files):
                absent = [name for name in layout.files if name not in there]
                parts.append(f" In {folder} {' and '.join(there)} is there, and {' and '.join(absent)} is missing.")
    return (
        f"{entry.name} needs its original files, not found in {first} or {second}: {choices}.{''.join(parts[:1])} "
        f"Run: metarun data prepare {entry.name}, or set data.root or METARUN_DATA to the folder that has the files."
    )


def _drive(file_id: str) -> str:
    return f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t"


_SPLITS = ("train", "val", "test")
_HDF5 = Layout(
    kind="hdf5",
    files=tuple(name for split in _SPLITS for name in (f"{split}_data.hdf5", f"{split}_labels.json")),
    words="torchmeta's {train,val,test}_data.hdf5 and _labels.json",
)
_CIFAR = Archive(
    name="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    address="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    num_bytes=169_001_437,
)
_CIFAR_LAYOUTS = (
    Layout(kind="archive", files=(_CIFAR.name,)),
    Layout(kind="extracted", files=("cifar-100-python/",)),
    Layout(kind="hdf5", files=("data.hdf5",)),
)
_OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python"
_NO_LICENCE = "none stated"


def _multi_mnist(word: str, side: int, md5: str, file_id: str, classes: tuple[int, int, int]) -> DataSet:
    stem = f"{word}_mnist_seed_123_image_size_{side}_{side}"
    return DataSet(
        name=f"{word}mnist",
        title=f"{word.capitalize()} MNIST: {'two' if word == 'double' else 'three'} digits side by side",
        folder=f"{word}mnist",
        classes=classes,
        num_items=1000 * sum(classes),
        per_class=1000,
        shape=(1, side, side),
        licence="CC BY-SA 3.0",
        archives=(Archive(name=f"{stem}.zip", md5=md5, address=_drive(file_id)),),
        layouts=(
            Layout(kind="archive", files=(f"{stem}.zip",)),
            Layout(kind="extracted", files=(f"{stem}/",)),
            _HDF5,
        ),
    )


def _plants(feature: str, num_items: int) -> DataSet:
    return DataSet(
        name=f"plants_{feature}",
        title=f"One hundred plants: {feature} features of leaves",
        folder=f"one_hundred_plants_{feature}",
        classes=(70, 15, 15),
        num_items=num_items,
        per_class=16 if num_items == 1600 else None,
        shape=(64,),
        licence="CC BY 4.0",
        archives=(),
        layouts=(_HDF5,),
    )


_SETS = (
    DataSet(
        name="omniglot",
        title="Omniglot: handwritten characters of 50 alphabets, Vinyals split",
        folder="omniglot",
        classes=(1028, 172, 423),
        num_items=32_460,
        per_class=20,
        shape=(1, 28, 28),
        licence="MIT",
        archives=(
            Archive(
                name="images_background.zip",
                md5="68d2efa1b9178cc56df9314c21c6e718",
                address=f"{_OMNIGLOT}/images_background.zip",
            ),
            Archive(
                name="images_evaluation.zip",
                md5="6b91aef0f799c5bb55b94e3f2daec811",
                address=f"{_OMNIGLOT}/images_evaluation.zip",
            ),
        ),
        layouts=(
            Layout(kind="archive", files=("images_background.zip", "images_evaluation.zip")),
            Layout(kind="extracted", files=("images_background/", "images_evaluation/")),
            Layout(kind="hdf5", files=("data.hdf5",)),
        ),
    ),
    DataSet(
        name="miniimagenet",
        title="mini-ImageNet, split of Ravi and Larochelle",
        folder="miniimagenet",
        classes=(64, 16, 20),
        num_items=60_000,
        per_class=600,
        shape=(3, 84, 84),
        licence="research only",
        archives=(
            Archive(
                name="mini-imagenet.tar.gz",
                md5="b38f1eb4251fb9459ecc8e7febf9b2eb",
                address=_drive("16V_ZlkW4SsnNDtnGmaBRq2OoPmUOc5mY"),
            ),
        ),
        layouts=(
            Layout(kind="archive", files=("mini-imagenet.tar.gz",)),
            Layout(
                kind="pickles",
                files=tuple(f"mini-imagenet-cache-{split}.pkl" for split in _SPLITS),
                words="mini-imagenet-cache-{train,val,test}.pkl",
            ),
            _HDF5,
            Layout(
                kind="images",
                files=("images/", *(f"{split}.csv" for split in _SPLITS)),
                words="images/ and {train,val,test}.csv",
            ),
        ),
    ),
    DataSet(
        name="tieredimagenet",
        title="tiered-ImageNet: 608 classes split by category (Ren et al. 2018)",
        folder="tieredimagenet",
        classes=(351, 97, 160),
        num_items=779_165,
        per_class=None,
        shape=(3, 84, 84),
        licence="research only",
        archives=(
            Archive(
                name="tiered-imagenet.tar",
                md5="e07e811b9f29362d159a9edd0d838c62",
                address=_drive("1g1aIDy2Ar_MViF2gDXFYDBTR-HYecV07"),
            ),
        ),
        layouts=(
            Layout(kind="archive", files=("tiered-imagenet.tar",)),
            Layout(
                kind="pickles",
                files=tuple(f"{split}_{what}.pkl" for split in _SPLITS for what in ("images_png", "labels")),
                words="{train,val,test}_{images_png,labels}.pkl",
            ),
            Layout(
                kind="pickles",
                files=tuple(
                    f"tiered-imagenet/{split}_{what}.pkl" for split in _SPLITS for what in ("images_png", "labels")
                ),
                words="the same in tiered-imagenet/",
            ),
            _HDF5,
        ),
    ),
    DataSet(
        name="cifar_fs",
        title="CIFAR-FS: CIFAR-100 split by class (Bertinetto et al. 2019)",
        folder="cifar100",
        classes=(64, 16, 20),
        num_items=60_000,
        per_class=600,
        shape=(3, 32, 32),
        licence=_NO_LICENCE,
        archives=(_CIFAR,),
        layouts=_CIFAR_LAYOUTS,
    ),
    DataSet(
        name="fc100",
        title="FC100: CIFAR-100 split by superclass (Oreshkin et al. 2018)",
        folder="cifar100",
        classes=(60, 20, 20),
        num_items=60_000,
        per_class=600,
        shape=(3, 32, 32),
        licence=_NO_LICENCE,
        archives=(_CIFAR,),
        layouts=_CIFAR_LAYOUTS,
    ),
    DataSet(
        name="cub",
        title="Caltech-UCSD Birds 200-2011, 200 species",
        folder="cub",
        classes=(100, 50, 50),
        num_items=11_788,
        per_class=None,
        shape=(3, 84, 84),
        licence="research only",
        archives=(
            Archive(
                name="CUB_200_2011.tgz",
                md5="97eceeb196236b17998738112f37df78",
                address=_drive("1hbzc_P1FuxMkcabkgn9ZKinBwW683j45"),
                num_bytes=1_150_585_339,
            ),
        ),
        layouts=(
            Layout(kind="archive", files=("CUB_200_2011.tgz",)),
            Layout(kind="extracted", files=("CUB_200_2011/images/",)),
            _HDF5,
        ),
    ),
    _multi_mnist("double", 64, "6d8b185c0cde155eb39d0e3615ab4f23", "1MqQCdLt9TVE3joAMw4FwJp_B8F-htrAo", (64, 16, 20)),
    _multi_mnist(
        "triple", 84, "9508b047f9fbb834c02bc13ef44245da", "1xqyW289seXYaDSqD2jaBPMKVAAjPP9ee", (640, 160, 200)
    ),
    DataSet(
        name="letter",
        title="Letter recognition: 16 features of printed capitals",
        folder="letter",
        classes=(15, 5, 6),
        num_items=20_000,
        per_class=None,
        shape=(16,),
        licence="CC BY 4.0",
        archives=(),
        layouts=(_HDF5,),
    ),
    _plants("margin", 1600),
    _plants("shape", 1600),
    _plants("texture", 1599),
)

CATALOGUE: dict[str, DataSet] = {entry.name: entry for entry in _SETS}
VERSIONS: dict[str, str] = dict.fromkeys(CATALOGUE, "1")
"""Of the preparation: part of the packed file's name, so that a change of the items never meets an old file."""


def packed_path(cache: Path, name: str, size: int | None) -> Path:
    """The packed file of a named set: one for each image size."""
    sized = f"-{size}" if size is not None else ""
    return cache / f"{name}{sized}-v{VERSIONS[name]}.classes"
