"""`metarun doctor`: what there is on this machine of what metarun needs and can use, one line each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from metarun import __version__
from metarun.commands.machine import EXTRAS, NEEDED, Machine, Place, look
from metarun.console.rows import columns, heading, paragraph
from metarun.console.terminal import terminal

PYTHONS = ((3, 10), (3, 14))
"""The first that will do, and the first that will not."""
_ENOUGH_BYTES = 2**30


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
