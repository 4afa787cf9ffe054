"""The console that everything is printed on."""

from typing import Any

from rich.console import Console
from rich.text import Text


def terminal(**options: Any) -> Console:
    """A console that prints what it is given as it is: paths and names may hold `[bold]` or `:name:`, which rich would read.

    What is set in colour or bold is a `Text`.

    Args:
        options: further ones of rich's `Console`, such as `stderr` and `width`.
    """
    return Console(highlight=False, markup=False, emoji=False, **options)


def say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line of texts and (text, style) pairs; nothing in it that is to be copied is wrapped."""
    console.print(Text.assemble(*parts), soft_wrap=True)
