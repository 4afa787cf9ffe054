"""metarun.tasks.sources.named: every named set from every layout, with torchmeta's own reading as the oracle."""

import hashlib
import importlib
import os
import re
import shutil
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources import catalogue, torchmeta_compat
from metarun.tasks.sources.catalogue import CATALOGUE
from metarun.tasks.sources.images import resized
from metarun.tasks.sources.named import find_originals, named_set
from metarun.tasks.types import SPLITS

from . import small_archives
from .small_archives import MINI, PER_CLASS, make, store_of, unpack

IMAGES = [name for name, entry in CATALOGUE.items() if entry.has_images]
VECTORS = [name for name, entry in CATALOGUE.items() if not entry.has_images]


def many_files(name: str, *which: str) -> object:
    """The name, marked slow where thousands of small files are written."""
    return pytest.param(name, marks=pytest.mark.slow) if name in which else name


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_archives.shrink_catalogue(monkeypatch)


def images_of(store: ClassStore, name: str) -> torch.Tensor:
    position = store.classes.index(name)
    start = int(store.starts[position])
    return store.items[start : start + int(store.counts[position])]


# ---- torchmeta as the oracle -----------------------------------------------------------------------------------------

TORCHMETA = {  # the class, the attribute that holds the archive's MD5, the archive
    "miniimagenet": ("miniimagenet.MiniImagenetClassDataset", "gz_md5", "mini-imagenet.tar.gz"),
    "tieredimagenet": ("tieredimagenet.TieredImagenetClassDataset", "tar_md5", "tiered-imagenet.tar"),
    "cifar_fs": ("cifar100.cifar_fs.CIFARFSClassDataset", "gz_md5", "cifar-100-python.tar.gz"),
    "fc100": ("cifar100.fc100.FC100ClassDataset", "gz_md5", "cifar-100-python.tar.gz"),
    "cub": ("cub.CUBClassDataset", "tgz_md5", "CUB_200_2011.tgz"),
    "doublemnist": ("doublemnist.DoubleMNISTClassDataset", "zip_md5", None),
    "triplemnist": ("triplemnist.TripleMNISTClassDataset", "zip_md5", None),
    "omniglot": ("omniglot.OmniglotClassDataset", None, None),
}


def torchmeta_class(name: str) -> type:
    torchmeta_compat.patched()
    module, _, cls = TORCHMETA[name][0].rpartition(".")
    return getattr(importlib.import_module(f"torchmeta.datasets.{module}"), cls)


def name_of(name: str, split: str, target: object) -> str:
    """Our name of a class, from torchmeta's target."""
    if name in ("cifar_fs", "fc100"):
        return "/".join(target)
    if name == "tieredimagenet":
        return f"{split}/{target[1]}"
    return str(target)


