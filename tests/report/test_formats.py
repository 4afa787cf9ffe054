"""metarun.report.formats: the same comparison as Markdown and as CSV, read back by what reads it."""

import csv
import io
import re

from metarun.report import formats
from metarun.report.comparison import compare
from metarun.report.runs import read_runs

from .made import NASTY, SCORES, write_run

# --- markdown --------------------------------------------------------------------------------------------------------


def test_markdown_tables_have_one_cell_for_each_column(nasty):
    lines = [line for line in formats.markdown(nasty).splitlines() if line.startswith("|")]
    widths = [len(re.split(r"(?<!\\)\|", line)) for line in lines]
    blocks = [line for line in lines if set(line) <= set("|:- ")]
    assert len(blocks) == 3
    assert set(widths[:4]) == {widths[0]}
    assert r"a\_b & 50% #1 {x} ~y^2 \\z $5 \<t\> " in lines[2]


def test_markdown_numbers(swept):
    lines = formats.markdown(swept).splitlines()
    assert "| fomaml | 3 | 5 | 51.5 | 24.8 | 1.3 |" in lines
    assert "| maml | **2 of 3** | 5 | **63.0** | 127.1 | 2.5 |" in lines
    assert "- maml: seed 1 missing" in lines


# --- csv -------------------------------------------------------------------------------------------------------------


def test_csv_keeps_every_digit(swept):
    fomaml, maml = csv.DictReader(io.StringIO(formats.comma_separated(swept)))
    (grid,) = swept.grids
    assert float(fomaml["mean"]) == grid.cells[0].estimate.mean
    assert float(maml["ci95_over_seeds"]) == grid.cells[1].estimate.over_seeds
    assert float(maml["difference_ci95_over_tasks"]) == grid.differences[0].estimate.over_tasks
    assert (maml["algorithm"], maml["seeds"], maml["planned_seeds"], maml["gap"]) == (
        "maml",
        "0 2",
        "3",
        "seed 1 missing",
    )
    assert (fomaml["difference"], fomaml["baseline"], fomaml["gap"]) == ("", "fomaml", "")
    costs = ("train_s", "peak_memory_mib", "training_memory_mib")
    assert [float(maml[key]) for key in costs] == [11.0, 302.0, 102.0]


def test_csv_states_each_cells_own_protocol(tmp_path):
    for shots in (1, 5):
        write_run(tmp_path, SCORES, **{"dataset.shots": shots, "evaluation.shots": shots})
    comparison = compare(read_runs([tmp_path]), columns=["dataset.shots"])
    rows = csv.DictReader(io.StringIO(formats.comma_separated(comparison)))
    assert [(row["dataset.shots"], row["protocol"].split(", ")[2]) for row in rows] == [
        ("1", "1-shot"),
        ("5", "5-shot"),
    ]


def test_csv_of_labels_with_commas_and_quotes(nasty):
    rows = list(csv.DictReader(io.StringIO(formats.comma_separated(nasty))))
    assert {row["optimizer"] for row in rows} == {NASTY, "adam"}
