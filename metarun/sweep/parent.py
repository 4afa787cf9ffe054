"""A job of a sweep on this machine ends when the process that started it does."""

import ctypes
import os
import signal
import sys

PARENT = "METARUN_PARENT"
"""Environment variable that tells a job which process started it."""
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> None:
    """Stop with a checkpoint when the process that runs the sweep is killed: nobody would be left to report to."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was gone before we asked
        raise SystemExit(128 + signal.SIGTERM)
