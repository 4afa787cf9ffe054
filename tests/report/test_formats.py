"""metarun.report.formats: the same comparison in four spellings, each read back by what reads it."""

import csv
import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from metarun.report import formats
from metarun.report.comparison import compare
from metarun.report.runs import read_runs

from .made import sweep, write_run

SCORES = {5: [0.5, 0.6, 0.7, 0.8]}
NASTY = r"""a_b & 50% #1 {x} ~y^2 \z $5 <t> "q" |p| [c] *s* -- `g` é λ"""


@pytest.fixture
def swept(tmp_path):
    sweep(tmp_path)
    return compare(read_runs([tmp_path]))


@pytest.fixture
def nasty(tmp_path):
    """Labels that every format must escape, and a failed cell."""
    for seed in (0, 1):
        write_run(tmp_path, SCORES, seed=seed, name=f"n{seed}", **{"choices.optimizer": NASTY, "optimizer.lr": 0.5})
    write_run(tmp_path, SCORES, seed=0)
    (write_run(tmp_path, {}, seed=1) / "log.txt").write_text("x ERROR the run ended by OSError: 100% _full_\n")
    return compare(read_runs([tmp_path]), rows=["optimizer"])


def shown(comparison, width=200, *, is_terminal=False):
    stream = io.StringIO()
    colours = "truecolor" if is_terminal else None
    console = Console(file=stream, width=width, force_terminal=is_terminal, color_system=colours, highlight=False)
    formats.terminal(console, comparison)
    return stream.getvalue()


def cells(line: str, separator: str = "│") -> list[str]:
    return [cell.strip() for cell in line.strip(f"{separator} ").split(separator)]


# --- terminal --------------------------------------------------------------------------------------------------------


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


def test_a_terminal_of_80_columns_is_not_left(swept):
    text = shown(swept, 80, is_terminal=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b[" in text
    assert max(map(len, plain.splitlines())) <= 80


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
    for text in (shown(comparison), formats.markdown(comparison), formats.latex(comparison)):
        assert "never averaged or compared with each other" in text
        assert re.search(r"evaluation\.tasks: . in 1 run, . in 1 run", text)
    assert len({row["protocol"] for row in csv.DictReader(io.StringIO(formats.comma_separated(comparison)))}) == 2


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


# --- latex -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & c", r"a\_b \& c"),
        ("50% #1 $x", r"50\% \#1 \$x"),
        ("{x}", r"\{x\}"),
        ("\\", r"\textbackslash{}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("a ± b – c", r"a $\pm$ b -- c"),
        ("--steps", "-{}-steps"),
        ("---", "-{}-{}-"),
        ("[0,1] *", "{[}0,1{]} {*}"),
        ("é λ", "é {[}U+03BB{]}"),
    ],
)
def test_latex_escapes(text, escaped):
    assert formats.escaped(text) == escaped


def test_latex_has_the_structure_that_latex_wants(nasty):
    """Without a LaTeX: environments nest, every row has as many cells as its table has columns, no character is raw."""
    text = formats.latex(nasty)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    assert text.count(r"\begin{table}") == 3
    for alignment, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 2
        for row in rows:
            assert len(re.split(r"(?<!\\)&", row)) == len(alignment)
    content = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    without = re.sub(r"\\[a-zA-Z]+|\\[&%$#_{}\\]", "", content)
    assert not re.search(r"[%#_~^\\\"<>|]", without)
    depth = 0
    for letter in without:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert without.count("$") % 2 == 0


@pytest.mark.parametrize("which", ["swept", "nasty"])
def test_latex_compiles(which, request, tmp_path):
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("needs pdflatex: apt-get install --no-install-recommends texlive-latex-base")
    out = tmp_path / "latex"
    out.mkdir()
    (out / "table.tex").write_text(formats.latex(request.getfixturevalue(which)))
    (out / "main.tex").write_text("\\documentclass{article}\n\\begin{document}\n\\input{table}\n\\end{document}\n")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (out / "main.pdf").read_bytes().startswith(b"%PDF")
