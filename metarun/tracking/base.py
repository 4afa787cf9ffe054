"""Where a run's numbers go: the protocol, and the trackers that need nothing but Python.

The local metrics.jsonl (`metarun.tracking.jsonl`) is the record and is always written. Others are chosen by `tracker=...`;
they may raise and hang as they like, as each is opened in a process of its own (`metarun.tracking.guard`).
"""

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

_MAX_WORDS = 300  # characters


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker is told about a run.

    `config` is nested and resolved; `run_id` must depend on the run's folder alone, so that a requeued job continues
    the same remote run.

    Attributes:
        group: the sweep that the run belongs to, if any.
        is_new: the run begins at its first step, so that what a tracker holds of it is of an earlier one in this folder.
        is_sync: the run has ended, and its record is sent later: a place that cannot be reached is an error.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    group: str | None
    job_type: str
    tags: tuple[str, ...]
    run_id: str
    is_new: bool = False
    is_sync: bool = False


def run_id_of(folder: Path, fingerprint: str) -> str:
    """What the run in a folder is called by its trackers: the same however often it is begun there."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8] + fingerprint[:8]


def identity(run: RunInfo) -> dict[str, Any]:
    """What a run is called by its trackers, for its folder: `metarun sync` finds the same run by it."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "group": run.group,
        "job_type": run.job_type,
        "tags": list(run.tags),
    }


class Tracker(Protocol):
    """One sink of one run's numbers."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of one outer step.

        A tracker that was opened for a run that goes on is given all its steps once more, from the first, and passes over
        those that it holds.
        """

    def summarize(self, results: Mapping[str, float]) -> None:
        """Records the run's final results."""

    def close(self, exit_code: int) -> None:
        """Ends the run: 0 for success, anything else for failure."""


@runtime_checkable
class TrackerSettings(Protocol):
    """What `conf/tracker/*.yaml` describes: settings from which a run's tracker is opened."""

    @property
    def finish_timeout_s(self) -> float:
        """How long the end of a run waits for the tracker; then it is left behind."""
        ...

    def open(self, run: RunInfo) -> Tracker:
        """A tracker for this run; raises what keeps it from being one."""
        ...


class NullTracker:
    """Keeps nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def summarize(self, results: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self, exit_code: int) -> None:
        """Does nothing."""


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """`tracker=none`: local files only."""

    finish_timeout_s = 0.0

    def open(self, run: RunInfo) -> NullTracker:
        """A tracker that keeps nothing."""
        return NullTracker()


class TeeTracker:
    """Hands every call to several trackers, in order. An error of one of them reaches the caller."""

    def __init__(self, trackers: tuple[Tracker, ...]):
        self._trackers = tuple(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs to each tracker."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def summarize(self, results: Mapping[str, float]) -> None:
        """Summarizes to each tracker."""
        for tracker in self._trackers:
            tracker.summarize(results)

    def close(self, exit_code: int) -> None:
        """Closes every tracker, in order, also when one of them raises; the error then reaches the caller."""
        with contextlib.ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.close, exit_code)


def flat_results(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of result.json for a tracker's summary: test/<score>, test/<score>_after_<inner steps>."""
    score, headline = result["score"], result["results"][-1]
    flat = {f"test/{score}": headline[score]["mean"], f"test/{score}_ci95": headline[score]["ci95"]}
    flat["test/diverged"] = len(headline["diverged"])
    for row in result["results"]:
        flat[f"test/{score}_after_{row['inner_steps']}"] = row[score]["mean"]
    return {name: float("nan") if number is None else number for name, number in flat.items()}


def require_extra(extra: str, *packages: str) -> None:
    """Refuse a tracker whose packages are not installed; imports none of them.

    Raises:
        ImportError: in one line that names the extra.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"{missing[0]} is not installed: pip install 'metarun[{extra}]', or leave this tracker out")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`: what a tracker's tables can sort and filter by."""
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def words(error: BaseException) -> str:
    """The error on one line, without a full stop; its type where it says nothing. Of a long one (SQL) the beginning."""
    line = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return line if len(line) <= _MAX_WORDS else f"{line[:_MAX_WORDS]} ..."
