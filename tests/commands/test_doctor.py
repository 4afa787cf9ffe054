"""`metarun doctor`: what each state of a machine is told as, and this machine as it is."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from metarun import __version__
from metarun.command_line.main import main
from metarun.commands import doctor, machine
from metarun.commands.doctor import PYTHONS, Finding, diagnosis, show
from metarun.commands.machine import EXTRAS, NEEDED, Machine, Place, look, place_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {*NEEDED, *(package for packages, _ in EXTRAS.values() for package in packages)}

WELL = Machine(
    python=(3, 11, 7),
    packages={name: "1.2" for name in PACKAGES},
    torch_problem="",
    cuda="12.8",
    gpus=["NVIDIA H200", "NVIDIA H200"],
    driver="550.54",
    compiler="g++ (Debian) 12.2.0",
    has_headers=True,
    configuration_problem="",
    outputs=Place(path=Path("outputs"), problem="", free_bytes=3 * 2**30),
    cache=Place(path=Path("/cache"), problem="", free_bytes=2**30),
    packed=["omniglot"],
    originals=["cub", "letter"],
    wandb_mode="online",
    wandb_has_key=True,
    wandb_problem="",
    slurm="slurm 22.05.8",
)
BARE = replace(
    WELL,
    packages={name: "1.2" if name in NEEDED else None for name in PACKAGES},
    cuda=None,
    gpus=[],
    driver=None,
    compiler=None,
    packed=[],
    originals=[],
    wandb_has_key=False,
    slurm=None,
)


def found(machine: Machine) -> dict[str, Finding]:
    return {finding.name: finding for group in diagnosis(machine).values() for finding in group}


def shown(machine: Machine, width: int) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width, highlight=False), diagnosis(machine))
    return stream.getvalue()


AT_80 = f"""\
metarun {__version__}

Needed
  ok      Python         3.11.7
  ok      PyTorch        1.2, built for the CPU alone
  ok      packages       all 13 that are needed
  ok      configuration  composes
  ok      outputs        outputs can be written, 3.0 GiB free
  ok      cache          /cache can be written, 1.0 GiB free

Speed
  -       GPU            no NVIDIA driver answers (nvidia-smi): runs are on the
                         CPU
  -       compiler       no C++ compiler. Install g++, or name one with CXX;
                         without it a CPU takes steps one operation after the
                         other (device.program=eager)

Extras
  -       torchmeta      for the classes of train, val and test of the named
                         data sets: pip install --no-deps torchmeta==1.8.0
  -       optuna         for searches: hydra/sweeper=tpe and random: pip install
                         'metarun[optuna]'
  -       openml         for getting letter and the plants from OpenML: pip
                         install 'metarun[openml]'
  -       tensorboard    for tracker=tensorboard: pip install
                         'metarun[tensorboard]'
  -       mlflow         for tracker=mlflow: pip install 'metarun[mlflow]'
  -       pandas         for metarun.results as a data frame: pip install
                         'metarun[pandas]'
  -       onnx           for metarun export --to model.onnx: pip install
                         'metarun[onnx]'
  -       gymnasium      for dataset=gymnasium: environments of your own: pip
                         install 'metarun[gymnasium]'
  -       mujoco         for the half-cheetah and the ant: pip install
                         'metarun[mujoco]'

Data sets
  -       named sets     none, and sinusoid, glyphs and navigation2d need no
                         files. metarun data prepare omniglot gets one.

Elsewhere
  -       W&B            no API key: runs are offline. `wandb login` sets one.
  -       Slurm          no sbatch on the path: metarun submit and
                         hydra/launcher=slurm_* work on a cluster's login node

