"""Small archives in the exact format of each named set, and the catalogue's entries to match them."""

import dataclasses
import importlib.util
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources.catalogue import CATALOGUE
from metarun.tasks.sources.named import named_set
from metarun.tasks.sources.torchmeta_compat import split_lists
from metarun.tasks.types import SPLITS

PER_CLASS = 3
MINI = {"train": 8, "val": 6, "test": 7}
TIERED = {"train": (5, 3, 4, 3, 6, 3), "val": (3, 3, 3, 4, 3), "test": (4, 3, 3, 3, 3)}


def noise(*key: int | str, size: tuple[int, ...]) -> np.ndarray:
    """Bytes that are a function of the key."""
    seed = np.frombuffer(repr(key).encode().ljust(32), dtype=np.uint32)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    """An image file."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def add_to_tar(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def python2_pickle(content: object) -> bytes:
    """A pickle as NumPy 1 wrote it, protocol 2."""
    return pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core")


def omniglot(folder: Path) -> None:
    lists = split_lists("omniglot")
    for part in ("background", "evaluation"):
        characters = sorted(
            {(alphabet, c) for split in SPLITS for alphabet, cs in lists[split].get(part, {}).items() for c in cs}
        )
        drawings = [encoded(noise(part, k, size=(105, 105)), mode="1") for k in range(PER_CLASS)]
        with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
            for number, (alphabet, character) in enumerate(characters):
                for k in reversed(range(PER_CLASS)):  # members out of order
                    name = f"images_{part}/{alphabet}/{character}/{number:04d}_{k + 1:02d}.png"
                    archive.writestr(name, drawings[(number + k) % PER_CLASS])


def mini_caches() -> dict[str, bytes]:
    """The three pickles of mini-ImageNet."""
    caches, first = {}, 0
    for split, number in MINI.items():
        names = [f"n{first + c:08d}" for c in range(number)]
        first += number
        rows = {name: list(range(c, number * PER_CLASS, number)) for c, name in enumerate(names)}  # interleaved
        content = {"image_data": noise(split, size=(number * PER_CLASS, 84, 84, 3)), "class_dict": rows}
        caches[f"mini-imagenet-cache-{split}.pkl"] = python2_pickle(content)
    return caches


def miniimagenet(folder: Path) -> None:
    with tarfile.open(folder / "mini-imagenet.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, data in mini_caches().items():
            add_to_tar(archive, name, data)


def tiered_pickles() -> dict[str, bytes]:
    """The six pickles of tiered-ImageNet, with classes of unequal size."""
    files = {}
    for split, counts in TIERED.items():
        specific = np.repeat(np.arange(len(counts)), counts)
        images = [
            np.frombuffer(encoded(noise(split, i, size=(84, 84, 3))), np.uint8)[:, None] for i in range(len(specific))
        ]
        labels = {
            "label_specific": specific,
            "label_general": specific // 2,
            "label_specific_str": [f"{split} kind {i:02d}" for i in range(len(counts))],
            "label_general_str": [f"category {i}" for i in range(len(counts) // 2 + 1)],
        }
        files[f"{split}_images_png.pkl"] = python2_pickle(images)
        files[f"{split}_labels.pkl"] = python2_pickle(labels)
    return files


def tieredimagenet(folder: Path) -> None:
    with tarfile.open(folder / "tiered-imagenet.tar", "w") as archive:
        for name, data in tiered_pickles().items():
            add_to_tar(archive, f"tiered-imagenet/{name}", data)


def cifar100(folder: Path) -> None:
    pairs = [pair for pairs in split_lists("cifar100", "cifar-fs").values() for pair in pairs]
    fine, coarse = sorted(f for _, f in pairs), sorted({c for c, _ in pairs})
    coarse_of = {f: coarse.index(c) for c, f in pairs}

    def part(name: str, per_class: int) -> dict[bytes, object]:
        labels = np.tile(np.arange(100), per_class).tolist()
        pixels = noise(name, size=(len(labels), 3072))
        return {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [coarse_of[fine[i]] for i in labels]}

    meta = {"fine_label_names": fine, "coarse_label_names": coarse}
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in (("train", part("train", 2)), ("test", part("test", 1)), ("meta", meta)):
            add_to_tar(archive, f"cifar-100-python/{name}", pickle.dumps(content, protocol=2))


def cub(folder: Path) -> None:
    images = [encoded(noise("cub", k, size=(30 + 5 * k, 40, 3)), "JPEG") for k in range(PER_CLASS)]
    grey = encoded(noise("grey", size=(40, 30)), "JPEG")  # a few of the real ones are
    with tarfile.open(folder / "CUB_200_2011.tgz", "w:gz", compresslevel=1) as archive:
        add_to_tar(archive, "attributes.txt", b"x")
        add_to_tar(archive, "CUB_200_2011/images.txt", b"x")
        for names in split_lists("cub").values():
            for i, name in enumerate(names):
                for k in reversed(range(PER_CLASS)):
                    data = grey if i == 0 and k == 1 else images[(i + k) % PER_CLASS]
                    add_to_tar(archive, f"CUB_200_2011/images/{name}/{name[4:]}_{k:04d}_12.jpg", data)


def _multi_mnist(folder: Path, name: str, side: int) -> None:
    stem = f"{name[:6]}_mnist_seed_123_image_size_{side}_{side}"
    images = [encoded(noise(name, k, size=(side, side))) for k in range(PER_CLASS)]
    with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
        for split, labels in split_lists(name).items():
            for i, label in enumerate(labels):
                for k in reversed(range(PER_CLASS)):
                    archive.writestr(f"{stem}/{split}/{label}/{k}_{label}.png", images[(i + k) % PER_CLASS])


def doublemnist(folder: Path) -> None:
    _multi_mnist(folder, "doublemnist", 64)


def triplemnist(folder: Path) -> None:
    _multi_mnist(folder, "triplemnist", 84)


def features(folder: Path, name: str) -> None:
    """What torchmeta makes of OpenML's tables."""
    import h5py

    entry = CATALOGUE[name]
    for split, labels in split_lists(entry.folder).items():
        with h5py.File(folder / f"{split}_data.hdf5", "w") as file:
            for label in sorted(labels):
                values = noise(name, label, size=(PER_CLASS, *entry.shape)).astype(np.float64) / 16
                file.create_dataset(f"datasets/{label}", data=values)
        (folder / f"{split}_labels.json").write_text(json.dumps(sorted(labels)))


