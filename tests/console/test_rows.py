"""Rows of two cells, at several widths."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from metarun.console.rows import columns, heading, paragraph

ROWS = [("short", "what it is, in several words"), ("a.rather.long.name=value", "and more"), ("bare", "")]


def printed(width: int, show) -> list[str]:
    stream = io.StringIO()
    show(Console(file=stream, width=width, highlight=False))
    return stream.getvalue().splitlines()


def test_columns_are_aligned_where_both_fit() -> None:
    assert printed(80, lambda console: columns(console, ROWS)) == [
        "  short                     what it is, in several words",
        "  a.rather.long.name=value  and more",
        "  bare",
    ]


def test_what_is_long_stands_alone() -> None:
    assert printed(50, lambda console: columns(console, ROWS)) == [
        "  short  what it is, in several words",
        "  a.rather.long.name=value",
        "      and more",
        "  bare",
    ]


def test_the_right_cell_is_wrapped_in_its_column() -> None:
    assert printed(41, lambda console: columns(console, [("x", "words " * 12)])) == [
        "  x  words words words words words words",
        "     words words words words words words",
    ]


def test_a_heading_has_its_note_behind_or_below() -> None:
    assert printed(40, lambda console: heading(console, "Keys", "all of them")) == ["", "Keys  all of them"]
    assert printed(14, lambda console: heading(console, "Keys", "all of them")) == ["", "Keys", "    all of them"]
    assert printed(40, lambda console: heading(console, "Keys")) == ["", "Keys"]


@pytest.mark.parametrize("width", [20, 60, 80])
def test_no_word_is_broken_and_markup_is_not_read(width: int) -> None:
    words = "[bold]well[/bold] :smile: " + "x" * 30 + " re-entrant end"
    lines = printed(width, lambda console: (paragraph(console, words), columns(console, [(Text("[b]"), words)])))
    assert " ".join(lines).split() == [*words.split(), "[b]", *words.split()]
