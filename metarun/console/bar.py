"""A line of progress: as a bar that fits any width on a terminal, as plain lines every ten seconds elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metarun.console.notebook import shown_in_notebook
from metarun.console.terminal import is_live
from metarun.console.words import clock_words

LINE_EVERY_S = 10.0
_LEAST_BAR = 8


class Clock:
    """When the work began, and how much of it was done by then."""

    def __init__(self, first: float = 0.0) -> None:
        self.started, self.first = time.perf_counter(), first

    @property
    def elapsed(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self.started

    def remaining(self, done: float, total: float) -> float | None:
        """Seconds to go at the mean speed so far; None before anything is done.

        Pieces of work are alike, so the mean is steadier than a window.
        """
        new = done - self.first
        return self.elapsed * (total - done) / new if new > 0 else None

    def to_go(self, done: float, total: float) -> str:
        """`3:07 to go`; "" before anything is done, and when all is."""
        seconds = self.remaining(done, total)
        return "" if seconds is None or done >= total else f"{clock_words(seconds)} to go"


class BarLine:
    """`label ━━━━ words`: one line of whatever width there is.

    Args:
        share: of the bar, from 0 to 1.
        forms: the words after the bar, in columns, from the fullest form to the shortest; the first that leaves room for a
            bar is shown, and where none does the shortest without one.
    """

    def __init__(self, label: str, share: float, forms: Sequence[Sequence[str]]) -> None:
        self._label, self._share, self._forms = label, share, forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line."""
        width = options.max_width
        texts = ["  ".join(filter(None, form)) for form in self._forms]
        for text in texts:
            room = width - cell_len(self._label) - cell_len(text) - 2
            if room >= _LEAST_BAR:
                line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
                bar = ProgressBar(total=1.0, completed=self._share, width=room)
                line.add_row(Text(self._label, "bold"), bar, Text(text))
                yield line
                return
        yield Text(texts[-1], no_wrap=True, overflow="ellipsis")


def _counted(done: float, total: float) -> str:
    return f"{done:,.0f}/{total:,.0f}" if total else f"{done:,.0f}"


@contextmanager
def advancing(
    console: Console,
    label: str,
    amount: Callable[[float, float], str] = _counted,
) -> Iterator[Callable[..., None]]:
    """A function to call with (done, total) and, if one likes, words: a bar on a terminal that goes when the work is done.

    Args:
        amount: done and total in words; a total of 0 is not known.
    """
    clock, last_line = Clock(), time.perf_counter()
    state: tuple[float, float, str] = 0.0, 0.0, ""

    def line() -> BarLine:
        done, total, words = state
        short = [amount(done, total) if total or done else "", clock.to_go(done, total) if total else ""]
        return BarLine(label, done / total if total else 0.0, [[words, *short], short])

    def advanced(done: float, total: float, words: str = "") -> None:
        nonlocal state, last_line
        state = done, total, words
        if not is_live(console) and time.perf_counter() - last_line > LINE_EVERY_S:
            last_line = time.perf_counter()
            ending = f"  {clock.to_go(done, total)}" if total else ""
            console.print(f"{label}: {amount(done, total)}{f'  {words}' if words else ''}{ending}", soft_wrap=True)

    with live(console, line, is_transient=True):
        yield advanced


@contextmanager
def live(console: Console, shown: Callable[[], BarLine], *, is_transient: bool = False) -> Iterator[None]:
    """Show what `shown` gives, on a terminal four times a second, and in a notebook; nothing elsewhere.

    The last line stays unless `is_transient`, and never where the work was broken off: half a bar says nothing.
    """
    if not is_live(console):
        yield
        return
    if not console.is_terminal:
        with shown_in_notebook(shown):
            yield
        return
    view = Live(get_renderable=shown, console=console, refresh_per_second=4, transient=is_transient)
    with view:
        try:
            yield
        except BaseException:
            view.transient = True
            raise
