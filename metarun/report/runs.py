"""Run folders as a report reads them: JSON and text alone, no torch, so that hundreds answer at once."""

import csv
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from metarun.errors import ConfigurationError, DamagedFile
from metarun.files import read_json
from metarun.maths.stats import count_words, diverged, summarize
from metarun.report.planned import MANIFEST, Planned, planned
from metarun.run_folder.folder import flatten
from metarun.run_folder.shapes import DATA, result_mismatch

ABSENT = "(absent)"
"""The value of a key that a run's configuration does not have."""

NOWHERE = "–"
"""What a run starts from that begins with its own parameters."""

NOT_STARTED = "not started"
"""The state of a job that a sweep has planned and nobody has written."""

TRAINED_ON, TESTED_ON, STARTS_FROM = "trained_on", "tested_on", "starts_from"
BESIDE_KEYS = (TRAINED_ON, TESTED_ON, STARTS_FROM)
"""What may be asked of a run as its keys are: the data sets of training and of the test, and what it was started from."""

_TRAINED = "trained."
"""Before the key of a setting that an evaluation has replaced: what the run was trained by."""

_OF_A_RUN = {"overrides.json", "result.json", "metrics.jsonl", "checkpoints"}
_WITHOUT_INFLUENCE = ("seed", "run.", "tracker.", "data.", "reference", "choices.", "device.")
_WITHOUT_INFLUENCE_THEMSELVES = ("schedule.log_every", "schedule.checkpoint_every")
_SHAPES = {"overrides": {"overrides": [str], "command": str}, "result": result_mismatch, "data": DATA}
_SILENT_S = 60.0  # a live run writes its status every few seconds


