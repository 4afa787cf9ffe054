"""What the package's parts log, in the words that a person is shown."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from metarun.console.terminal import tell

_WORDS = {logging.INFO: "note", logging.WARNING: "warning"}


@contextmanager
def shown(console: Console, *beside: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """Show on `console` what is logged inside the block: waiting for another process, files passed over, what went wrong.

    Errors are not shown: they end the command, whose last line they are. Nobody else hears of anything: Hydra's handlers
    would say it once more, in their own form.

    Args:
        beside: handlers that are given everything from INFO on, whatever is shown; closed afterwards.
        level: below this nothing is shown.
    """
    logger = logging.getLogger("metarun")
    handlers = [_ToConsole(console, level), *beside]
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


class LogFile(logging.FileHandler):
    """A log that a full disk costs its lines, which is said once, and the run nothing."""

    _is_whole = True

    def handleError(self, record: logging.LogRecord) -> None:
        """Say what is wrong, in place of logging's traceback."""
        error = sys.exc_info()[1]
        if self._is_whole and isinstance(error, OSError):
            self._is_whole = False
            logging.getLogger("metarun").warning("%s cannot be written: %s", self.baseFilename, error.strerror)
        elif not isinstance(error, OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; what it still holds back is lost where there is no room for it."""
        with contextlib.suppress(OSError):
            super().close()


class _ToConsole(logging.Handler):
    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno in _WORDS:
            with contextlib.suppress(OSError):  # a terminal or a pipe that is gone costs no run
                tell(self._console, (f"{_WORDS[record.levelno]}:", "yellow"), f" {record.getMessage()}")
