"""A run's folder: its name, its files, and the lock that keeps a second process out."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.errors import ConfigurationError
from metarun.files import clear_leftovers, lock, read_json, write_atomically
from metarun.json_text import json_text
from metarun.run_folder.earlier_versions import as_first_written
from metarun.run_folder.shapes import CHECKSUM, CONFIG, checksum, result_mismatch

_WITHOUT_INFLUENCE = ("run", "tracker", "data", "reference", "choices", "gradients", "profile", "figures")
"""Top-level keys of the configuration that change no number of a run."""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the run's numbers."""
    deciding = {key: value for key, value in config.items() if key not in _WITHOUT_INFLUENCE}
    if (start := deciding.pop("init_from", None)) is not None:  # what it holds decides, and not where it lies
        deciding["run.init_from"] = start["sha256"]
    kept = as_first_written(deciding, config["evaluation"])
    # Where archives and the cache lie decides nothing either.
    return moved(kept, config["data"], {key: f"data.{key}" for key in config["data"]})


def moved(node: Any, before: Mapping[str, str], now: Mapping[str, str]) -> Any:
    """A part of a configuration whose `root` and `cache` lie elsewhere: they are resolved inside the data set's source."""
    if not isinstance(node, Mapping):
        return node
    return {k: now[k] if k in now and v == before[k] else moved(v, before, now) for k, v in node.items()}


def fingerprint(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the settings' SHA-256."""
    return hashlib.sha256(json.dumps(settings(config), sort_keys=True).encode()).hexdigest()[:16]


def name(config: Mapping[str, Any]) -> str:
    """A readable name that no other configuration shares: data set, task size, algorithm, seed, fingerprint."""
    choices, dataset = config["choices"], config["dataset"]
    size = f"-{dataset['ways']}way-{dataset['shots']}shot" if "ways" in dataset else f"-{dataset['shots']}shot"
    words = f"{choices['dataset']}{size}-{choices['algorithm']}-seed{config['seed']}-{fingerprint(config)[:8]}"
    return re.sub(r"[^\w.-]+", "_", words)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two configurations' settings, as `key: before -> now`."""
    old, new = (_by_keys_of_today(flatten(settings(config))) for config in (before, now))
    absent = "(absent)"
    keys = [key for key in sorted({*old, *new}) if old.get(key, absent) != new.get(key, absent)]
    if "evaluation.inner_steps" in keys:  # the key of earlier versions that follows it
        keys = [key for key in keys if key != "algorithm.inner.eval_steps"]
    return [f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}" for key in keys]


def _by_keys_of_today(flat: dict[str, Any]) -> dict[str, Any]:
    """Settings by the keys that a person can give: runs are named by `compile`, which `program` has taken the place of."""
    if "device.compile" not in flat:
        return flat
    program = "compiled" if flat["device.compile"] else "auto"
    return {key: value for key, value in flat.items() if key != "device.compile"} | {"device.program": program}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of last.pt, previous.pt and best.pt."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def config(self) -> Path:
        """The resolved configuration, as JSON (which is YAML too)."""
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        """Of a data set with classes: what its examples are, and which class is in which split."""
        return self.path / "data.json"

    @property
    def sources(self) -> Path:
        """Of parts that are the user's own: what their source files were."""
        return self.path / "sources.json"

    @property
    def result(self) -> Path:
        """Written once, at the end."""
        return self.path / "result.json"

    @property
    def status(self) -> Path:
        """What the run is doing: `metarun.run_folder.status`."""
        return self.path / "status.json"

    @property
    def tracking(self) -> Path:
        """What the run is called by its trackers (`metarun.tracking.base.identity`)."""
        return self.path / "tracking.json"

    @property
    def log(self) -> Path:
        """What happened, in words."""
        return self.path / "log.txt"

    @property
    def figures(self) -> Path:
        """Plots, as PNG files."""
        return self.path / "figures"

    @property
    def profile(self) -> Path:
        """Folder of trace.json and profile.json, where `profile=true` asked for them."""
        return self.path / "profile"

    def make(self) -> None:
        """Make the folder.

        Raises:
            ConfigurationError: it cannot be made.
        """
        with self._writable():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.figures.mkdir(exist_ok=True)

    def clear(self) -> None:
        """Take away what a run would go on from, or be answered from."""
        for path in (*self.checkpoints.glob("*.pt*"), self.metrics, self.result, self.status):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, prove that the folder can be written, and take away what killed processes left half written.

        Raises:
            ConfigurationError: another process holds the lock, or the folder cannot be written.
            FileError: the file system has no locks.
        """
        with self._writable():
            file = open(self.path / ".lock", "w")  # noqa: SIM115 (closed below)
        with file:
            if not lock(file, self.path / ".lock", waits=False):
                raise ConfigurationError(
                    f"another process is running this configuration in {self.path}. Wait for it, "
                    "or change something (seed=1 makes another run)."
                )
            for folder in (self.path, self.checkpoints):
                clear_leftovers(folder)
            with self._writable():
                write_atomically(self.path / ".writable", b"")
                (self.path / ".writable").unlink()
            yield

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise ConfigurationError(
                f"the run's folder must be writable, and {self.path} is not: {reason}. "
                "Set run.root (or METARUN_OUTPUTS) to a folder of yours."
            ) from error

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file, atomically."""
        write_atomically(path, (json_text(content, indent=2) + "\n").encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json with a checksum, so that no figure in it can change unseen."""
        stored = json.loads(json_text(result))  # what is no number is null by then
        self.write_json(self.result, stored | {CHECKSUM: checksum(stored)})

    def read_config(self) -> dict[str, Any] | None:
        """The run's configuration, or None where there is none.

        Raises:
            DamagedFile: the file is not one of metarun's.
        """
        way_out = f"Delete it and give the run's command again ({self.path / 'overrides.json'} has it)."
        return _if_there(self.config, CONFIG, way_out)

    def read_result(self) -> dict[str, Any] | None:
        """The run's result, or None where there is none.

        Raises:
            DamagedFile: the file is not one of metarun's.
        """
        return _if_there(self.result, result_mismatch, "Delete it and run again: the trained state is tested again.")


def _if_there(path: Path, shape: Any, way_out: str) -> dict[str, Any] | None:
    try:
        return read_json(path, shape, way_out)
    except (FileNotFoundError, NotADirectoryError):  # `make` says what is wrong with the folder
        return None


def folder_of(config: Mapping[str, Any]) -> RunFolder:
    """Where the run of a resolved configuration lies."""
    chosen = config["run"]["folder"]
    return RunFolder(Path(chosen) if chosen else Path(config["run"]["root"]) / name(config))
