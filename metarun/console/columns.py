"""Tables for terminals of any width: headings are broken at blanks, lesser columns left out, words cut, and no number ever."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_FIXED_SPACE = "\u00a0"
"""Between words of a heading that belong together; printed as a blank."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column and what may be done to it where there is not room enough.

    Attributes:
        heading: broken at its blanks where it must be.
        cells: one for each row.
        left_out: columns with the largest number are left out first, and those with 0 never.
        least: narrower than this it is never made; None keeps it as wide as its cells.
        wraps: whether a cell goes on in a second line at a blank; one that may not is cut, with an ellipsis.
    """

    heading: str
    cells: Sequence[str | Text]
    justify: Literal["left", "right"] = "left"
    style: str = ""
    left_out: int = 0
    least: int | None = None
    wraps: bool = False

    @property
    def natural(self) -> int:
        """As wide as its cells; the heading may be wider."""
        return max((cell_len(str(cell)) for cell in self.cells), default=0)

    @property
    def narrowest(self) -> int:
        """What it needs at least, with its heading broken wherever that is possible."""
        cells = self.natural if self.least is None else min(self.natural, self.least)
        return max(cells, *(cell_len(word) for word in self.heading.split(" ")))


def table(columns: Sequence[Column], width: int, *, row_styles: Sequence[str] = (), is_framed: bool = True) -> Table:
    """A table of at most `width` characters, if that can be.

    Args:
        row_styles: one for each row, or none.
        is_framed: whether it has frames where there is room for them; else blanks stand between columns.
    """
    kept = list(columns)
    while not is_fitting(kept, width, box.SIMPLE_HEAD):
        least = max(kept, key=lambda column: column.left_out)
        if least.left_out == 0:
            break
        kept.remove(least)
    frame = box.HEAVY_HEAD if is_framed and is_fitting(kept, width, box.HEAVY_HEAD) else box.SIMPLE_HEAD
    return ruled(kept, width, frame, row_styles=row_styles)


def ruled(columns: Sequence[Column], width: int, frame: box.Box, *, row_styles: Sequence[str] = ()) -> Table:
    """A table of all these columns."""
    drawn = Table(box=frame)
    if frame is box.SIMPLE_HEAD:
        drawn.padding, drawn.pad_edge, drawn.show_edge = (0, 1, 0, 0), False, False
    widths = _widths(columns, width - _frame_width(len(columns), frame))
    for column, room in zip(columns, widths, strict=True):
        lines = textwrap.wrap(column.heading, room, break_long_words=False)
        drawn.add_column(
            Text("\n".join(lines).replace(_FIXED_SPACE, " ")),
            justify=column.justify,
            style=column.style,
            width=room,
            no_wrap=not column.wraps,
            overflow="ellipsis",
        )
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        drawn.add_row(*cells, style=row_styles[index] if row_styles else None)
    return drawn


def is_fitting(columns: Sequence[Column], width: int, frame: box.Box) -> bool:
    """Whether all these columns can stand side by side."""
    return sum(column.narrowest for column in columns) + _frame_width(len(columns), frame) <= width


def blocks(columns: Sequence[Column], width: int, num_keys: int, frame: box.Box) -> list[list[Column]]:
    """The columns as tables to be set below one another, each led by the first `num_keys` columns."""
    keys, rest = list(columns[:num_keys]), list(columns[num_keys:])
    found: list[list[Column]] = []
    for column in rest:
        if found and is_fitting([*found[-1], column], width, frame):
            found[-1].append(column)
        else:
            found.append([*keys, column])
    return found or [keys]


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """How wide each is: the narrowest, and what is left over goes to cells, those first that would wrap, then to headings."""
    widths = [column.narrowest for column in columns]
    numbered = list(enumerate(columns))
    wanted = [(i, column.natural) for i, column in sorted(numbered, key=lambda pair: not pair[1].wraps)]
    for i, width in wanted:
        widths[i] += max(0, min(width - widths[i], room - sum(widths)))
    for i, column in numbered:
        more = cell_len(column.heading) - widths[i]
        if 0 < more <= room - sum(widths):
            widths[i] += more
    return widths


def _frame_width(count: int, frame: box.Box) -> int:
    return 2 * count - 2 if frame is box.SIMPLE_HEAD else 3 * count + 1
