"""Rows of two cells under headings, for texts that are read and copied: no word is broken at any width."""

from collections.abc import Sequence
from textwrap import wrap

from rich.console import Console
from rich.text import Text

_LEAST = 20  # columns that the right cell has at least, however narrow the console is
_ROOM = 32  # of the console, that the left column leaves free


def heading(console: Console, title: str, note: str = "") -> None:
    """An empty line, and a title with a dim note behind it, or below where it is long."""
    console.print()
    fits = len(title) + 2 + len(note) <= console.width
    row(console, Text(title, "bold"), note, len(title) + 2 if fits else 4, indent=0, style="dim")


def columns(console: Console, rows: Sequence[tuple[str | Text, str]], *, limit: int | None = None) -> None:
    """Rows of a cell to copy and what is said of it.

    Args:
        limit: of the left column's width: a longer cell stands on a line of its own. By default two fifths of the console,
            and always so much less than the console that what is said has room.
    """
    limit = min(max(30, console.width * 2 // 5) if limit is None else limit, console.width - _ROOM)
    width = max((len(left) for left, _ in rows if len(left) <= limit), default=0) + 2
    for left, right in rows:
        is_long = len(left) > limit
        row(console, left if isinstance(left, Text) else Text(left, "cyan"), right, 4 if is_long else width)


def row(console: Console, left: Text, right: str, width: int, *, indent: int = 2, style: str = "") -> None:
    """Two cells: `left` in `width` columns, `right` wrapped in what remains; no blanks at line ends.

    Where `left` is wider, it stands on a line of its own.
    """
    start = indent + width
    lines = wrap(right, max(_LEAST, console.width - start), break_long_words=False, break_on_hyphens=False)
    if lines and len(left) + 2 <= width:
        left = Text.assemble(left, " " * (width - len(left)), (lines.pop(0), style))
    console.print(Text.assemble(" " * indent, left), soft_wrap=True)
    for line in lines:
        console.print(Text.assemble(" " * start, (line, style)), soft_wrap=True)


def paragraph(console: Console, text: str) -> None:
    """A text, wrapped; nothing in it is to be copied."""
    for line in wrap(text, max(_LEAST, console.width), break_long_words=False, break_on_hyphens=False):
        console.print(Text(line), soft_wrap=True)
