"""Signals that ask a run to stop, as seen outside the training loop. Imports nothing heavy: it is wanted at once."""

import signal
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What the training loop answers by a checkpoint; SIGUSR2 is how a cluster says that the time is nearly up."""


def stop_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """A handler for the time before and after training, when no step is at hand and the last checkpoint stands.

    The training loop puts its own in place of it, as it does with Python's.

    Raises:
        SystemExit: 128 + the signal's number.
    """
    raise SystemExit(128 + number)
