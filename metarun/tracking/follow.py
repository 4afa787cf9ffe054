"""The process of one tracker: it reads a run's record while it is written, and hands it on (`metarun.tracking.guard`)."""

import json
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any

from metarun.configuration.instantiate import make
from metarun.files import read_json
from metarun.json_text import as_written, json_text
from metarun.tracking.base import RunInfo, Tracker, TrackerSettings, words
from metarun.tracking.jsonl import MetricsReader

_LOOK_S = 0.5  # how often the record is read
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def follow() -> int:
    """Open the tracker that standard input names, and follow the run's record until standard input says how the run ended.

    What there is to say goes to standard output, a line of JSON each; what libraries print goes where standard error goes.
    When standard input closes, whoever started this is gone, and so is this process, whatever it is doing.

    Returns:
        0; where the tracker has stopped before, the process ends at once.
    """
    said = _Said(os.fdopen(os.dup(1), "w", buffering=1))
    os.dup2(2, 1)
    for number in _SIGNALS:  # a cluster signals every process of a job; the run says when it is over
        signal.signal(number, lambda *_: None)
    logger = logging.getLogger("metarun")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(said)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    given = orders.get()
    tracker: Tracker | None = None
    try:
        folder = Path(given["run"]["folder"])
        tracker = _open(given, folder)
        end = _follow(tracker, MetricsReader(folder / "metrics.jsonl"), orders)
        if end["results"] is not None:
            tracker.summarize(as_written(json.loads(end["results"])))
        tracker.close(end["exit_code"])
        return 0
    except BaseException as error:  # SystemExit too: whatever it was, the run is told and goes on
        said.say({"stopped": words(error)})
        if tracker is not None and not isinstance(error, OSError):  # of a connection, which would be waited for again
            # What was sent until now should not look as if it were still going on.
            _close_quietly(tracker)
        os._exit(1)  # what its libraries would do at the end has no one to wait for it


def _open(given: dict[str, Any], folder: Path) -> Tracker:
    key = f"tracker.{given['name']}"
    settings: TrackerSettings = make({"tracker": {given["name"]: given["settings"]}}, key)
    told = given["run"] | {"folder": folder, "tags": tuple(given["run"]["tags"])}
    return settings.open(RunInfo(config=read_json(folder / "config.json"), **told))


def _follow(tracker: Tracker, record: MetricsReader, orders: "queue.Queue[dict[str, Any]]") -> dict[str, Any]:
    """Hand on each line of the record until the run has ended, and all that are there then; how it ended."""
    end: dict[str, Any] | None = None
    while end is None:
        for step, metrics in record.new():
            tracker.log(step, metrics)
        try:
            end = orders.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
    for step, metrics in record.new():
        tracker.log(step, metrics)
    return end


def _close_quietly(tracker: Tracker) -> None:
    try:
        tracker.close(1)
    except BaseException:  # it has failed before, and that was said
        return


def _listen(orders: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(1)


class _Said(logging.Handler):
    """What the tracker logs, for the run to show; of errors, which would end a command, a warning."""

    def __init__(self, to: IO[str]) -> None:
        super().__init__()
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        self.say({"level": min(record.levelno, logging.WARNING), "words": record.getMessage()})

    def say(self, content: dict[str, Any]) -> None:
        self._to.write(json_text(content) + "\n")
