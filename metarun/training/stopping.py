"""Signals that ask a run to stop, as seen outside the training loop. Imports nothing heavy: it is wanted at once."""

import errno
import os
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What the training loop answers by a checkpoint. SIGHUP is a closed terminal; by SIGUSR1 or SIGUSR2 a cluster says that the
time is nearly up."""


class StoppedOutsideTraining(SystemExit):
    """A signal asked the process to stop while no step was at hand; what was on the disk stands."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.words = f"stopped by {signal.Signals(number).name}"


def stop_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """A handler for the time before and after training, when no step is at hand and the last checkpoint stands.

    The training loop puts its own in place of it, as it does with Python's.

    Raises:
        StoppedOutsideTraining: 128 + the signal's number is its code.
    """
    if number == signal.SIGHUP:
        leave_terminal()
    raise StoppedOutsideTraining(number)


@contextmanager
def answering_signals() -> Iterator[None]:
    """`stop_at_once` for every signal that would end the process without a word; not for those that somebody has ignored.

    Outside the main thread signals are somebody else's business.
    """
    quiet = []
    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, stop_at_once)
                quiet.append(number)
    except ValueError:  # not the main thread
        quiet.clear()
    try:
        yield
    finally:
        for number in quiet:
            signal.signal(number, signal.SIG_DFL)


def leave_terminal() -> None:
    """Let what is printed go nowhere where the terminal is gone: an error of the output would keep a run from its checkpoint."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
