"""Everything that a run must remember from one step to the next, and its file."""

import io
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from metarun.errors import ConfigurationError, DamagedFile
from metarun.files import read_bytes, write_atomically
from metarun.maths.trees import Params

_VERSION = 2
_READ = (1, 2)  # 1 has neither the selected theta nor how far the record reached
_WAY_OUT = "run.overwrite=true trains from the beginning."


@dataclass
class TrainState:
    """There is no random state in it: each draw is a function of (seed, stream, step).

    Attributes:
        step: outer steps done.
        theta: meta-parameters, leaves without task axis.
        optimizer, lr_schedule: their `state_dict`s.
        best_score, best_step: of the best validation so far.
        best_theta: theta then, so that it outlives best.pt.
        record: how far metrics.jsonl reached (`metarun.tracking.jsonl.Reach`), as a dict.
        lost: what is missing of the run's record, in words.
        algorithm: what the algorithm carries from step to step (`Algorithm.start`).
        sums, count: metrics of the steps since the last line of metrics.jsonl, added up.
        counted: how much has been worked on, where the problem counts it (`Problem.counted`).
        train_s, step_s: seconds spent, over all attempts: in all, and in steps alone (no validation).
        task_chunk: tasks worked on at once, which decides how sums round; None in checkpoints of earlier versions.
        program: how outer steps are taken from the fourth on ("eager", "compiled", "captured"), which decides how they round; None
            where that is not decided yet, and in checkpoints of earlier versions.
        fingerprint: of the configuration (`metarun.run_folder.folder.fingerprint`).
    """

    step: int
    theta: Params
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    fingerprint: str
    best_score: float | None = None
    best_step: int | None = None
    best_theta: Params | None = None
    record: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    algorithm: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    counted: float = 0.0
    train_s: float = 0.0
    step_s: float = 0.0
    task_chunk: int | None = None
    program: str | None = None


def save(path: Path, content: dict[str, Any], kept: Path | None = None) -> None:
    """Write a checkpoint so that the file is always whole: the old one or the new one, whatever happens.

    Args:
        kept: where the old one goes.
    Raises:
        FileError: disk full, no permission; the old file is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"version": _VERSION, **content}, buffer)
    write_atomically(path, buffer.getvalue(), kept=kept)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors on the CPU.

    Raises:
        FileNotFoundError: no such file.
        DamagedFile: it is not whole.
        FileError: it cannot be read.
        ConfigurationError: a checkpoint of another version of metarun.
    """
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # torch.load does not look at the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum is wrong")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise whatever the damage spells
        reason = "a checksum is wrong" if "checksum" in str(error) else "it is cut short, or no checkpoint at all"
        raise DamagedFile(path, reason, _WAY_OUT) from error
    version = content.pop("version", None) if isinstance(content, dict) else None
    if version not in _READ:
        raise ConfigurationError(
            f"{path} has format {version}, and this metarun reads formats {' and '.join(map(str, _READ))}. Go on with the "
            "metarun that wrote it, or train from the beginning with run.overwrite=true."
        )
    return content


def save_state(path: Path, state: TrainState, kept: Path | None = None) -> None:
    """`save` for a whole state; theta is stored cut from its graph."""
    theta = {name: leaf.detach() for name, leaf in state.theta.items()}
    save(path, {each.name: getattr(state, each.name) for each in fields(TrainState)} | {"theta": theta}, kept)


def load_state(path: Path) -> TrainState:
    """`load` for a whole state."""
    content = load(path)
    known = {each.name for each in fields(TrainState)}
    if not {"step", "theta", "optimizer", "lr_schedule", "fingerprint"} <= content.keys() <= known:
        raise DamagedFile(path, "it holds no state of a run", _WAY_OUT)
    return TrainState(**content)
