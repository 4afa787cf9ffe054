"""Screens kept as text: what a command prints at a width, compared to tests/screens/NAME.txt.

`METARUN_SCREENS=write pytest ...` writes the files anew; look at them before they are committed.
"""

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from metarun.console.terminal import terminal

FOLDER = Path(__file__).resolve().parent / "screens"
WIDTHS = (60, 80, 120)
_FRAME = re.compile(r"[\u2500-\u257f]")  # box-drawing characters: frames, rules, bars
_CUT_TEXT = re.compile(r"(?![-+±.]*\d).*…")  # an ellipsis after what is no number


def screen(width: int) -> Console:
    """A console that records, of a terminal of this width: `recorded` gives its text."""
    return terminal(
        file=io.StringIO(),
        width=width,
        height=40,
        force_terminal=True,
        color_system=None,
        record=True,
        legacy_windows=False,
    )


def recorded(console: Console) -> str:
    """Everything that was printed so far, without colours."""
    return console.export_text(clear=False)


@contextmanager
def commands_on(width: int) -> Iterator[Callable[[], str]]:
    """Whatever is printed inside, by commands that make their consoles themselves, is on one recorded terminal.

    Bars and tables that renew themselves are left out but for what stays of them at the end.

    Yields:
        A function that gives the text so far.
    """
    console = screen(width)

    def stopped(view: Live) -> None:
        if not view.transient:
            console.print(view.get_renderable())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarun.console.terminal.Console", lambda **options: console)
        patch.setattr(Live, "start", lambda view, refresh=False: None)
        patch.setattr(Live, "stop", stopped)
        yield lambda: recorded(console)


def assert_screen(name: str, text: str, fake: Mapping[str, str] | None = None) -> str:
    """`text` is the screen that tests/screens holds as NAME.txt, which is given back.

    Args:
        fake: what varies (a path, a time) -> what the file has in its place. A path is best made as long as what stands for
            it, or what is wrapped depends on the machine.
    """
    for varying, constant in (fake or {}).items():
        text = text.replace(varying, constant)
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    path = FOLDER / f"{name}.txt"
    if os.environ.get("METARUN_SCREENS") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing: METARUN_SCREENS=write writes it"
    assert text == path.read_text(encoding="utf-8")
    return text


def words_of(text: str) -> Counter[str]:
    """What stands between blanks, frames left out."""
    return Counter(_FRAME.sub(" ", text).split())


def no_broken_word(narrow: str, wide: str, shortened: frozenset[str] | set[str] = frozenset()) -> None:
    """Every word of a narrow screen stands on the wide one, too: none was broken over two lines, no number was cut.

    A narrow form may leave words out, or end one in an ellipsis; no number may end so.

    Args:
        shortened: further words that the narrow form has of its own.
    """
    known = {*words_of(wide), *shortened}
    broken = sorted(word for word in words_of(narrow) if word not in known and not _CUT_TEXT.fullmatch(word))
    assert not broken, f"broken or unknown: {broken}"


def fits(text: str, width: int, *copied: str) -> None:
    """No line is longer than the terminal, but those with something to be copied, which is never broken by us.

    Args:
        copied: a line that holds one of these may be longer, such as a path or a command.
    """
    wide = [line for line in text.splitlines() if len(line) > width and not any(part in line for part in copied)]
    assert not wide, f"wider than {width}: {wide}"


def left_on_terminal(sent: str) -> tuple[list[str], bool]:
    """What stays on a terminal that was sent these characters, as rich sends them; and whether its cursor is shown."""
    lines, row, column, is_shown = [""], 0, 0, True
    for escape, letter in re.findall(r"\x1b\[([0-9;?]*[A-Za-z])|([^\x1b])", sent.replace("\r\n", "\n")):
        if escape in ("?25h", "?25l"):
            is_shown = escape == "?25h"
        elif escape == "2K":
            lines[row] = ""
        elif escape.endswith("A"):
            row = max(0, row - int(escape[:-1] or 1))
        elif letter == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif letter == "\r":
            column = 0
        elif letter:
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines], is_shown
