"""What is on this machine of what metarun needs and can use, asked of it one by one."""

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metarun.configuration.config_folder import config_folder
from metarun.errors import ConfigurationError
from metarun.tasks.sources.catalogue import CATALOGUE, complete, packed_path

NEEDED = (
    "torch", "torchvision", "hydra-core", "omegaconf", "wandb", "rich", "matplotlib", "numpy", "pillow", "h5py",
    "ordered-set", "requests", "tqdm",
)  # fmt: skip
"""Packages without which the command does not work."""
EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "torchmeta": (("torchmeta",), "the classes of train, val and test of the named data sets"),
    "optuna": (("optuna",), "searches: hydra/sweeper=tpe and random"),
    "openml": (("scikit-learn", "pandas"), "getting letter and the plants from OpenML"),
    "tensorboard": (("tensorboard",), "tracker=tensorboard"),
    "mlflow": (("mlflow-skinny", "sqlalchemy", "alembic"), "tracker=mlflow"),
    "pandas": (("pandas",), "metarun.results as a data frame"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "metarun export --to model.onnx"),
    "gymnasium": (("gymnasium",), "dataset=gymnasium: environments of your own"),
    "mujoco": (("gymnasium", "mujoco"), "the half-cheetah and the ant"),
}
"""Extra -> its packages, and what they are for."""
_MODULES = {
    "hydra-core": "hydra",
    "pillow": "PIL",
    "ordered-set": "ordered_set",
    "scikit-learn": "sklearn",
    "mlflow-skinny": "mlflow",
}
_PROBE_S = 20.0  # for another program to say its version


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder that is written to.

    Attributes:
        path: of it; it need not be there yet.
        problem: why it cannot be written, or "".
        free_bytes: on its disk.
    """

    path: Path
    problem: str
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was found; None or "" where there is nothing.

    Attributes:
        python: its version.
        packages: version of each of the needed packages and the extras'.
        torch_problem: what importing it raised.
        cuda: the version that PyTorch is built for. gpus: names of those that it sees. driver: NVIDIA's, by nvidia-smi.
        compiler: the first line of what the C++ compiler says of itself. has_headers: whether Python's are installed.
        configuration_problem: why the configuration cannot be composed.
        outputs, cache: where runs and packed data sets go; None where the configuration is broken.
        packed, originals: named data sets that are here.
        wandb_mode, wandb_has_key, wandb_problem: the state of W&B, or what asking for it raised.
        slurm: what sbatch says of itself.
    """

    python: tuple[int, int, int]
    packages: Mapping[str, str | None]
    torch_problem: str
    cuda: str | None
    gpus: Sequence[str]
    driver: str | None
    compiler: str | None
    has_headers: bool
    configuration_problem: str
    outputs: Place | None
    cache: Place | None
    packed: Sequence[str]
    originals: Sequence[str]
    wandb_mode: str
    wandb_has_key: bool
    wandb_problem: str
    slurm: str | None


def look() -> Machine:
    """Ask the machine; nothing is changed on it but for a file that comes and goes in the folders that are written to."""
    names = {*NEEDED, *(package for packages, _ in EXTRAS.values() for package in packages)}
    problem, cuda, gpus = _ask_torch()
    configuration_problem, values = _ask_configuration()
    wandb_mode, wandb_has_key, wandb_problem = _ask_wandb()
    root, cache = (Path(values[key]).expanduser() if values else None for key in ("data.root", "data.cache"))
    packed = [name for name, entry in CATALOGUE.items() if cache and packed_path(
        cache, name, entry.shape[-1] if entry.has_images else None).is_file()]  # fmt: skip
    originals = [name for name, e in CATALOGUE.items() if root and name not in packed and next(complete(e, root), None)]
    driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return Machine(
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        packages={name: _version(name) for name in sorted(names)},
        torch_problem=problem,
        cuda=cuda,
        gpus=gpus,
        driver=driver,
        compiler=_said(os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++"), "--version"),
        has_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        configuration_problem=configuration_problem,
        outputs=place_of(Path(values["run.root"]).expanduser()) if values else None,
        cache=place_of(cache) if cache else None,
        packed=packed,
        originals=originals,
        wandb_mode=wandb_mode,
        wandb_has_key=wandb_has_key,
        wandb_problem=wandb_problem,
        slurm=_said("sbatch", "--version"),
    )


def place_of(path: Path) -> Place:
    """Whether a folder can be written, tried in it or in the nearest folder above it that is there."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    problem = ""
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        problem = f"{there}: {error.strerror or error}"
    with suppress(OSError):
        return Place(path=path, problem=problem, free_bytes=shutil.disk_usage(there).free)
    return Place(path=path, problem=problem, free_bytes=0)


def _version(package: str) -> str | None:
    """The version of a package that can be imported."""
    module = _MODULES.get(package, package)
    try:
        if importlib.util.find_spec(module) is None:
            return None
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"  # by another name, as mlflow for mlflow-skinny
    except (ImportError, ValueError):
        return None


def _ask_torch() -> tuple[str, str | None, list[str]]:
    """What importing PyTorch raised, the CUDA that it is built for, and the GPUs that it sees."""
    try:
        torch = importlib.import_module("torch")
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except Exception as error:  # a broken library says so in whatever way it likes
        return _one_line(error), None, []
    return "", torch.version.cuda, gpus


def _ask_configuration() -> tuple[str, dict[str, str]]:
    """Why the default configuration does not compose, or the values of its keys."""
    try:
        from metarun.configuration.chosen_keys import chosen_keys

        return "", {key.name: key.value for key in chosen_keys([], config_folder()).keys}
    except (ConfigurationError, ImportError) as error:
        return _one_line(error), {}


def _ask_wandb() -> tuple[str, bool, str]:
    """The mode, whether there is a key, and what asking raised."""
    try:
        from metarun.tracking.wandb_account import wandb_account

        account = wandb_account()
    except Exception as error:  # a tracker of whatever kind stops nothing
        return "", False, _one_line(error)
    return account.mode, account.has_key, ""


def _said(*command: str) -> str | None:
    """The first line that a program prints; None where there is none or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.strip().splitlines()), None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
