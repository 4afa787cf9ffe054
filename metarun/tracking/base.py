"""Where a run's numbers go: the protocol, and the trackers that need nothing but Python.

The local metrics.jsonl (`metarun.tracking.jsonl`) is the record and is always written. W&B is a second
tracker, chosen by `tracker=...`; losing it must never cost a run.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker is told about a run.

    `config` is nested and resolved; `run_id` must depend on the run's folder alone, so that a requeued job continues
    the same remote run.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    group: str | None
    job_type: str
    tags: tuple[str, ...]
    run_id: str


class Tracker(Protocol):
    """One sink of one run's numbers."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of one outer step."""

    def summarize(self, results: Mapping[str, float]) -> None:
        """Records the run's final results."""

    def close(self, exit_code: int) -> None:
        """Ends the run: 0 for success, anything else for failure."""


class TrackerSettings(Protocol):
    """What `conf/tracker/*.yaml` describes: settings from which a run's tracker is opened."""

    def open(self, run: RunInfo) -> Tracker:
        """A tracker for this run. Never raises because a service is missing."""
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