MAKERS: dict[str, Callable[[Path], None]] = {
    "omniglot": omniglot,
    "miniimagenet": miniimagenet,
    "tieredimagenet": tieredimagenet,
    "cifar_fs": cifar100,
    "fc100": cifar100,
    "cub": cub,
    "doublemnist": doublemnist,
    "triplemnist": triplemnist,
    "letter": lambda folder: features(folder, "letter"),
    "plants_margin": lambda folder: features(folder, "plants_margin"),
    "plants_shape": lambda folder: features(folder, "plants_shape"),
    "plants_texture": lambda folder: features(folder, "plants_texture"),
}


def shrink_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect of each set what the small archives hold; skip the test where the splits are not to be had."""
    if importlib.util.find_spec("torchmeta") is None:
        pytest.skip("torchmeta, which ships the splits, is not installed")
    for name, entry in list(CATALOGUE.items()):
        changes: dict[str, object] = {"per_class": PER_CLASS}
        if name == "miniimagenet":
            changes["classes"] = tuple(MINI.values())
        if name == "tieredimagenet":
            changes = {"classes": tuple(map(len, TIERED.values())), "num_items": sum(map(sum, TIERED.values()))}
        changes["archives"] = tuple(dataclasses.replace(archive, num_bytes=None) for archive in entry.archives)
        small = dataclasses.replace(entry, **changes)
        if name != "tieredimagenet":
            small = dataclasses.replace(small, num_items=PER_CLASS * sum(small.classes))
        monkeypatch.setitem(CATALOGUE, name, small)


def make(name: str, root: Path) -> Path:
    """The small archive of a set in torchmeta's folder below `root`, which is given back."""
    folder = root / CATALOGUE[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[name](folder)
    return folder


def store_of(name: str, root: Path, cache: Path, size: int | None = None) -> ClassStore:
    """What a run would train on."""
    entry = CATALOGUE[name]
    size = (size or entry.shape[-1]) if entry.has_images else None
    return named_set(name, root, cache, size)


def unpack(archive: Path, folder: Path) -> None:
    """The archive's files in place of the archive."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    archive.unlink()