Everything that a run needs is here; - marks what only some runs need.
"""


def test_a_bare_machine_at_80_columns() -> None:
    assert shown(BARE, 80) == AT_80


@pytest.mark.parametrize("machine", [WELL, BARE], ids=["well", "bare"])
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_it_fits_and_breaks_no_word(machine: Machine, width: int) -> None:
    lines = shown(machine, width).splitlines()
    assert [line for line in lines if len(line) > width or line != line.rstrip()] == []
    assert " ".join(lines).split() == shown(machine, 400).split()


def test_a_machine_with_everything() -> None:
    states = found(WELL)
    assert {finding.state for finding in states.values()} == {"ok"}
    assert states["PyTorch"].words == "1.2, built for CUDA 12.8"
    assert states["GPU"].words == "2 x NVIDIA H200, driver 550.54"
    assert states["optuna"].words == "for searches: hydra/sweeper=tpe and random (optuna 1.2)"
    assert states["named sets"].words == "packed: omniglot; originals: cub, letter"


@pytest.mark.parametrize(
    ("change", "name", "state", "words"),
    [
        ({"python": (3, 9, 1)}, "Python", "broken", "3.9.1: metarun needs 3.10 to 3.13. Make an environment of another."),
        ({"python": (3, 14, 0)}, "Python", "broken", "3.14.0: metarun needs 3.10 to 3.13. Make an environment of another."),
        (
            {"packages": WELL.packages | {"torch": None}},
            "PyTorch", "broken", "not installed: pip install torch torchvision",
        ),
        (
            {"torch_problem": "libcudart.so.12: cannot open"},
            "PyTorch", "broken", "1.2 cannot be imported (libcudart.so.12: cannot open). Install it again.",
        ),
        (
            {"packages": WELL.packages | {"h5py": None, "tqdm": None}},
            "packages", "broken", "not installed: h5py, tqdm. pip install h5py tqdm",
        ),
        ({"configuration_problem": "no config.yaml in x."}, "configuration", "broken", "no config.yaml in x."),
        (
            {"outputs": Place(path=Path("o"), problem="/: Permission denied", free_bytes=2**40)},
            "outputs", "broken",
            "o cannot be written (/: Permission denied). Name another with run.root or METARUN_OUTPUTS.",
        ),
        (
            {"cache": Place(path=Path("c"), problem="", free_bytes=2**29)},
            "cache", "missing",
            "c has 0.5 GiB free, which a run may fill. Make room, or name another with data.cache or METARUN_CACHE.",
        ),
        (
            {"gpus": [], "cuda": None},
            "GPU", "missing",
            "driver 550.54 is here, and PyTorch is built for the CPU alone. Install a CUDA build of PyTorch.",
        ),
        (
            {"gpus": []},
            "GPU", "missing",
            "driver 550.54 is here, and PyTorch, built for CUDA 12.8, sees no GPU. Update the driver, or see whether "
            "CUDA_VISIBLE_DEVICES hides the GPUs.",
        ),
        (
            {"has_headers": False},
            "compiler", "missing",
            "g++ (Debian) 12.2.0, but no Python.h. Install Python's headers (python3-dev); without it a CPU takes steps one "
            "operation after the other (device.program=eager)",
        ),
        (
            {"wandb_mode": "offline"},
            "W&B", "missing", "set to offline (WANDB_MODE, or `wandb offline`). `wandb online` undoes it.",
        ),
        (
            {"wandb_problem": "no module"},
            "W&B", "missing",
            "it does not start (no module): runs keep their local files. tracker=none does without it.",
        ),
        (
            {"packages": WELL.packages | {"onnxscript": None}},
            "onnx", "missing", "for metarun export --to model.onnx: pip install 'metarun[onnx]'",
        ),
    ],
)  # fmt: skip
def test_what_is_told_and_what_to_do(change: dict, name: str, state: str, words: str) -> None:
    finding = found(replace(WELL, **change))[name]
    assert (finding.state, finding.words) == (state, words)
    others = {other.state for key, other in found(replace(WELL, **change)).items() if key != name}
    assert others - {"ok"} == ({"broken"} if change.get("packages", {}).get("torch", "") is None else set())


def test_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "look", lambda: BARE)
    assert main(["doctor"]) == 0
    monkeypatch.setattr(doctor, "look", lambda: replace(BARE, python=(3, 9, 0), torch_problem="no"))
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert out.count("  broken  ") == 2
    assert err == "metarun: error: needed and broken: Python, PyTorch. What to do stands beside each.\n"
    assert out.count("Everything that a run needs is here") == 1


def test_it_asks_for_what_the_package_asks_for() -> None:
    """Held against pyproject.toml: the needed packages, the range of Pythons, and the extras that users have."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"\ndependencies = \[\n(.*?)\n\]", text, re.DOTALL)
    assert block is not None
    assert {*re.findall(r'^ *"([\w-]+)', block[1], re.MULTILINE)} == {*NEEDED}
    first, last = (f"{number[0]}.{number[1]}" for number in PYTHONS)
    assert f'requires-python = ">={first},<{last}"' in text
    extras = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    asked = {
        name: tuple(re.findall(r'"([\w-]+)', packages))
        for name, packages in re.findall(r"^(\w+) = \[(.*?)\](?:  #.*)?$", extras, re.MULTILINE)
        if name not in ("crosscheck", "docs", "dev")
    }
    assert asked == {name: packages for name, (packages, _) in EXTRAS.items()}


def test_this_machine() -> None:
    found = look()
    assert found.python == sys.version_info[:3]
    assert found.packages["torch"] == torch.__version__
    assert (found.torch_problem, found.cuda) == ("", torch.version.cuda)
    assert len(found.gpus) == torch.cuda.device_count()
    assert found.configuration_problem == ""
    assert found.outputs is not None and found.outputs.path == Path("outputs")


def test_places_are_tried(tmp_path: Path) -> None:
    place = place_of(tmp_path / "not" / "yet" / "there")
    assert (place.path, place.problem) == (tmp_path / "not" / "yet" / "there", "")
    assert place.free_bytes > 0
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    assert place_of(file).problem == f"{file}: Not a directory"


def test_places_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METARUN_OUTPUTS", str(tmp_path / "runs"))
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "_ask_torch", lambda: ("", None, []))
    monkeypatch.setattr(machine, "_ask_wandb", lambda: ("online", False, ""))
    found = look()
    assert found.outputs is not None and found.outputs.path == tmp_path / "runs"
    assert found.cache is not None and found.cache.path == tmp_path / "cache"
    assert found.packed == []


def test_a_package_that_is_not_there_is_told_as_such() -> None:
    """In a Python that finds neither Optuna nor MLflow, in which the tracker cannot be asked either."""
    code = (
        "import sys; sys.modules['wandb'] = None; sys.modules['optuna'] = None; sys.modules['mlflow'] = None\n"
        "from metarun.commands.machine import _version, _ask_wandb\n"
        "print(_version('optuna'), _version('mlflow-skinny'), _version('numpy') is None, bool(_ask_wandb()[2]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "None None False True\n"
