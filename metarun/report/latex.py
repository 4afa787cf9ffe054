"""A comparison as one LaTeX table for a paper: booktabs, and a mean with its interval in each cell."""

import re
from collections.abc import Sequence

from metarun.report.cells import Cell, Estimate, ResultGrid
from metarun.report.comparison import Comparison
from metarun.report.tables import (
    absent_entry,
    decimals,
    head,
    median_words,
    notes,
    number,
    published_value,
    results,
    seeds_words,
    title,
)

INTERVALS = ("seeds", "tasks")
_LETTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "±": r"$\pm$", "–": "--", "−": "$-$", "‖": r"$\|$",
    "`": "{`}", "*": "{*}", "[": "{[}", "]": "{]}", "\n": " ", "\t": " ",
}  # fmt: skip


def latex(comparison: Comparison, interval: str | None = None) -> str:
    r"""A floating table for `\input{...}`, with a part for each protocol; what a reader must know besides, as comments.

    Args:
        interval: `seeds` or `tasks`, over which it is; None for seeds where every mean is over two or more.
    """
    lines = [r"% Made by metarun report. It needs \usepackage{booktabs}."]
    said = [note for grid in comparison.grids for note in results(grid).notes[1:]]
    if any(grid.differences and grid.columns for grid in comparison.grids):
        said.append("differences are left out: with --cols a cell has room for one number")
    lines += [f"% {' '.join(note.split())}" for note in dict.fromkeys([*said, *notes(comparison)])]
    lines += [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{_caption(comparison, interval)}}}"]
    for place, grid in enumerate(comparison.grids):
        if len(comparison.grids) > 1:
            lines += ([r"\medskip"] if place else []) + [rf"\par {escaped(title(grid))}\par\smallskip"]
        lines += _tabular(grid, _over(grid, interval))
    return "\n".join([*lines, r"\end{table}", ""])


def escaped(text: str) -> str:
    """Text for LaTeX: its special characters spelled out, and what pdfLaTeX has no letter for as its code point."""
    found = []
    for letter in text:
        if letter in _LETTERS:
            found.append(_LETTERS[letter])
        elif letter == "-" and found and found[-1].endswith("-"):
            found.append("{}-")  # two of them would be set as a dash
        elif letter.isascii() or "\u00c0" <= letter <= "\u017f":  # accented Latin letters
            found.append(letter if letter.isprintable() else " ")
        else:
            found.append(f"{{[}}U+{ord(letter):04X}{{]}}")
    return "".join(found)


def _caption(comparison: Comparison, interval: str | None) -> str:
    grids = list(comparison.grids)
    over = dict.fromkeys(_over(grid, interval) for grid in grids)
    words = " or ".join("training seeds" if each == "seeds" else "test tasks" for each in over)
    what = f"mean ± 95 % interval over {words}"
    if len(grids) > 1:
        return f"{escaped(what[0].upper() + what[1:])}."
    unit = f"{grids[0].score} (%)" if grids[0].is_percent else grids[0].score
    return f"{escaped(f'{title(grids[0])}: {unit}, {what}')}."


def _over(grid: ResultGrid, wanted: str | None) -> str:
    """Which of the two intervals the grid's cells hold: one for all, for two kinds in one table would be read as one."""
    if wanted is not None:
        return wanted
    estimates = [cell.estimate for cell in grid.cells if cell.estimate is not None]
    return "seeds" if estimates and all(estimate.over_seeds is not None for estimate in estimates) else "tasks"


def _tabular(grid: ResultGrid, over: str) -> list[str]:
    best = {id(cell) for column in grid.column_labels for cell in grid.best(column)}
    unit = f"{grid.score} (%)" if grid.is_percent else grid.score
    heads = [head(key) for key in grid.rows]
    rows = [list(map(escaped, label)) for label in grid.row_labels]
    by_row = [[cell for cell in grid.cells if cell.row == label] for label in grid.row_labels]
    if grid.columns:
        names = [key.rpartition(".")[2].replace("_", " ") for key in grid.columns]
        heads += [
            ", ".join(f"{name} {value}" for name, value in zip(names, label, strict=True))
            for label in grid.column_labels
        ]
        for row, cells in zip(rows, by_row, strict=True):
            row += [_cell(cell, grid, over, id(cell) in best, has_count=False) for cell in cells]
    else:
        cells = [cell for (cell,) in by_row]
        if any(not cell.is_whole for cell in cells) or len({seeds_words(cell) for cell in cells}) > 1:
            heads.append("seeds")
            _add(rows, [seeds_words(cell) for cell in cells])
        if len({cell.inner_steps for cell in cells}) > 1:
            heads.append("inner steps")
            _add(rows, ["--" if cell.inner_steps is None else str(cell.inner_steps) for cell in cells])
        heads.append(unit)
        _add(rows, [_cell(cell, grid, over, id(cell) in best, has_count=True) for cell in cells])
        if grid.differences:
            heads.append(f"less {', '.join(grid.baseline or ())}")
            by_cell = {id(each.cell): each.estimate for each in grid.differences}
            _add(rows, [_mean(by_cell.get(id(cell)), grid, over, sign=True) or "--" for cell in cells])
        if any(published_value(cell) is not None for cell in cells):
            heads.append("published")
            _add(rows, [_power(number(published_value(cell), grid, decimals(grid))) for cell in cells])
    alignment = "l" * len(grid.rows) + "r" * (len(heads) - len(grid.rows))
    return [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(map(escaped, heads)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _add(rows: Sequence[list[str]], column: Sequence[str]) -> None:
    for row, text in zip(rows, column, strict=True):
        row.append(text)


def _cell(cell: Cell, grid: ResultGrid, over: str, is_best: bool, *, has_count: bool) -> str:
    text = _mean(cell.estimate, grid, over, is_bold=is_best)
    if not text:
        return rf"\textit{{{escaped(absent_entry(cell).text)}}}"
    beside = [] if has_count or cell.is_whole else [seeds_words(cell)]
    beside += [words] if (words := median_words(cell, grid, decimals(grid))) else []
    return rf"{text} {{\scriptsize ({escaped(', '.join(beside))})}}" if beside else text


def _mean(estimate: Estimate | None, grid: ResultGrid, over: str, *, is_bold: bool = False, sign: bool = False) -> str:
    r"""`$51.5 \pm 1.3$`; "" without an estimate."""
    if estimate is None:
        return ""
    places = decimals(grid)
    half = estimate.over_seeds if over == "seeds" else estimate.over_tasks
    mean = number(estimate.mean, grid, places, sign=sign)
    text = mean if half is None else rf"{mean} \pm {number(half, grid, places)}"
    if not re.match(r"[-+]?\d", text):
        return mean  # not finite
    text = _power(re.sub("not finite", r"\\infty", text))
    return rf"$\mathbf{{{text}}}$" if is_bold else f"${text}$"


def _power(text: str) -> str:
    r"""`1.67e+10` as it is printed: `1.67 \times 10^{10}`."""
    return re.sub(r"e([+-])0*(\d+)", lambda found: rf" \times 10^{{{found[1].strip('+')}{found[2]}}}", text)
