"""No tracker may slow, stop or fail a run: each is opened in a process of its own, which follows the run's record.

The process (`metarun.tracking.follow`) reads metrics.jsonl while the run writes it, and hands its lines to the tracker. The run
waits for it at the end alone, and for a limited time. So whatever a tracker and its libraries do - raise, hang, print, hold
Python's lock, end their process - costs the run a warning; and a run that goes on, or is sent later, has its first lines
handed over as its last.
"""

import contextlib
import json
import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metarun.json_text import json_text
from metarun.tracking.base import RunInfo, TrackerSettings

_GRACE_S = 5.0  # beyond the time that a tracker is given to end by itself
_STOPPED_S = 10.0  # a cluster that has told a run to stop kills it soon
_LOOK_S = 1.0

_logger = logging.getLogger(__name__)


class Follower:
    """One tracker in its own process. It never raises, and says at most once that the tracker has stopped."""

    def __init__(self, name: str, node: Mapping[str, Any], run: RunInfo, log: Path, limit_s: float | None):
        """Starts the process, and does not wait for it.

        Args:
            name: of the tracker, as in tracker=NAME.
            node: its settings in the configuration.
            log: where the process's own output goes.
            limit_s: how long it may take to end, once it is told to; None for as long as it likes.
        """
        self._name, self._run, self._limit_s = name, run, limit_s
        self._buffer = b""
        self.is_whole = True  # everything said so far has arrived
        self._process: subprocess.Popen[bytes] | None = None
        told = {key: value for key, value in asdict(run).items() if key != "config"}  # config.json has it
        told["folder"] = str(run.folder)
        try:
            with open(log, "ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "metarun", "_track"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C on the terminal is for the run
                )
            assert self._process.stdin is not None and self._process.stdout is not None
            for pipe in (self._process.stdin, self._process.stdout):
                os.set_blocking(pipe.fileno(), False)
        except OSError as error:
            self._stopped(f"its process cannot be started ({error.strerror or error})")
        self._tell({"name": name, "settings": dict(node), "run": told})

    def hear(self, wait_s: float = 0.0) -> bool:
        """Pass on what the process has to say; whether it is still there."""
        if self._process is None:
            return False
        assert self._process.stdout is not None
        if wait_s and not select.select([self._process.stdout], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self._process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for said in map(json.loads, lines):
            if "stopped" in said:
                self._stopped(said["stopped"])
            else:
                _logger.log(said["level"], "%s", said["words"])
        if not data:
            self._ended()
        return self._process is not None

    def end(self, exit_code: int, results: Mapping[str, float] | None) -> None:
        """Tell the process that the run has ended, and how."""
        self._tell({"exit_code": exit_code, "results": None if results is None else json_text(results)})

    def wait(self, since: float, at_most_s: float | None = None) -> None:
        """Wait until the process has ended; end it where it takes longer than it may since `since`."""
        limits = [limit for limit in (self._limit_s, at_most_s) if limit is not None]
        while self.hear(_LOOK_S):
            limit_s = min(limits, default=None) if self.is_whole else 0.0
            if limit_s is not None and time.monotonic() - since > limit_s + _GRACE_S:
                self._stopped(f"it did not end within {limit_s:g} s (tracker.{self._name}.finish_timeout_s)")
                self.kill()

    def kill(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()

    def _tell(self, order: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        try:
            line = json_text(order).encode() + b"\n"
            if os.write(self._process.stdin.fileno(), line) != len(line):
                raise BlockingIOError
        except OSError:  # it is gone, which `hear` finds, or reads nothing, which `wait` does
            self.hear()

    def _ended(self) -> None:
        """The process has closed its end: what is left of it is its status."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LOOK_S)
        status = self._process.returncode
        if status != 0:
            self._stopped(
                f"its process ended with status {status}" if status is not None else "its process fell silent"
            )
        self.kill()

    def _stopped(self, why: str) -> None:
        folder = self._run.folder
        if self.is_whole and self._run.is_sync:
            _logger.warning("%s is not sent to %s: %s", folder, self._name, why)
        elif self.is_whole:
            _logger.warning(
                "tracker %s stopped: %s. The local files in %s are complete; send them later: metarun sync %s --to %s",
                self._name,
                why,
                folder,
                shlex.quote(str(folder)),
                self._name,
            )
        self.is_whole = False


class GuardedTrackers:
    """The trackers of a run beside its record, as one `Tracker` that never raises."""

    def __init__(
        self,
        nodes: Mapping[str, Mapping[str, Any]],
        settings: Mapping[str, TrackerSettings],
        run: RunInfo,
        log: Path,
    ):
        """Starts them, and waits for none.

        Args:
            nodes: name of each tracker -> its settings in the configuration.
            settings: the same, as objects.
            run: what they are told.
            log: where what their libraries print goes.
        """
        self._followers = [Follower(name, nodes[name], run, log, settings[name].finish_timeout_s) for name in nodes]
        self._results: dict[str, float] | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Passes on what the trackers have to say: they read the metrics from the record themselves."""
        for follower in self._followers:
            follower.hear()

    def summarize(self, results: Mapping[str, float]) -> None:
        """Keeps the results for the end."""
        self._results = dict(results)

    def close(self, exit_code: int) -> None:
        """Tells each that the run has ended, and waits for all of them together."""
        followers, self._followers = self._followers, []
        since = time.monotonic()
        try:
            for follower in followers:
                follower.end(exit_code, self._results)
            for follower in followers:
                follower.wait(since, _STOPPED_S if exit_code > 128 else None)
        finally:  # after Ctrl-C nobody waits any more
            for follower in followers:
                follower.kill()
