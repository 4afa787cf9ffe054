"""The console that everything is printed on."""

import re
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text


def terminal(**options: Any) -> Console:
    """A console that prints what it is given as it is: paths and names may hold `[bold]` or `:name:`, which rich would read.

    What is set in colour or bold is a `Text`.

    Args:
        options: further ones of rich's `Console`, such as `stderr` and `width`.
    """
    return Console(highlight=False, markup=False, emoji=False, **options)


def is_live(console: Console) -> bool:
    """Whether something can be shown that changes: on a terminal, or in a notebook."""
    return console.is_terminal or (console.is_jupyter and not console.quiet)


def say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line of texts and (text, style) pairs; a command or a path in it is to be copied, and nothing is wrapped."""
    console.print(Text.assemble(*parts), soft_wrap=True)


def tell(console: Console, *parts: str | tuple[str, str], indent: int = 0) -> None:
    """Print sentences of texts and (text, style) pairs: on a terminal lines end at blanks, and a longer word stays whole.

    Off a terminal they are one line, which can be searched for.

    Args:
        indent: of the lines after the first.
    """
    text = Text.assemble(*parts)
    if not console.is_terminal:
        console.print(text, soft_wrap=True)
        return
    for paragraph in text.split("\n", allow_blank=True):
        for number, line in enumerate(_lines(paragraph, console.width, indent)):
            console.print(Text.assemble(" " * indent if number else "", line), soft_wrap=True)


def _lines(text: Text, width: int, indent: int) -> list[Text]:
    """Broken at blanks so that the first line has at most `width` characters, and each further one `indent` fewer."""
    offsets, start = [0], 0
    for word in re.finditer(r"\S+", text.plain):
        room = width if len(offsets) == 1 else width - indent
        if text.plain[start : word.start()].strip() and cell_len(text.plain[start : word.end()]) > room:
            start = word.start()
            offsets.append(start)
    lines = list(text.divide(offsets[1:]))
    for line in lines[:-1]:
        line.rstrip()
    return lines
