"""Signals that ask a run to stop, as the training loop answers them: after the step at hand."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metarun.training.stopping import STOP_SIGNALS, leave_terminal, stop_at_once


class Stopped(Exception):
    """A signal asked the run to stop; a checkpoint has been written."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}")
        self.signal_number = signal_number
        self.step = step


class Interrupted(BaseException):
    """A signal came while nothing was done that must be finished; not an `Exception`, as libraries catch those."""


class StopRequests(list[int]):
    """The signals that have come, in their order."""

    is_interrupting = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises `Interrupted`: for what takes long and leaves nothing half done."""
        self.is_interrupting = True
        try:
            yield
        finally:
            self.is_interrupting = False


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """A list that STOP_SIGNALS append to. A second SIGINT interrupts at once.

    A second SIGTERM does not: Slurm sends it to the step and to the batch script, whose `srun` passes it on.
    Handlers that somebody else has set (a cluster's launcher) are left in place; so is everything outside the main thread.
    """
    requests = StopRequests()

    def request(number: int, _frame: object) -> None:
        requests.append(number)
        if number == signal.SIGHUP:
            leave_terminal()
        if number == signal.SIGINT:
            signal.signal(number, previous[number])
        if requests.is_interrupting:
            raise Interrupted

    previous: dict[int, Any] = {}
    try:
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler, stop_at_once):
                signal.signal(number, request)
                previous[number] = handler
    except ValueError:  # not the main thread: signals are somebody else's business
        previous.clear()
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
