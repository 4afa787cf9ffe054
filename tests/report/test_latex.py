"""metarun.report.latex: one table that compiles, with each number where it belongs."""

import re
import shutil
import subprocess

import pytest

from metarun.report.latex import escaped, latex

from .made import SCORES, comparison, write_run


@pytest.mark.parametrize(
    ("text", "spelled"),
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
def test_latex_escapes(text, spelled):
    assert escaped(text) == spelled


def test_latex_has_the_structure_that_latex_wants(nasty):
    """Without a LaTeX: environments nest, every row has as many cells as its table has columns, no character is raw."""
    text = latex(nasty)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    assert text.count(r"\begin{table}") == text.count(r"\caption{") == 1
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


def test_a_cell_holds_a_mean_and_its_interval(swept):
    """The numbers of test_comparison: over seeds by default, the gap beside the count, the better mean in bold."""
    assert latex(swept).splitlines() == [
        r"% Made by metarun report. It needs \usepackage{booktabs}.",
        "% batch norm is transductive: query examples share batch statistics; batch_norm=support does without",
        "% maml: seed 1 missing",
        r"\begin{table}[htbp]",
        r"\centering",
        r"\caption{glyphs test, 5-way, 1-shot, 4 tasks, 15 queries per class, batch norm transductive: accuracy (\%), "
        r"mean $\pm$ 95 \% interval over training seeds.}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"algorithm & seeds & accuracy (\%) & less fomaml \\",
        r"\midrule",
        r"fomaml & 3 & $51.5 \pm 24.8$ & -- \\",
        r"maml & 2 of 3 & $\mathbf{63.0 \pm 127.1}$ & $+11.5 \pm 0.0$ \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_the_other_interval(swept):
    lines = latex(swept, "tasks").splitlines()
    assert r"fomaml & 3 & $51.5 \pm 1.3$ & -- \\" in lines
    assert r"maml & 2 of 3 & $\mathbf{63.0 \pm 2.5}$ & $+11.5 \pm 1.3$ \\" in lines
    assert lines[5].endswith(r"mean $\pm$ 95 \% interval over test tasks.}")


def test_columns_have_a_cell_each(tmp_path):
    """One seed has no interval over seeds, so it is over tasks: 1.96 std / 2 of 0.1, 0.3, 0.5, 0.7 is 0.2531."""
    for algorithm, base in (("maml", 0.1), ("fomaml", 0.0)):
        write_run(tmp_path, {0: [0.2] * 4, 5: [base + 0.2 * task for task in range(4)]}, algorithm=algorithm)
    lines = latex(comparison(tmp_path, columns=["inner_steps"], baseline="maml")).splitlines()
    assert r"algorithm & inner steps 0 & inner steps 5 \\" in lines
    assert r"maml & $20.0 \pm 0.0$ & $\mathbf{40.0 \pm 25.3}$ \\" in lines
    assert "% differences are left out: with --cols a cell has room for one number" in lines


def test_parted_protocols_are_parts_of_one_table(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(tmp_path, {5: [0.5, 0.6]}, name="b", **{"evaluation.tasks": 2})
    text = latex(comparison(tmp_path))
    assert (text.count(r"\begin{table}"), text.count(r"\begin{tabular}"), text.count(r"\caption")) == (1, 2, 1)
    assert r"\caption{Mean $\pm$ 95 \% interval over test tasks.}" in text
    assert r"\par glyphs test, 5-way, 1-shot, 2 tasks, 15 queries per class, batch norm transductive\par" in text


def test_a_huge_mean_is_set_as_a_power(tmp_path):
    write_run(tmp_path, {5: [0.35, 0.35, 0.35, 4e10]}, score="mse")
    lines = latex(comparison(tmp_path)).splitlines()
    assert r"maml & $1 \times 10^{10} \pm 1.96 \times 10^{10}$ {\scriptsize (median 0.350)} \\" in lines


@pytest.mark.parametrize("which", ["swept", "nasty"])
def test_latex_compiles(which, request, tmp_path):
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("needs pdflatex: apt-get install --no-install-recommends texlive-latex-recommended")
    out = tmp_path / "latex"
    out.mkdir()
    (out / "table.tex").write_text(latex(request.getfixturevalue(which)))
    (out / "main.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{table}\n\\end{document}\n"
    )
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (out / "main.pdf").read_bytes().startswith(b"%PDF")
