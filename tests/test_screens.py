"""tests.screens: what it takes for a broken word is one."""

import pytest
from rich.table import Table

from .screens import assert_screen, fits, no_broken_word, recorded, screen


def test_a_word_or_number_over_two_lines_is_found_and_a_whole_one_in_a_frame_is_not():
    wide = "┃ accuracy 93.4 ± 0.5 % ┃ outputs/run ┃"
    no_broken_word("│ accuracy\n│ 93.4 ±  │\n outputs/run", wide)
    no_broken_word("accuracy outputs/…", wide)
    no_broken_word("acc. 93.4", wide, {"acc."})
    for broken in ("accu\nracy", "93.\n4", "outputs/\nrun", "│accurac│", "93.…"):
        with pytest.raises(AssertionError, match="broken"):
            no_broken_word(broken, wide)


def test_a_line_that_is_too_long_is_found():
    fits("12345\n/a/long/path", 5, "/long/")
    with pytest.raises(AssertionError, match="wider than 5"):
        fits("123456", 5)


def test_a_screen_is_as_wide_as_asked_and_compared_whole():
    text = {}
    for width in (20, 60):
        table = Table()
        table.add_column("extraordinarily long heading", overflow="fold")
        table.add_row("1234567890123456789012")
        console = screen(width)
        console.print(table)
        text[width] = recorded(console)
        assert max(map(len, text[width].splitlines())) <= width
    with pytest.raises(AssertionError, match="broken"):
        no_broken_word(text[20], text[60])
    with pytest.raises(AssertionError, match="is missing"):
        assert_screen("no such screen", "")
