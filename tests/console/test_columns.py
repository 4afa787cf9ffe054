"""metarun.console.columns: a table at any width breaks no word, cuts no number, and leaves out what it may in its order."""

import pytest
from rich import box

from metarun.console.columns import Column, blocks, is_fitting, table

from ..screens import fits, no_broken_word, recorded, screen

COLUMNS = (
    Column(heading="inner steps", cells=["0", "10"], justify="right"),
    Column(heading="accuracy (95\u00a0%\u00a0interval)", cells=["93.4 ± 0.5 %", "100.0 ± 0.0 %"], justify="right"),
    Column(heading="std over tasks", cells=["5.1 %", "15.1 %"], justify="right", left_out=1),
    Column(heading="median", cells=["95.0 %", "100.0 %"], justify="right", left_out=2),
    Column(heading="error", cells=["the machine is on fire", ""], least=8),
    Column(heading="run", cells=["algorithm=maml seed=0", "seed=1"], least=14, wraps=True),
)


def drawn(width: int, columns=COLUMNS, **how) -> str:
    console = screen(width)
    console.print(table(columns, width, **how))
    return recorded(console)


def test_at_every_width_words_and_numbers_are_whole():
    """Down to the narrowest form: 5 + 15 + 8 + 14 characters of cells and 3 * 2 blanks between four columns."""
    wide = drawn(200)
    for width in range(48, 200):
        text = drawn(width)
        fits(text, width)
        no_broken_word(text, wide)
    assert "93.4 ± 0.5 %" in text and "100.0 ± 0.0 %" in drawn(48)


def test_what_is_left_out_goes_in_its_order_and_frames_go_before_it():
    def heads(width: int) -> tuple[bool, bool, bool]:
        text = drawn(width)
        return "median" in text, "tasks" in text, "┃" in text

    # 5 + 15 + 6 + 7 + 8 + 14 characters of cells; frames take 3 for each of 6 columns and 1, blanks 2 between two columns
    assert heads(55 + 19) == (True, True, True)
    assert heads(55 + 18) == (True, True, False)
    assert heads(55 + 10) == (True, True, False)
    assert heads(48 + 16) == (False, True, True)
    assert heads(42 + 13) == (False, False, True)
    assert heads(42 + 12) == (False, False, False)


def test_headings_are_on_one_line_where_there_is_room_and_broken_at_blanks_where_there_is_none():
    assert "inner steps ┃ accuracy (95 % interval)" in drawn(200)
    lines = drawn(74).splitlines()
    assert [line.split("┃")[1].strip() for line in lines[1:4]] == ["", "inner", "steps"]
    assert [line.split("┃")[2].strip() for line in lines[1:4]] == ["", "accuracy", "(95 % interval)"]


def test_a_cell_that_may_be_cut_ends_in_an_ellipsis_and_one_that_wraps_in_another_line():
    lines = drawn(48).splitlines()
    assert lines[3].split("  ")[-2:] == ["the mac…", "algorithm=maml"]
    assert lines[4].strip() == "seed=0"


def test_without_frames_and_with_a_style_for_each_row():
    plain = drawn(200, is_framed=False)
    assert "┃" not in plain and plain.splitlines()[1] == "─" * len(plain.splitlines()[1])
    styled = table(COLUMNS, 200, row_styles=["", "bold"])
    assert [row.style for row in styled.rows] == ["", "bold"]


@pytest.mark.parametrize(("width", "sizes"), [(50, [5]), (49, [4, 1]), (31, [2, 2, 1]), (22, [1] * 5), (1, [1] * 5)])
def test_a_table_goes_on_below_itself_under_the_same_keys(width, sizes):
    """Keys of 5 and 3 characters, five columns of 6, and 2 blanks between two: 8 + 2 + 8 * n."""
    keys = [Column(heading="steps", cells=["16"]), Column(heading="by", cells=["fwd"])]
    rest = [Column(heading=f"{k} CG", cells=["0.1234"]) for k in range(5)]
    parts = blocks([*keys, *rest], width, 2, box.SIMPLE_HEAD)
    assert [len(part) - 2 for part in parts] == sizes
    assert all(part[:2] == keys for part in parts)
    assert [column for part in parts for column in part[2:]] == rest
    assert all(is_fitting(part, width, box.SIMPLE_HEAD) for part in parts) == (width >= 18)