@dataclass(frozen=True, kw_only=True)
class Diverged:
    """The test tasks of a run that diverged, out of `num_tasks`, and the median score of all, which they do not move."""

    tasks: list[int]
    num_tasks: int
    median: float

    @property
    def words(self) -> str:
        """`1 of 600 tasks: 133`."""
        return count_words(self.tasks, self.num_tasks)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one folder says.

    Attributes:
        config: resolved, with `choices`; empty where config.json is missing or damaged.
        result: None unless the run is finished and its result.json is whole.
        state: finished, running, preempted, failed, killed (it says that it runs, and nobody does), unfinished (no
            more is known), damaged (a file is not what metarun writes), or not started (a sweep's manifest names it).
        detail: why, or how far; "" where there is nothing to say.
        provenance: of the examples, from data.json; empty where there is none.
        command: the line that made it; "" if not recorded.
        changed: seconds since 1970 of the last sign of life.
        evaluation: the file of an evaluation, whose configuration and result these are; None of the run itself.
        trained: the run that was evaluated.
    """

    path: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    state: str
    detail: str
    provenance: Mapping[str, Any]
    command: str
    overrides: tuple[str, ...]
    changed: float
    evaluation: Path | None = None
    trained: "Run | None" = None

    @property
    def place(self) -> Path:
        """What to call it: its folder, or the evaluation's file."""
        return self.evaluation or self.path

    @property
    def seed(self) -> Any:
        """Of the parameters at the start and of the training tasks."""
        return self.config.get("seed", ABSENT)

    @property
    def choices(self) -> Mapping[str, Any]:
        """Group -> the option chosen."""
        choices = self.config.get("choices")
        return choices if isinstance(choices, Mapping) else {}

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The configuration, keys joined by dots, choices left out; of an evaluation, also what it replaced."""
        flat = flatten({key: value for key, value in self.config.items() if key not in ("choices", "init_from")})
        if isinstance(start := self.config.get("init_from"), Mapping):  # what it holds decides, too
            flat["run.init_from"] = f"{start.get('path')} ({str(start.get('sha256'))[:8]})"
        if self.trained is None:
            return flat
        own = self.trained.settings
        replaced = {key for key in own if not key.startswith("evaluation.") and flat.get(key, ABSENT) != own[key]}
        return flat | {f"{_TRAINED}{key}": own[key] for key in own if key in replaced}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The flat keys that decide the run's numbers, but for its seed: not where files lie, not how fast it ran."""
        data = self.config.get("data")
        places = set(map(str, data.values())) if isinstance(data, Mapping) else set()
        kept = {
            key: value
            for key, value in self.flat.items()
            if not key.startswith(_WITHOUT_INFLUENCE)
            and key not in _WITHOUT_INFLUENCE_THEMSELVES
            # the data set's source has the data folders resolved inside it
            and not (key.rpartition(".")[2] in ("root", "cache") and str(value) in places)
        }
        decisive = ("device.dtype", "run.init_from")  # of what has no influence otherwise
        kept |= {key: self.flat[key] for key in decisive if self.flat.get(key) is not None}
        is_elsewhere = self.value(TRAINED_ON) != self.value(TESTED_ON)
        return kept | ({TRAINED_ON: self.value(TRAINED_ON)} if is_elsewhere else {})

    def value(self, key: str) -> Any:
        """The option chosen for a group (`algorithm`, `algorithm/inner`), or the value of a key (`dataset.shots`)."""
        if key in self.choices:
            return self.choices[key]
        if key == TESTED_ON:
            return self.choices.get("dataset", ABSENT)
        if key == TRAINED_ON:
            return (self.trained or self).choices.get("dataset", ABSENT)
        if key == STARTS_FROM:
            return self.starts_from or NOWHERE
        if key not in self.flat and key.startswith(_TRAINED) and self.trained is None:
            return self.flat.get(key.removeprefix(_TRAINED), ABSENT)
        return self.flat.get(key, ABSENT)

    @property
    def starts_from(self) -> str:
        """The run or file whose parameters this one began with; "" where it began with its own."""
        if self.trained is not None:
            return self.trained.starts_from
        recorded = (self.result or self.config).get("init_from")
        path = recorded.get("path") if isinstance(recorded, Mapping) else self.flat.get("run.init_from")
        return str(path) if path else ""

    @property
    def higher_is_better(self) -> bool | None:
        """Of a finished run's score; results of earlier versions name the score alone."""
        assert self.result is not None
        known = {"accuracy": True, "mse": False}.get(self.result["score"])
        return self.result.get("higher_is_better", known)

    def scores(self) -> dict[int, dict[str, float]]:
        """Of a finished run: number of inner steps -> mean, std, ci95 and num_tasks of the score; NaN where the file has null."""
        assert self.result is not None
        summaries = {row["inner_steps"]: row[self.result["score"]] for row in self.result["results"]}
        return {
            steps: {key: math.nan if value is None else value for key, value in summary.items()}
            for steps, summary in summaries.items()
        }

    def diverged(self, inner_steps: int) -> "Diverged":
        """The test tasks that diverged.

        Raises:
            ValueError: the run is of an earlier version, whose tasks.csv alone can say so, and it cannot be read.
        """
        assert self.result is not None
        row = next(row for row in self.result["results"] if row["inner_steps"] == inner_steps)
        summary = self.scores()[inner_steps]
        if "diverged" in row:
            tasks, median = row["diverged"], summary["median"]
        else:
            scores = self.task_scores(inner_steps)
            tasks, median = diverged(scores, is_loss=self.higher_is_better is False), summarize(scores).median
        return Diverged(tasks=tasks, num_tasks=int(summary["num_tasks"]), median=median)

    def task_scores(self, inner_steps: int) -> list[float]:
        """The score of each test task after so many inner steps, from tasks.csv or the evaluation's own file.

        Raises:
            ValueError: they are missing, half written, or do not give the mean that the result states.
        """
        assert self.result is not None
        name, of = ("tasks.csv", "result.json ") if self.evaluation is None else (self.evaluation.name, "its result ")
        summary = self.scores()[inner_steps]
        try:
            values = self._stored_scores(inner_steps)
        except (OSError, ValueError, IndexError) as error:
            raise ValueError(f"{name} cannot be read ({error})") from error
        mean = sum(values) / len(values) if values else None
        if len(values) != summary["num_tasks"]:
            raise ValueError(f"{name} has {len(values)} of {summary['num_tasks']} tasks")
        known, limit = summary["mean"], 1e-6 * max(abs(mean or 0), abs(summary["mean"]))
        if mean is not None and math.isfinite(mean) and not abs(mean - known) <= limit:
            raise ValueError(f"{name} has mean {mean:g}, {of}{summary['mean']:g}")
        return values

    def _stored_scores(self, inner_steps: int) -> list[float]:
        assert self.result is not None
        if self.evaluation is not None:
            stored = self.result.get("task_scores")
            values = stored.get(str(inner_steps)) if isinstance(stored, Mapping) else None
            if not isinstance(values, list):
                raise ValueError("it has no scores of single tasks")  # as evaluations of earlier versions
            return [math.nan if value is None else float(value) for value in values]
        with open(self.path / "tasks.csv", newline="") as file:
            head, *rows = csv.reader(file)
        steps, score = head.index("inner_steps"), head.index(self.result["score"])
        return [float(row[score]) for row in rows if row[steps] == str(inner_steps)]


def read_runs(roots: Iterable[Path]) -> list[Run]:
    """Every run in or below the folders and every job of the sweeps there, newest first; what is named twice counts once.

    Raises:
        ConfigurationError: one of `roots` is no folder.
    """
    found: dict[str, Path] = {}
    jobs: dict[str, Planned] = {}
    for root in roots:
        if not root.is_dir():
            raise ConfigurationError(f"{root} must be a folder with runs in it, and it is not a folder.")
        for path, is_run in _runs_and_sweeps(root):
            if is_run:
                found.setdefault(os.path.realpath(path), path)
                continue
            for job in planned(path):
                jobs.setdefault(os.path.realpath(job.path), job)
    for place, job in jobs.items():
        found.setdefault(place, job.path)
    locked = _locked_inodes()
    runs = (read_run(path, locked, jobs.get(place)) for place, path in found.items())
    return sorted(runs, key=lambda run: (-run.changed, str(run.path)))


def _runs_and_sweeps(root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of runs (True) and of sweeps in or below `root`, by name; what lies inside a run is not searched."""
    for place, folders, files in os.walk(root):
        here = {*folders, *files}
        is_run = "result.json" in here or {"status.json", "checkpoints"} <= here
        is_run = is_run or ("config.json" in here and bool(here & _OF_A_RUN))
        if is_run:
            folders.clear()
        if is_run or MANIFEST in here:
            yield Path(place), is_run
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def read_run(path: Path, locked: frozenset[int] | None = None, job: Planned | None = None) -> Run:
    """One folder, whatever its files look like.

    Args:
        locked: inodes of files that some process on this machine holds a lock on; None if nobody can say.
        job: what a sweep has planned there, or None.
    """
    damaged = []
    read: dict[str, dict[str, Any]] = {}
    for name in ("config", "overrides", "result", "status", "data"):
        try:
            read[name] = read_json(path / f"{name}.json", _SHAPES.get(name, dict))
        except FileNotFoundError:
            continue
        except (OSError, DamagedFile) as error:
            reason = error.reason if isinstance(error, DamagedFile) else error
            damaged.append(f"{name}.json cannot be read ({reason})")
    result = read.get("result")
    written = 0.0
    is_planned = job is not None and not damaged and "config" not in read and "result" not in read
    if job is not None and is_planned:
        written = job.written
        read |= {"config": dict(job.config), "overrides": {"overrides": job.overrides, "command": job.command}}
    if "config" not in read and not any(words.startswith("config") for words in damaged):
        damaged.append("config.json is missing")
    overrides = read.get("overrides", {}).get("overrides") or []
    provenance = read.get("data", {}).get("provenance")
    state, detail = ("damaged", "; ".join(damaged)) if damaged else _state(path, result, read.get("status"), locked)
    if is_planned and "status" not in read:
        state, detail = NOT_STARTED, ""
    changed = [_mtime(path / name) for name in ("result.json", "metrics.jsonl", "config.json", "log.txt")]
    return Run(
        path=path,
        config=read.get("config", {}),
        result=None if damaged else result,
        state=state,
        detail=detail,
        provenance=provenance if isinstance(provenance, dict) else {},
        command=str(read.get("overrides", {}).get("command", "")),
        overrides=tuple(map(str, overrides)),
        changed=changed[0] or _number(read.get("status", {}).get("updated")) or max(changed) or written or _mtime(path),
    )


def word(value: Any) -> str:
    """A configuration's value as the command line spells it: `null`, `true`, `0.001`, `[1,2]`."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, separators=(",", ":"))


def selected(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs for which every `KEY=VALUE[,VALUE...]` holds.

    Raises:
        ConfigurationError: a condition without `=`, a key that no run has, or nothing left.
    """
    for condition in conditions:
        key, equals, values = condition.partition("=")
        if not equals:
            raise ConfigurationError(f"--where takes KEY=VALUE, and {condition!r} has no '='.")
        check_keys([key], runs, BESIDE_KEYS)
        kept = [run for run in runs if word(run.value(key)) in (values, *values.split(","))]
        if not kept:
            there = ", ".join(sorted({word(run.value(key)) for run in runs}))
            raise ConfigurationError(f"no run has {condition}; the runs have {key} = {there}.")
        runs = kept
    return list(runs)


def check_keys(keys: Iterable[str], runs: Sequence[Run], besides: Sequence[str] = ()) -> None:
    """Refuse a key that no run's configuration has, with the one that may be meant."""
    known = {key for run in runs for key in (*run.choices, *run.flat)} | set(besides)
    for key in keys:
        if key in known:
            continue
        inside = sorted(name for name in known if name.startswith(f"{key}."))
        if inside:
            raise ConfigurationError(f"{key} is not one value; it has {', '.join(inside[:8])}.")
        import difflib

        ends_alike = sorted(name for name in known if name.rpartition(".")[2] == key)
        near = ends_alike[:3] or difflib.get_close_matches(key, sorted(known), 1, 0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise ConfigurationError(f"no run has a key or group {key!r}{hint}")


def _state(
    path: Path, result: Mapping[str, Any] | None, status: Mapping[str, Any] | None, locked: frozenset[int] | None
) -> tuple[str, str]:
    """What a run is doing, by its status.json where it has one, else by what the other files say."""
    if result is not None:
        return "finished", ""
    lock = path / ".lock"
    is_held = None if locked is None else lock.exists() and lock.stat().st_ino in locked
    if status is None:
        if is_held:
            return "running", ""
        error = _last_error(path / "log.txt")
        return ("failed", error) if error else ("unfinished", "")
    state, error = str(status.get("state")), str(status.get("error") or "")
    progress = f"step {status.get('step')}/{status.get('steps')}"
    if state != "running":
        # "finished" is written after the result; without a result the file was lost, or the run begins again
        return ("unfinished", "no result.json") if state == "finished" else (state, error or progress)
    silence = time.time() - _number(status.get("updated"))
    is_alive = is_held if is_held is not None and status.get("host") == socket.gethostname() else silence < _SILENT_S
    return ("running", progress) if is_alive else ("killed", f"{progress}, silent for {duration(silence)}")


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`."""
    for unit, size, below in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < below * size:
            return f"{max(round(seconds / size), 0)} {unit}"
    return f"{round(seconds / 86400)} days"


def _last_error(log: Path) -> str:
    """The line that ended a run without status.json: the last of log.txt, if it is an error."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    _, ended, words = lines[-1].partition(" ERROR the run ended by ") if lines else ("", "", "")
    return words if ended else ""


def _locked_inodes() -> frozenset[int] | None:
    """Of files under a lock on this machine: to look, without taking the lock from a run that is just starting."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    return frozenset(int(line.split()[-3].rpartition(":")[2]) for line in lines if "FLOCK" in line)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
