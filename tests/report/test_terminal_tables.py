"""metarun.report.terminal_tables: what is on the screen at any width."""

import csv
import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from metarun.report import formats
from metarun.report.comparison import Comparison, compare
from metarun.report.latex import latex
from metarun.report.runs import read_runs
from metarun.report.tables import sections
from metarun.report.terminal_tables import print_tables

from .made import SCORES, comparison, sweep, write_run

SCREENS = Path(__file__).parent / "screens"


def shown(comparison: Comparison, width: int = 200, *, is_terminal: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None, highlight=False, record=True
    )
    print_tables(console, comparison)
    return console.export_text()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_the_terminal_shows_n_means_intervals_and_the_gap(swept):
    """The numbers of test_comparison, in percent: 51.5 and 63.0; T(2) 10 / sqrt(3) = 24.84, T(1) 10 = 127.06."""
    lines = shown(swept).splitlines()
    assert lines[0] == "glyphs test, 5-way, 1-shot, 4 tasks, 15 queries per class, batch norm transductive"
    rows = [cells(line) for line in lines if line.startswith("│")]
    assert rows[:3] == [
        ["algorithm", "seeds", "inner steps", "accuracy (%)", "± over seeds", "± over tasks"],
        ["fomaml", "3", "5", "51.5", "24.8", "1.3"],
        ["maml", "2 of 3", "5", "63.0", "127.1", "2.5"],
    ]
    assert rows[3:5] == [
        ["algorithm", "percentage points", "± over seeds", "± over tasks", "paired on"],
        ["maml", "+11.5", "0.0", "1.3", "4 tasks, seeds 0 2"],
    ]
    assert rows[5:] == [
        ["algorithm", "training", "ms a step", "memory added (MiB)", "parameters"],
        ["fomaml", "11.0 s", "10.0", "102", "1,000"],
        ["maml", "11.0 s", "10.0", "102", "1,000"],
    ]
    assert "- maml: seed 1 missing" in lines
    assert not [line for line in lines if line != line.rstrip() or "\x1b" in line]


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """Two keys to a row, a failed run with much to say, and differences: what 80 columns have no room for."""
    monkeypatch.chdir(tmp_path)
    for algorithm in ("fomaml", "maml"):
        for lr in (0.001, 0.01):
            for seed in (0, 1, 2):
                scores = [0.5 + lr + 0.01 * seed + 0.01 * task * (2 if algorithm == "maml" else 1) for task in range(4)]
                if (algorithm, lr, seed) != ("maml", 0.01, 1):
                    write_run(Path("runs"), {5: scores}, algorithm=algorithm, seed=seed, **{"optimizer.lr": lr})
    words = "CUDA out of memory: tried to allocate 1.5 GiB, and 1.2 GiB of 139 GiB are free"
    failed = write_run(Path("runs"), {}, algorithm="maml", seed=1, **{"optimizer.lr": 0.01})
    (failed / "log.txt").write_text(f"x ERROR the run ended by MemoryError: {words}\n")
    return comparison(Path("runs"), rows=["algorithm", "optimizer.lr"], baseline="maml, 0.001")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_screens(wide, width):
    """As text, to be looked at."""
    assert shown(wide, width, is_terminal=True) == (SCREENS / f"report-{width}.txt").read_text()


@pytest.mark.parametrize("columns", [(), ("inner_steps",)])
def test_nothing_is_broken_inside_of_a_word_or_a_number(wide, columns):
    """Every word of every entry and note is found whole, and no line but of one word is wider than the screen.

    A head may be broken at the dots of a key: `optimizer.` above `lr`.
    """
    found = comparison(Path("runs"), rows=["algorithm", "optimizer.lr"], columns=columns, baseline="maml, 0.001")
    tables = [table for section in sections(found) for table in section.tables]
    words = {word for table in tables for note in table.notes for word in note.split()}
    words |= {word for table in tables for row in table.rows for entry in row for word in entry.text.split()}
    words |= {word for table in tables for name in table.columns for word in name.split()}
    for width in range(30, 131):
        lines = shown(found, width, is_terminal=True).splitlines()
        assert all(len(line) <= width or " " not in line.strip() for line in lines), width
        there = {word for line in lines for word in line.split()}
        there |= {word.rstrip(",") for word in there}
        lost = {word for word in words - there if not {*re.split(r"(?<=\.)(?=[a-z])", word)} <= there}
        assert lost == set(), width


