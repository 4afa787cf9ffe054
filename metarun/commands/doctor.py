"""`metarun doctor`: what there is on this machine of what metarun needs and can use, one line each."""

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
from typing import Literal

from rich.console import Console
from rich.text import Text

from metarun import __version__
from metarun.configuration.config_folder import config_folder
from metarun.console.rows import columns, heading, paragraph
from metarun.console.terminal import terminal
from metarun.errors import ConfigurationError
from metarun.tasks.sources.catalogue import CATALOGUE, complete, packed_path

PYTHONS = ((3, 10), (3, 14))
"""The first that will do, and the first that will not."""
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
_ENOUGH_BYTES = 2**30
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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: `state` is "broken" only where no run can do without."""

    name: str
    state: Literal["ok", "missing", "broken"]
    words: str


def examine(console: Console | None = None) -> None:
    """Look, and print what was found.

    Raises:
        OSError: something that every run needs is missing or broken.
    """
    console = console or terminal()
    findings = diagnosis(look())
    show(console, findings)
    broken = [finding.name for found in findings.values() for finding in found if finding.state == "broken"]
    if broken:
        raise OSError(f"needed and broken: {', '.join(broken)}. What to do stands beside each.")


def show(console: Console, findings: Mapping[str, Sequence[Finding]]) -> None:
    """The findings under their headings."""
    marks = {"ok": ("ok", "green"), "missing": ("-", "yellow"), "broken": ("broken", "bold red")}
    width = max(len(finding.name) for found in findings.values() for finding in found)
    console.print(Text.assemble(("metarun", "bold cyan"), (f" {__version__}", "dim")))
    for title, found in findings.items():
        heading(console, title)
        rows = [
            (Text.assemble((f"{marks[f.state][0]:<6}  ", marks[f.state][1]), (f"{f.name:<{width}}", "bold")), f.words)
            for f in found
        ]
        columns(console, rows)
    if all(finding.state != "broken" for found in findings.values() for finding in found):
        console.print()
        paragraph(console, "Everything that a run needs is here; - marks what only some runs need.")


def diagnosis(machine: Machine) -> dict[str, list[Finding]]:
    """What the machine's state means, with what to do where something is missing: heading -> findings."""
    return {
        "Needed": [_python(machine), _torch(machine), _packages(machine), _configuration(machine)]
        + [_place(name, place) for name, place in (("outputs", machine.outputs), ("cache", machine.cache)) if place],
        "Speed": [_gpu(machine), _compiler(machine)],
        "Extras": [_extra(name, *EXTRAS[name], machine.packages) for name in EXTRAS],
        "Data sets": [_data(machine)],
        "Elsewhere": [_wandb(machine), _slurm(machine)],
    }


def _python(machine: Machine) -> Finding:
    words, (first, last) = ".".join(map(str, machine.python)), PYTHONS
    if first <= machine.python[:2] < last:
        return Finding(name="Python", state="ok", words=words)
    need = f"{first[0]}.{first[1]} to {last[0]}.{last[1] - 1}"
    return Finding(
        name="Python", state="broken", words=f"{words}: metarun needs {need}. Make an environment of another."
    )


def _torch(machine: Machine) -> Finding:
    if machine.packages["torch"] is None:
        return Finding(name="PyTorch", state="broken", words="not installed: pip install torch torchvision")
    if machine.torch_problem:
        words = f"{machine.packages['torch']} cannot be imported ({machine.torch_problem}). Install it again."
        return Finding(name="PyTorch", state="broken", words=words)
    build = f"built for CUDA {machine.cuda}" if machine.cuda else "built for the CPU alone"
    return Finding(name="PyTorch", state="ok", words=f"{machine.packages['torch']}, {build}")


def _packages(machine: Machine) -> Finding:
    missing = [name for name in NEEDED if machine.packages[name] is None]
    if missing:
        words = f"not installed: {', '.join(missing)}. pip install {' '.join(missing)}"
        return Finding(name="packages", state="broken", words=words)
    return Finding(name="packages", state="ok", words=f"all {len(NEEDED)} that are needed")


def _configuration(machine: Machine) -> Finding:
    if machine.configuration_problem:
        return Finding(name="configuration", state="broken", words=machine.configuration_problem)
    return Finding(name="configuration", state="ok", words="composes")


