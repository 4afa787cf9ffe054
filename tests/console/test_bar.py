"""metarun.console.bar: one line of any width, what is left to do, and nothing left of it where the work was broken off."""

import io
import itertools

import pytest

from metarun.console.bar import BarLine, Clock, advancing, live
from metarun.console.terminal import terminal

from ..screens import recorded, screen


def line(width: int, forms, share: float = 0.5) -> str:
    console = screen(width)
    console.print(BarLine("testing", share, forms))
    return recorded(console).rstrip("\n").rstrip()


def test_the_fullest_form_that_leaves_room_for_a_bar_is_shown():
    """`testing`, a bar of at least 8, and the words, with a blank between: 9 characters and the words and the bar."""
    forms = [["a" * 10, "", "b" * 10], ["a" * 10], ["c" * 5]]
    assert line(9 + 8 + 22, forms, share=1.0) == f"testing {'━' * 8} {'a' * 10}  {'b' * 10}"
    assert line(9 + 8 + 21, forms).endswith(" " + "a" * 10) and "b" not in line(9 + 8 + 21, forms)
    assert line(9 + 8 + 9, forms).endswith(" ccccc")
    assert line(9 + 8 + 4, forms) == "ccccc"
    assert line(4, forms) == "ccc…"


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_the_bar_takes_what_the_words_leave(width):
    text = line(width, [["12/24"]])
    assert len(text) == width and text.count("━") + text.count("╸") in {(width - 14) // 2, (width - 13) // 2}


def test_the_time_to_go_is_at_the_mean_speed_of_this_attempt(monkeypatch):
    now = iter([100.0, 130.0, 130.0])
    monkeypatch.setattr("metarun.console.bar.time.perf_counter", lambda: next(now))
    clock = Clock(first=10)
    assert clock.remaining(10, 40) is None
    assert clock.remaining(25, 40) == 30.0  # 15 in 30 s, 15 to go
    assert clock.to_go(10, 40) == ""


def test_off_a_terminal_a_line_every_ten_seconds(monkeypatch, capsys):
    seconds = itertools.count(0.0, 2.0)  # each look at the clock is two seconds later
    monkeypatch.setattr("metarun.console.bar.time.perf_counter", lambda: next(seconds))
    with advancing(terminal(), "packing x") as advanced:
        for done in range(1, 13):
            advanced(done, 24)
    # the clock starts at 0, the first ten seconds at 2; call k looks at 2 + 2 k, and each line looks twice more: 18 s for 6 of 24,
    # 32 s for 11 of 24
    assert capsys.readouterr().out == "packing x: 6/24  0:54 to go\npacking x: 11/24  0:38 to go\n"
    with advancing(terminal(), "getting x", lambda done, total: f"{done:.0f} B") as advanced:
        for done in range(1, 7):
            advanced(done, 0)
    assert capsys.readouterr().out == "getting x: 6 B\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")])
def test_a_bar_is_taken_away_where_the_work_was_broken_off_and_the_cursor_is_shown(error):
    def work(fails: bool) -> str:
        console = terminal(file=(out := io.StringIO()), width=40, force_terminal=True, color_system=None, _environ={})
        try:
            with live(console, lambda: BarLine("training", 0.3, [["30 %"]])):
                if fails:
                    raise error
        except type(error):
            console.print("end")
        return out.getvalue()

    whole, broken = work(False), work(True)
    assert whole.endswith("30 %\n\x1b[?25h")
    assert broken.endswith("30 %\n\x1b[?25h\r\x1b[1A\x1b[2Kend\n")  # up a line, which is erased
