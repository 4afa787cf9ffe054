"""Everything that a run must remember from one step to the next, and its file."""

import io
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from metarun.errors import ConfigurationError
from metarun.files import write_atomically
from metarun.maths.trees import Params

_VERSION = 1


@dataclass
class TrainState:
    """There is no random state in it: each draw is a function of (seed, stream, step).

    Attributes:
        step: outer steps done.
        theta: meta-parameters, leaves without task axis.
        optimizer, lr_schedule: their `state_dict`s.
        best_score, best_step: of the best validation so far.
        algorithm: what the algorithm carries from step to step (`Algorithm.start`).
        sums, count: metrics of the steps since the last line of metrics.jsonl, added up.
        train_s, step_s: seconds spent, over all sittings: in all, and in steps alone (no validation).
        fingerprint: of the configuration (`metarun.train.folder.fingerprint`).
    """

    step: int
    theta: Params
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    fingerprint: str
    best_score: float | None = None
    best_step: int | None = None
    algorithm: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    train_s: float = 0.0
    step_s: float = 0.0


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that the file is always whole: the old one or the new one, whatever happens.

    Raises:
        OSError: disk full, no permission; the old file is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"version": _VERSION, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ConfigurationError: not a checkpoint of this version of metarun.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # torch.load does not look at the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum is wrong")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise whatever the damage spells
        raise ConfigurationError(f"{path} is damaged; delete it and run again.") from error
    version = content.pop("version", None) if isinstance(content, dict) else None
    if version != _VERSION:
        raise ConfigurationError(
            f"{path} has format {version}, and this metarun reads format {_VERSION}; delete it and run again."
        )
    return content


def save_state(path: Path, state: TrainState) -> None:
    """`save` for a whole state; theta is stored cut from its graph."""
    theta = {name: leaf.detach() for name, leaf in state.theta.items()}
    shallow = {name: getattr(state, name) for name in asdict(TrainState(0, {}, {}, {}, ""))}
    save(path, shallow | {"theta": theta})


def load_state(path: Path) -> TrainState:
    """`load` for a whole state."""
    return TrainState(**load(path))
