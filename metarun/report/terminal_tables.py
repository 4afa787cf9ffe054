"""A comparison on a terminal of any width: as tables where they fit, row after row where they do not."""

import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from metarun.report.comparison import Comparison
from metarun.report.tables import Entry, Table, notes, sections

_STYLES = {
    "label": "bold cyan", "best": "bold green", "clear": "bold", "missing": "yellow", "failed": "bold red",
    "running": "blue",
}  # fmt: skip
_SPACES = re.compile(r"(?<=[^±] )(?!(?<=\d )[A-Za-z])")  # but not after ±, nor between a number and its unit
_BREAKS = re.compile(
    rf"{_SPACES.pattern}|(?<=[./,])(?=[A-Za-z_])"
)  # also inside of a dotted key, never inside of a number
_UNBROKEN = 12  # characters of an entry that stay on one line: `3:07 min`
_BORDERS = 3  # columns that each column of a table takes beside its text


def print_tables(console: Console, comparison: Comparison) -> None:
    """Print for a person; a pipe gets the same without colours. Nothing is broken inside of a word or a number."""
    for section in sections(comparison):
        _print(console, section.title, "bold reverse" if console.is_terminal else "")
        for table in section.tables:
            console.print()
            _print(console, table.title, "bold")
            _print_table(console, table)
            for note in table.notes:
                _print_note(console, note)
        console.print()
    for note in notes(comparison):
        _print_note(console, note, "yellow")
    _print_note(console, _hint(comparison))


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`, but for words that are longer: they stay whole."""
    lines = textwrap.wrap(
        text.replace("± ", "±\xa0"), max(width, 1), break_long_words=False, break_on_hyphens=False
    )  # it takes \xa0 for a letter
    return [line.replace("\xa0", " ") for line in lines]


def _hint(comparison: Comparison) -> str:
    """How to get differences, where there could be some."""
    rows = next((grid.row_labels for grid in comparison.grids if len(grid.row_labels) > 1), None)
    if rows is None or any(grid.baseline for grid in comparison.grids):
        return ""
    return f"paired differences to one of the rows: --baseline {shlex.quote(', '.join(rows[0]))}"


def _print(console: Console, text: str, style: str) -> None:
    for line in wrapped(text, console.width):
        console.print(Text(line, style), soft_wrap=True)


def _print_note(console: Console, note: str, style: str = "dim") -> None:
    """Wrapped with a hanging indent on a terminal, whole elsewhere."""
    if not note:
        return
    lines = wrapped(note, console.width - 2) if console.is_terminal else [note]
    console.print(Text("\n".join(f"{'- ' if number == 0 else '  '}{line}" for number, line in enumerate(lines)), style),
                  soft_wrap=True)  # fmt: skip


def _print_table(console: Console, table: Table) -> None:
    widths = _widths(table, console.width)
    if widths is None:
        table, alike = _without_alike(table)
        widths = _widths(table, console.width)
        _print_note(console, alike)
        if len(table.columns) == table.labels:
            return
    if widths is None:
        for row in table.rows:
            _print_row(console, table, row)
        return
    rich = RichTable(box=box.ROUNDED)
    for number, (name, width) in enumerate(zip(table.columns, widths, strict=True)):
        justify = "left" if number < table.labels else "right"
        rich.add_column(Text(_folded(_pieces(name), width)), justify=justify, width=width, overflow="fold")
    for row in table.rows:
        rich.add_row(*(_text(entry, width) for entry, width in zip(row, widths, strict=True)))
    console.print(rich, soft_wrap=not console.is_terminal, crop=False)


def _widths(table: Table, available: int) -> list[int] | None:
    """Of each column: as wide as its text, narrower where the table would be too wide; None if that is not enough."""
    columns = [
        [_pieces(name), *(pieces for row in table.rows for pieces in _entry_pieces(row[number]))]
        for number, name in enumerate(table.columns)
    ]
    least = [max(cell_len(piece.rstrip()) for pieces in column for piece in pieces) for column in columns]
    widths = [max(cell_len("".join(pieces)) for pieces in column) for column in columns]
    room = available - _BORDERS * len(widths) - 1
    if sum(least) > room:
        return None
    while sum(widths) > room:
        spare = [width - low for width, low in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return [
        max(cell_len(line) for pieces in column for line in _folded(pieces, width).split("\n"))
        for column, width in zip(columns, widths, strict=True)
    ]


def _without_alike(table: Table) -> tuple[Table, str]:
    """The table without the columns that say the same in every row, and a line that says it; "" where there are none."""
    alike = [
        number
        for number in range(table.labels, len(table.columns))
        if len({row[number] for row in table.rows}) == 1 < len(table.rows)
    ]
    if not alike:
        return table, ""
    said = ", ".join(f"{table.columns[number]} {table.rows[0][number].text}" for number in alike)
    kept = [number for number in range(len(table.columns)) if number not in alike]
    less = replace(
        table,
        columns=tuple(table.columns[number] for number in kept),
        rows=tuple(tuple(row[number] for number in kept) for row in table.rows),
    )
    return less, f"in every row: {said}"


def _print_row(console: Console, table: Table, row: Sequence[Entry]) -> None:
    """`algorithm maml, optimizer.lr 0.1`, and below it each number after its name."""
    named = list(zip(table.columns, row, strict=True))
    for line in wrapped(", ".join(f"{name} {entry.text}" for name, entry in named[: table.labels]), console.width):
        console.print(Text(line, _STYLES["label"]), soft_wrap=True)
    lines: list[Text] = []
    for name, entry in named[table.labels :]:
        pair = Text.assemble((f"{name} ", "dim"), (entry.text, _STYLES.get(entry.kind, "")))
        pair.append(f" ({entry.note})" if entry.note else "", "dim")
        if pair.cell_len + 2 <= console.width:
            parts, gap = [pair], "   "
        else:  # too long for any line: on lines of its own
            parts, gap = _split(pair), " "
            lines.append(Text("  ").append(parts.pop(0)))
        for part in parts:
            if lines and lines[-1].cell_len + len(gap) + part.cell_len <= console.width:
                lines[-1].append(gap).append(part)
            else:
                lines.append(Text("  ").append(part))
    for line in lines:
        console.print(line, soft_wrap=True)


def _split(text: Text) -> list[Text]:
    parts = list(text.divide([found.start() for found in _SPACES.finditer(text.plain)]))
    for part in parts:
        part.rstrip()
    return parts


def _text(entry: Entry, width: int) -> Text:
    text, *note = (_folded(pieces, width) for pieces in _entry_pieces(entry))
    shown = Text(text, _STYLES.get(entry.kind, ""))
    return shown.append(f"\n{note[0]}", "dim") if note else shown


def _entry_pieces(entry: Entry) -> list[list[str]]:
    """Of the text, and of the note where there is one."""
    texts = (entry.text, entry.note) if entry.note else (entry.text,)
    return [[text] if len(text) <= _UNBROKEN else _pieces(text) for text in texts]


def _pieces(text: str) -> list[str]:
    """What may stand on a line of its own."""
    return [piece for piece in _BREAKS.split(text) if piece] or [""]


def _folded(pieces: Sequence[str], width: int) -> str:
    lines = [""]
    for piece in pieces:
        if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
