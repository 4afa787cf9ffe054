"""What sweeps were to run, from their manifests: a job that was never started has left no other trace."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.files import read_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One job of a sweep.

    Attributes:
        path: of the run's folder, which need not exist.
        config: resolved, with `choices`.
        command: the line that makes this run alone.
        written: seconds since 1970 of the manifest.
    """

    path: Path
    config: Mapping[str, Any]
    overrides: tuple[str, ...]
    command: str
    written: float


def planned(sweep: Path) -> list[Planned]:
    """The jobs of the sweep in a folder; none where its manifest is not to be read, which `metarun status` explains."""
    manifest = sweep / MANIFEST
    try:
        content, written = read_json(manifest), manifest.stat().st_mtime
        folders = [word for path in content.get("config_dirs", []) for word in ("--config-dir", str(path))]
        return [
            Planned(
                path=_folder(sweep, Path(job["folder"])),
                config=dict(job["config"]),
                overrides=tuple(map(str, job["overrides"])),
                command=shlex.join(["metarun", *folders, *map(str, job["overrides"])]),
                written=written,
            )
            for job in content["jobs"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _folder(sweep: Path, recorded: Path) -> Path:
    """Where a run lies: among those beside its sweep, whose folder may have been moved or copied, or where it was made."""
    beside = sweep.parent.parent / recorded.name
    if beside.is_dir() and not recorded.is_dir():
        return beside
    return beside if os.path.realpath(beside) == os.path.realpath(recorded) else recorded