def test_a_number_is_not_broken_at_its_point(tmp_path):
    """Nor from its ±; a dotted key is, and a note's path is not."""
    write_run(tmp_path, {5: [0.5, 0.6]}, **{"evaluation.tasks": 2, "optimizer.lr": 0.00025})
    write_run(tmp_path, {5: [0.5, 0.8]}, **{"evaluation.tasks": 2, "optimizer.lr": 0.125})
    found = comparison(tmp_path, rows=["optimizer.lr"], columns=["algorithm"])
    lines = shown(found, 27, is_terminal=True).splitlines()
    assert "│ optimizer. │ algorithm │" in lines and "│ lr         │      maml │" in lines
    assert next(line for line in lines if "0.00025" in line) == "│ 0.00025    │  55.0 ± – │"
    assert "│            │     ± 9.8 │" in lines
    lines = shown(found, 24, is_terminal=True).splitlines()
    place = lines.index("optimizer.lr 0.00025")
    assert lines[place + 1 : place + 3] == ["  algorithm maml 55.0", "  ± – ± 9.8"]


def test_what_is_alike_in_every_row_is_said_once_where_room_is_scarce(wide):
    lines = shown(wide, 60, is_terminal=True).splitlines()
    place = lines.index("Cost of a run")
    assert lines[place + 1] == "- in every row: training 11.0 s, ms a step 10.0, memory"
    assert lines[place + 2] == "  added (MiB) 102, parameters 1,000"
    assert lines[place + 3] == ""


def test_how_to_get_differences_is_said_where_there_are_none(tmp_path):
    sweep(tmp_path)
    assert shown(comparison(tmp_path)).splitlines()[-1] == (
        "- paired differences to one of the rows: --baseline fomaml"
    )
    text = shown(comparison(tmp_path, baseline="fomaml"))
    assert "Differences to fomaml" in text and "--baseline" not in text
    for folder in tmp_path.glob("maml-*"):
        (folder / "result.json").unlink()  # one row of results is held against none
    assert "--baseline" in shown(comparison(tmp_path))
    assert "--baseline" not in shown(comparison(tmp_path, rows=["dataset"], columns=["algorithm"]))


def test_how_to_get_differences_can_be_pasted(wide):
    last = shown(comparison(Path("runs"), rows=["algorithm", "optimizer.lr"])).splitlines()[-1]
    wanted = shlex.split(last)[-1]
    assert wanted == "fomaml, 0.001"
    grid = comparison(Path("runs"), rows=["algorithm", "optimizer.lr"], baseline=wanted).grids[0]
    assert grid.baseline == ("fomaml", "0.001")


def test_an_empty_cell_says_missing_and_a_failed_one_failed(nasty):
    text = shown(nasty)
    assert "1 of 2" in text
    assert "adam: seed 1 failed (OSError: 100% _full_) in " in text


def test_published_figures_stand_beside_the_measured(tmp_path):
    write_run(tmp_path, SCORES, reference={"source": "A paper", "values": {"5": 0.987}, "differences": ""})
    rows = [cells(line) for line in shown(compare(read_runs([tmp_path]))).splitlines() if line.startswith("│")]
    assert (rows[0][-1], rows[1][-1]) == ("published", "98.7")


def test_parted_protocols_are_said_in_every_format(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(tmp_path, {5: [0.5, 0.6]}, name="b", **{"evaluation.tasks": 2})
    comparison = compare(read_runs([tmp_path]))
    for text in (shown(comparison), formats.markdown(comparison), latex(comparison)):
        assert "never averaged or compared with each other" in text
        assert re.search(r"evaluation\.tasks: . in 1 run, . in 1 run", text)
    assert len({row["protocol"] for row in csv.DictReader(io.StringIO(formats.comma_separated(comparison)))}) == 2