def _place(name: str, place: Place) -> Finding:
    key = {"outputs": "run.root or METARUN_OUTPUTS", "cache": "data.cache or METARUN_CACHE"}[name]
    if place.problem:
        words = f"{place.path} cannot be written ({place.problem}). Name another with {key}."
        return Finding(name=name, state="broken", words=words)
    free = f"{place.free_bytes / 2**30:.1f} GiB free"
    if place.free_bytes < _ENOUGH_BYTES:
        words = f"{place.path} has {free}, which a run may fill. Make room, or name another with {key}."
        return Finding(name=name, state="missing", words=words)
    return Finding(name=name, state="ok", words=f"{place.path} can be written, {free}")


def _gpu(machine: Machine) -> Finding:
    if machine.gpus:
        names = ", ".join(f"{machine.gpus.count(name)} x {name}" for name in dict.fromkeys(machine.gpus))
        return Finding(name="GPU", state="ok", words=f"{names}, driver {machine.driver or 'unknown'}")
    if machine.driver is None:
        words = "no NVIDIA driver answers (nvidia-smi): runs are on the CPU"
    elif machine.cuda is None:
        words = (
            f"driver {machine.driver} is here, and PyTorch is built for the CPU alone. Install a CUDA build of PyTorch."
        )
    else:
        words = (
            f"driver {machine.driver} is here, and PyTorch, built for CUDA {machine.cuda}, sees no GPU. Update the driver, "
            "or see whether CUDA_VISIBLE_DEVICES hides the GPUs."
        )
    return Finding(name="GPU", state="missing", words=words)


def _compiler(machine: Machine) -> Finding:
    without = "without it a CPU takes steps one operation after the other (device.program=eager)"
    if machine.compiler is None:
        words = f"no C++ compiler. Install g++, or name one with CXX; {without}"
        return Finding(name="compiler", state="missing", words=words)
    if not machine.has_headers:
        words = f"{machine.compiler}, but no Python.h. Install Python's headers (python3-dev); {without}"
        return Finding(name="compiler", state="missing", words=words)
    return Finding(name="compiler", state="ok", words=machine.compiler)


def _extra(name: str, packages: Sequence[str], purpose: str, versions: Mapping[str, str | None]) -> Finding:
    if all(versions[package] is not None for package in packages):
        found = ", ".join(f"{package} {versions[package]}" for package in packages)
        return Finding(name=name, state="ok", words=f"for {purpose} ({found})")
    # Its metadata forbids every newer PyTorch, so an extra cannot ask for it.
    how = "pip install --no-deps torchmeta==1.8.0" if packages == ("torchmeta",) else f"pip install 'metarun[{name}]'"
    return Finding(name=name, state="missing", words=f"for {purpose}: {how}")


def _data(machine: Machine) -> Finding:
    here = [f"packed: {', '.join(machine.packed)}"] if machine.packed else []
    here += [f"originals: {', '.join(machine.originals)}"] if machine.originals else []
    if here:
        return Finding(name="named sets", state="ok", words="; ".join(here))
    words = "none, and sinusoid, glyphs and navigation2d need no files. metarun data prepare omniglot gets one."
    return Finding(name="named sets", state="missing", words=words)


def _wandb(machine: Machine) -> Finding:
    if machine.wandb_problem:
        words = (
            f"it does not start ({machine.wandb_problem}): runs keep their local files. tracker=none does without it."
        )
        return Finding(name="W&B", state="missing", words=words)
    if machine.wandb_mode != "online":
        words = f"set to {machine.wandb_mode} (WANDB_MODE, or `wandb offline`). `wandb online` undoes it."
        return Finding(name="W&B", state="missing", words=words)
    if not machine.wandb_has_key:
        return Finding(name="W&B", state="missing", words="no API key: runs are offline. `wandb login` sets one.")
    return Finding(name="W&B", state="ok", words="a key is configured: runs are online where the server answers")


def _slurm(machine: Machine) -> Finding:
    if machine.slurm is None:
        words = "no sbatch on the path: metarun submit and hydra/launcher=slurm_* work on a cluster's login node"
        return Finding(name="Slurm", state="missing", words=words)
    return Finding(name="Slurm", state="ok", words=machine.slurm)


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
