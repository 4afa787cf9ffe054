"""What the package's parts log, in the words that a person is shown."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

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


class _ToConsole(logging.Handler):
    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno in _WORDS:
            # as text: a path may hold what rich takes for markup
            text = Text.assemble((f"{_WORDS[record.levelno]}:", "yellow"), f" {record.getMessage()}")
            self._console.print(text, soft_wrap=True)
