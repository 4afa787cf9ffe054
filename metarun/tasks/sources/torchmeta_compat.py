"""torchmeta 1.8.0 on today's torch: the one module that imports it, and every patch that it needs.

torchmeta (2021) is not maintained. Its split lists are read as files, without importing it. The rest is imported only while
a data set is prepared, after these patches at run time:

0. torchvision beside a torch without CUDA: `operator torchvision::nms does not exist`. The two operators that its
   registrations name are declared; only `torchvision.ops` stays unusable.
1. torchvision's private `_get_confirm_token` and `_save_response_content`, which torchmeta imports and which are gone.
2. `SubsetTask overrides __getitem__ but not __getitems__`, refused by torch's `Subset` since 2.2.
3. `check_integrity`, which torchmeta uses and forgot to import.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from metarun.tasks.types import SPLITS, Split

_INSTALL = "Run: pip install --no-deps torchmeta==1.8.0"
_operators: list[torch.library.Library] = []  # an operator lives as long as the library that declared it


def split_lists(*folder: str) -> dict[Split, Any]:
    """The class lists of train, val and test, from the files that torchmeta ships; torchmeta is found, not imported.

    Args:
        folder: below torchmeta's assets, such as "cifar100", "fc100".
    Raises:
        ImportError: torchmeta is not installed.
    """
    assets = _package_folder() / "datasets" / "assets"
    return {split: json.loads(assets.joinpath(*folder, f"{split}.json").read_text()) for split in SPLITS}


def _package_folder() -> Path:
    spec = importlib.util.find_spec("torchmeta")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the split of this data set is read from the files of torchmeta, which is not installed. {_INSTALL}"
        )
    return Path(spec.submodule_search_locations[0])


def patched() -> ModuleType:
    """torchmeta, imported with its patches.

    Raises:
        ImportError: torchmeta is not installed, or another version of it that the patches do not fit.
    """
    if "torchmeta" in sys.modules:
        return sys.modules["torchmeta"]
    _package_folder()
    _import_torchvision()
    utils = importlib.import_module("torchvision.datasets.utils")
    for name in ("_get_confirm_token", "_save_response_content"):
        if not hasattr(utils, name):
            setattr(utils, name, _no_download)
    try:
        torchmeta = importlib.import_module("torchmeta")
        task = importlib.import_module("torchmeta.utils.data.task")
        helpers: Any = importlib.import_module("torchmeta.datasets.utils")
        helpers.check_integrity = utils.check_integrity
    except ImportError as error:
        raise ImportError(f"torchmeta cannot be imported on this torch: {error}. {_INSTALL}") from error
    task.SubsetTask.__getitems__ = lambda self, indices: [self[index] for index in indices]
    return torchmeta


def _no_download(*_: Any) -> None:
    raise RuntimeError("metarun downloads archives itself: metarun data prepare NAME")


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
        return
    except ImportError as error:
        raise ImportError(f"torchmeta needs torchvision: {error}. Run: pip install torchvision") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(library)
    importlib.import_module("torchvision")


_FEATURES = {
    "letter": ("letter", "LetterClassDataset"),
    "plants_margin": ("one_hundred_plants_margin", "PlantsMarginClassDataset"),
    "plants_shape": ("one_hundred_plants_shape", "PlantsShapeClassDataset"),
    "plants_texture": ("one_hundred_plants_texture", "PlantsTextureClassDataset"),
}


def fetch_features(name: str, root: Path) -> None:
    """Download letter or plants from OpenML and convert it to HDF5 in `root`, all by torchmeta.

    Raises:
        ImportError: torchmeta, scikit-learn or pandas is not installed.
        OSError: there is no network, or OpenML does not answer.
    """
    for package in ("sklearn", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{name} comes from OpenML by scikit-learn. Run: pip install scikit-learn pandas")
    patched()
    module, cls = _FEATURES[name]
    dataset = getattr(importlib.import_module(f"torchmeta.datasets.{module}"), cls)
    dataset(str(root), meta_train=True, download=True)
