"""A tracker that fails as it is told; the processes of trackers import it by its bare name (`beside_us`)."""

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """At the call `at` (open, log, summarize, close; "" for none) it does `how`: raises, hangs, ends its process, prints."""

    at: str
    how: str
    finish_timeout_s: float

    def open(self, run):
        self.reached("open")
        return _Hostile(self)

    def reached(self, call: str) -> None:
        if call != self.at:
            return
        if self.how == "raise":
            raise RuntimeError("the pipe\nis broken.")
        if self.how == "hang":
            threading.Event().wait()
        if self.how == "exit":
            os._exit(7)
        if self.how == "leave":
            raise SystemExit(0)
        print("noise on standard output")
        print("noise on standard error", file=sys.stderr)


class _Hostile:
    def __init__(self, settings: Hostile) -> None:
        self._settings = settings

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._settings.reached("log")

    def summarize(self, results: Mapping[str, float]) -> None:
        self._settings.reached("summarize")

    def close(self, exit_code: int) -> None:
        self._settings.reached("close")


def beside_us(monkeypatch) -> None:
    """Let this process and those that it starts find the module `hostile`."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))
