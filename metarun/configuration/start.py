"""What `run.init_from` names, and the hash of its content: a run is named by what it starts from, wherever that lies."""

import hashlib
from pathlib import Path

from metarun.errors import ConfigurationError
from metarun.files import read_bytes

_CHECKPOINTS = "checkpoints"
_OF_A_RUN = ("best.pt", "start.pt")  # the selected theta, and what was not learned where the run itself had a start


def start_of(value: str) -> dict[str, str]:
    """Where a run starts: the absolute `path` of a run's folder or of a file, and the `sha256` of what it holds.

    Raises:
        ConfigurationError: there is no such thing.
    """
    path = Path(value).expanduser().absolute()
    return {"path": str(path), "sha256": digest(path)}


def digest(path: Path) -> str:
    """SHA-256 of a file of parameters, or of those files of a run's folder that hold its selected parameters.

    Raises:
        ConfigurationError: there is no such file.
    """
    hashed = hashlib.sha256()
    for file in _files(path):
        hashed.update(read_bytes(file))
    return hashed.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [path / _CHECKPOINTS / name for name in _OF_A_RUN]
    if files[0].is_file():
        return [file for file in files if file.is_file()]
    if (path / "config.json").is_file():
        raise ConfigurationError(
            f"run.init_from={path} is a run without a selected state yet ({files[0]} is missing): let it validate once."
        )
    raise ConfigurationError(
        f"run.init_from must be a run's folder or a file of parameters (.pt), and {path} is "
        f"{'neither' if path.exists() else 'not there'}."
    )
