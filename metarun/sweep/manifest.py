"""manifest.json: everything that a sweep will run, written before its first job starts."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun import __version__
from metarun.errors import ConfigurationError
from metarun.files import mismatch, read_json, write_atomically
from metarun.json_text import json_text
from metarun.run_folder.folder import RunFolder

NAME = "manifest.json"
_JOB = {
    "index": int,
    "overrides": [str],
    "varied": [str],
    "config": dict,
    "fingerprint": str,
    "folder": str,
    "log": str,
}
_SHAPE = {"command": str, "jobs": [_JOB], "git": (dict, None)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep.

    Attributes:
        index: its number in the sweep.
        overrides: the command line of this run alone.
        varied: those of `overrides` that the sweep varies; what a table shows.
        config: resolved, so that a file edited while the sweep runs changes nothing.
        fingerprint: of the settings that decide the run's numbers.
        folder: the run's.
        log: what the run's process prints.
    """

    index: int
    overrides: tuple[str, ...]
    varied: tuple[str, ...]
    config: Mapping[str, Any]
    fingerprint: str
    folder: Path
    log: Path

    @property
    def label(self) -> str:
        """`#3 algorithm=maml seed=0`."""
        return f"#{self.index} {' '.join(self.varied)}".rstrip()

    @property
    def run(self) -> RunFolder:
        """The run's folder with its files."""
        return RunFolder(self.folder)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What lies in a sweep's folder.

    Attributes:
        folder: the sweep's.
        command: the command line, to give again.
        config_dirs: folders of configuration that it names beside ours (`--config-dir`).
        jobs: in their order.
        git: commit and whether files differ from it, where the code lies in a repository; else None.
    """

    folder: Path
    command: str
    config_dirs: tuple[str, ...]
    jobs: tuple[Job, ...]
    git: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The sweep's: W&B's group."""
        return self.folder.name

    def write(self) -> None:
        """Write manifest.json, atomically.

        Raises:
            ConfigurationError: the folder cannot be written.
        """
        jobs = [
            {
                "index": job.index,
                "overrides": job.overrides,
                "varied": job.varied,
                "fingerprint": job.fingerprint,
                "folder": str(job.folder),
                "log": job.log.name,
                "config": job.config,
            }
            for job in self.jobs
        ]
        said = {"command": self.command, "config_dirs": self.config_dirs}
        content = {"metarun": __version__, "git": self.git, **said, "jobs": jobs}
        with _writable(self.folder):
            write_atomically(self.folder / NAME, (json_text(content, indent=1) + "\n").encode())


def make_folder(folder: Path) -> None:
    """Make a sweep's folder.

    Raises:
        ConfigurationError: it cannot be made.
    """
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the sweep's folder must be writable, and {folder} is not: {error.strerror}. "
            "Set run.root (or METARUN_OUTPUTS) to a folder of yours."
        ) from error


def read(folder: Path) -> Manifest:
    """The manifest in a sweep's folder.

    Raises:
        ConfigurationError: there is none.
        DamagedFile: it is not one of metarun's.
    """
    path = folder / NAME
    try:
        content = read_json(path, _mismatch, "Delete it and give the sweep's command again.")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"{folder} must hold a sweep (a {NAME}), and it does not. Sweeps lie in outputs/sweeps/."
        ) from error
    jobs = tuple(
        Job(
            index=job["index"],
            overrides=tuple(job["overrides"]),
            varied=tuple(job["varied"]),
            config=job["config"],
            fingerprint=job["fingerprint"],
            folder=Path(job["folder"]),
            log=folder / job["log"],
        )
        for job in content["jobs"]
    )
    dirs = tuple(content.get("config_dirs", ()))
    return Manifest(folder=folder, command=content["command"], config_dirs=dirs, jobs=jobs, git=content["git"])


def _mismatch(content: Any) -> str:
    """What keeps a JSON value from being a manifest; config_dirs is absent from those of earlier versions."""
    return mismatch(content, _SHAPE) or mismatch(content.get("config_dirs", []), [str], "config_dirs")


def git_state(code: Path) -> dict[str, Any] | None:
    """The commit of a folder of code and whether its files differ; None where it is no repository or git is missing."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(code), *words], capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
    except (OSError, subprocess.SubprocessError):
        return None