@pytest.mark.parametrize("name", [many_files(name, "omniglot", "triplemnist") for name in IMAGES])
def test_the_store_is_what_torchmeta_reads_from_the_same_archive(name, tmp_path, monkeypatch):
    """Splits, classes and every pixel; then the HDF5 that it leaves gives the same store."""
    folder = make(name, tmp_path / "root")
    store = store_of(name, tmp_path / "root", tmp_path / "cache")
    size = CATALOGUE[name].shape[-1]
    cls = torchmeta_class(name)
    _, attribute, archive = TORCHMETA[name]
    if archive:
        monkeypatch.setattr(cls, attribute, hashlib.md5((folder / archive).read_bytes()).hexdigest())
    if name == "omniglot":
        for path in list(folder.glob("*.zip")):
            with zipfile.ZipFile(path) as zipped:
                zipped.extractall(folder)
    splits = {}
    for split in SPLITS:
        if name == "omniglot":
            theirs = cls(str(tmp_path / "root"), meta_split=split, use_vinyals_split=True, download=True)
        else:
            theirs = cls(str(tmp_path / "root"), meta_split=split, download=True)
        splits[split] = []
        for position in range(0, len(theirs), max(1, len(theirs) // 12)):
            examples = theirs[position]
            images, targets = zip(*(examples[i] for i in range(len(examples))), strict=True)
            label = name_of(name, split, targets[0][0])  # beside it stands an augmentation, None
            splits[split].append(label)
            ours = images_of(store, label)
            if name == "omniglot":  # torchmeta's are inverted before they are resampled, and in an order of its own
                inverted = [255 - resized(Image.fromarray(255 - np.asarray(i)), size) for i in images]
                assert sorted(p.numpy().tobytes() for p in ours) == sorted(p.numpy().tobytes() for p in inverted)
            else:
                mode = "L" if CATALOGUE[name].shape[0] == 1 else "RGB"
                assert torch.equal(ours, torch.stack([resized(i.convert(mode), size) for i in images]))
        theirs.close()
        assert set(splits[split]) <= set(store.names(split))
        assert len(theirs) == len(store.names(split))

    for path in [*folder.glob("*.zip"), *folder.glob("*.t*gz"), *folder.glob("*.tar")]:
        path.unlink()
    for path in [p for p in folder.iterdir() if p.is_dir() and p.name.startswith("images_")]:
        shutil.rmtree(path)
    again = store_of(name, tmp_path / "root", tmp_path / "cache-hdf5")
    assert "hdf5" in again.provenance["originals"] or not archive or not list(folder.glob(archive))
    assert again.classes == store.classes
    assert all(torch.equal(again.splits[split], store.splits[split]) for split in SPLITS)
    if name == "omniglot":
        order = [sorted(p.numpy().tobytes() for p in images_of(s, n)) for s in (store, again) for n in s.classes]
        assert order[: len(store.classes)] == order[len(store.classes) :]
    else:
        assert again.provenance["sha256"] == store.provenance["sha256"]


def test_the_catalogue_says_what_torchmeta_says():
    """Checksums, file names, folders and addresses."""
    for name, (_, attribute, _) in TORCHMETA.items():
        cls, entry = torchmeta_class(name), CATALOGUE[name]
        assert cls.folder == entry.folder
        if name == "omniglot":
            assert cls.zips_md5 == {a.name.removesuffix(".zip"): a.md5 for a in entry.archives}
            assert all(a.address == f"{cls.download_url_prefix}/{a.name}" for a in entry.archives)
            continue
        (archive,) = entry.archives
        assert archive.md5 == getattr(cls, attribute)
        if hasattr(cls, "gdrive_id"):
            assert f"id={cls.gdrive_id}&" in archive.address
        else:
            assert archive.address == cls.download_url
    for name, (module, cls) in torchmeta_compat._FEATURES.items():
        assert getattr(importlib.import_module(f"torchmeta.datasets.{module}"), cls).folder == CATALOGUE[name].folder


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_come_from_openml_by_torchmeta(name, tmp_path, monkeypatch):
    """OpenML's answer is made up; torchmeta converts it, and the store holds its numbers as float32."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    entry = CATALOGUE[name]
    labels = [label for names in torchmeta_compat.split_lists(entry.folder).values() for label in names]
    table = small_archives.noise(name, size=(PER_CLASS * len(labels), *entry.shape)).astype(float)
    targets = pandas.Series(labels * PER_CLASS)
    answer = types.SimpleNamespace(data=pandas.DataFrame(table), target=targets)
    asked = []
    fetched = types.SimpleNamespace(fetch_openml=lambda data_id: asked.append(data_id) or answer)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", fetched)
    torchmeta_compat.fetch_features(name, tmp_path)
    ids = {"letter": 6, "plants_margin": 1491, "plants_shape": 1492, "plants_texture": 1493}
    assert asked == [ids[name]]
    store = store_of(name, tmp_path, tmp_path / "cache")
    assert store.items.dtype == torch.float32 and store.items.shape == (len(table), *entry.shape)
    train = np.isin(targets, store.names("train"))
    low, high = (0, 1) if name == "letter" else (table[train].min(0), table[train].max(0))
    if name == "plants_shape":  # torchmeta scales this one to mean 0 and deviation 1
        low, high = table[train].mean(0), table[train].mean(0) + table[train].std(0)
    for label in store.classes[::7]:
        expected = (table[targets == label] - low) / (high - low)
        found = images_of(store, label)
        assert torch.allclose(found, torch.from_numpy(expected.astype(np.float32)), rtol=1e-6, atol=1e-6)


def test_without_torchmeta_the_command_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps torchmeta==1\.8\.0"):
        torchmeta_compat.split_lists("omniglot")


# ---- the other layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [many_files(name, "omniglot", "triplemnist") for name in IMAGES])
@pytest.mark.parametrize("below", [True, False], ids=["below torchmeta's folder", "in the data folder"])
def test_an_unpacked_archive_gives_the_same_store(name, below, tmp_path):
    if not below and name not in ("miniimagenet", "cub"):
        pytest.skip("the place is looked for in one function; two sets will do")
    folder = make(name, tmp_path / "root")
    packed = store_of(name, tmp_path / "root", tmp_path / "cache")
    place = folder if below else tmp_path / "root"
    for archive in [path for path in folder.iterdir() if path.is_file()]:
        unpack(archive, place)
    unpacked = store_of(name, tmp_path / "root", tmp_path / "cache-unpacked")
    assert unpacked.provenance["sha256"] == packed.provenance["sha256"]
    assert unpacked.provenance["split_sha256"] == packed.provenance["split_sha256"]
    assert unpacked.classes == packed.classes and torch.equal(unpacked.counts, packed.counts)


def write_images(root: Path) -> dict[str, np.ndarray]:
    """mini-ImageNet as a folder of images and three csv files; pixels by file name."""
    (root / "images").mkdir(parents=True)
    pixels, first = {}, 0
    for split, number in MINI.items():
        lines = ["filename,label"]
        for c in range(first, first + number):
            for k in range(PER_CLASS):
                name = f"n{c:08d}{k:08d}.png"
                pixels[name] = small_archives.noise(name, size=(84, 84, 3))
                (root / "images" / name).write_bytes(small_archives.encoded(pixels[name]))
                lines.append(f"{name},n{c:08d}")
        first += number
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return pixels


def test_mini_imagenet_from_images_and_csv_files(tmp_path):
    pixels = write_images(tmp_path)
    store = store_of("miniimagenet", tmp_path, tmp_path / "cache")
    assert [len(store.names(split)) for split in SPLITS] == list(MINI.values())
    expected = np.stack([pixels[name] for name in sorted(pixels)]).transpose(0, 3, 1, 2)
    assert torch.equal(store.items, torch.from_numpy(expected))
    (tmp_path / "images" / "n0000000300000001.png").unlink()
    with pytest.raises(ValueError, match=r"images lacks 1 of the 63 images of the csv files, first n0000000300000001"):
        store_of("miniimagenet", tmp_path, tmp_path / "cache-2")
    (tmp_path / "val.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"images/ and train\.csv and test\.csv is there, and val\.csv is missing"
    ):
        store_of("miniimagenet", tmp_path, tmp_path / "cache-2")


def test_the_tables_of_ravi_and_larochelle_are_the_split(tmp_path):
    """The official csv files: 64, 16 and 20 classes of 600 images, disjoint."""
    folder = Path(os.environ.get("METARUN_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    folder = folder / "splits" / "mini_imagenet_ravi"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set METARUN_DATA")
    seen: dict[str, str] = {}
    for split, number in zip(SPLITS, (64, 16, 20), strict=True):
        rows = [line.split(",") for line in (folder / f"{split}.csv").read_text().split()[1:]]
        labels = {label for _, label in rows}
        assert (len(labels), len(rows)) == (number, 600 * number)
        assert not labels & set(seen)
        seen |= dict.fromkeys(labels, split)


def test_another_size_is_another_file_of_the_same_classes(tmp_path):
    make("doublemnist", tmp_path)
    large, little = (store_of("doublemnist", tmp_path, tmp_path / "cache", size) for size in (None, 28))
    assert little.items.shape == (300, 1, 28, 28) and large.items.shape == (300, 1, 64, 64)
    assert little.provenance["split_sha256"] == large.provenance["split_sha256"]
    names = {path.name for path in (tmp_path / "cache").glob("*.classes")}
    assert names == {"doublemnist-64-v1.classes", "doublemnist-28-v1.classes"}
    name = large.classes[7]
    whole = Image.fromarray(images_of(large, name)[0, 0].numpy()).resize((28, 28), Image.Resampling.LANCZOS)
    assert torch.equal(images_of(little, name)[0, 0], torch.from_numpy(np.array(whole)))


def test_an_opened_store_needs_neither_originals_nor_torchmeta(tmp_path, monkeypatch):
    make("cub", tmp_path)
    first = store_of("cub", tmp_path, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cub")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert store_of("cub", tmp_path, tmp_path / "cache").provenance == first.provenance


def test_an_unknown_set_lists_those_there_are():
    with pytest.raises(
        ValueError, match=re.escape("no data set is called 'imagenet'; there are omniglot, miniimagenet")
    ):
        named_set("imagenet", ".", ".", 84)


def test_counts_of_the_catalogue_add_up():
    """With the real numbers, not the small ones."""
    module = importlib.util.module_from_spec(catalogue.__spec__)
    sys.modules["catalogue_as_it_is"] = module
    catalogue.__spec__.loader.exec_module(module)
    for name, entry in module.CATALOGUE.items():
        if entry.per_class:
            assert entry.num_items == entry.per_class * sum(entry.classes), name
    with pytest.raises(FileNotFoundError):
        find_originals(module.CATALOGUE["cub"], Path("/nowhere"), 84)
