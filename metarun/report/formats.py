"""Tables for a terminal, for Markdown, for LaTeX and as CSV."""

import csv
import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from metarun.report.cells import Estimate
from metarun.report.comparison import Comparison
from metarun.report.protocol import protocol
from metarun.report.protocol import words as protocol_words
from metarun.report.runs import word
from metarun.report.tables import Entry, Section, Table, gap, notes, sections, title

_STYLES = {
    "label": "bold cyan", "best": "bold green", "clear": "bold", "missing": "yellow", "failed": "bold red",
    "running": "blue",
}  # fmt: skip
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "±": r"$\pm$", "–": "--", "−": "$-$", "‖": r"$\|$",
    "`": "{`}", "*": "{*}", "[": "{[}", "]": "{]}", "\n": " ", "\t": " ",
}  # fmt: skip


def terminal(console: Console, comparison: Comparison) -> None:
    """Print for a person; a pipe gets the same without colours."""
    for section in sections(comparison):
        console.print(
            Text(section.title, "bold reverse" if console.is_terminal else ""), soft_wrap=not console.is_terminal
        )
        for table in section.tables:
            console.print()
            console.print(Text(table.title, "bold"), soft_wrap=not console.is_terminal)
            console.print(_rich(table, is_narrow=console.is_terminal))
            for note in table.notes:
                _print_note(console, note)
        console.print()
    for note in notes(comparison):
        _print_note(console, note, "yellow")


def markdown(comparison: Comparison) -> str:
    """Headings, pipe tables and lists."""
    lines: list[str] = []
    for section in sections(comparison):
        lines += [f"## {_markdown(section.title)}", ""]
        for table in section.tables:
            lines += [f"### {_markdown(table.title)}", ""]
            lines.append("| " + " | ".join(map(_markdown, table.columns)) + " |")
            aligned = [":--" if number < table.labels else "--:" for number in range(len(table.columns))]
            lines.append("| " + " | ".join(aligned) + " |")
            lines += ["| " + " | ".join(map(_markdown_entry, row)) + " |" for row in table.rows]
            lines += ["", *(f"- {_markdown(note)}" for note in table.notes), *([""] if table.notes else [])]
    said = notes(comparison)
    lines += ["## Notes", "", *(f"- {_markdown(note)}" for note in said), ""] if said else []
    return "\n".join(lines).rstrip("\n") + "\n"


def latex(comparison: Comparison) -> str:
    r"""Floating tables for `\input{...}`: any document class, no package needed."""
    lines = ["% Made by metarun report. \\input it; it needs no package."]
    for section in sections(comparison):
        for table in section.tables:
            lines += ["", *_latex_table(section, table)]
    for note in notes(comparison):
        lines += ["", f"\\par\\noindent{{\\footnotesize {escaped(note)}}}"]
    return "\n".join(lines) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """One line for each cell, every number whole; scores in their own unit (accuracy from 0 to 1), times in seconds.

    A median, and which tasks diverged, where any did.
    """
    keys = list(dict.fromkeys(key for grid in comparison.grids for key in (*grid.rows, *grid.columns)))
    heads = ["protocol", *keys, "score", "inner_steps", "seeds", "planned_seeds", "gap", "mean", "ci95_over_seeds",
             "ci95_over_tasks", "baseline", "difference", "difference_ci95_over_seeds", "difference_ci95_over_tasks",
             "train_s", "step_s", "peak_memory_mib", "training_memory_mib", "median", "diverged"]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for grid in comparison.grids:
        by_cell = {id(difference.cell): difference.estimate for difference in grid.differences}
        for cell in grid.cells:
            evaluated = protocol_words(protocol(cell.finished[0])) if cell.finished else title(grid)
            labels = dict(zip((*grid.rows, *grid.columns), (*cell.row, *cell.column), strict=True))
            results = [run.result for run in cell.finished if run.result]
            means = [_csv_mean([result.get(key) for result in results]) for key in ("train_s", "step_s")]
            memory = [
                max((result[key] for result in results if result.get(key) is not None), default="")
                for key in ("peak_memory_mib", "training_memory_mib")
            ]
            writer.writerow([
                evaluated, *(labels.get(key, "") for key in keys), grid.score,
                "" if cell.inner_steps is None else cell.inner_steps,
                " ".join(word(run.seed) for run in cell.finished), cell.planned, gap(cell),
                *_csv_estimate(cell.estimate), ", ".join(grid.baseline or ()), *_csv_estimate(by_cell.get(id(cell))),
                *means, *memory, "" if cell.median is None else cell.median,
                "; ".join(f"seed {seed}: {found.words}" for seed, found in cell.diverged.items() if found.tasks),
            ])  # fmt: skip
    return text.getvalue()


def escaped(text: str) -> str:
    """Text for LaTeX: its special characters spelled out, and what pdfLaTeX has no letter for as its code point."""
    found = []
    for letter in text:
        if letter in _LATEX:
            found.append(_LATEX[letter])
        elif letter == "-" and found and found[-1].endswith("-"):
            found.append("{}-")  # two of them would be set as a dash
        elif letter.isascii() or "\u00c0" <= letter <= "\u017f":  # accented Latin letters
            found.append(letter if letter.isprintable() else " ")
        else:
            found.append(f"{{[}}U+{ord(letter):04X}{{]}}")
    return "".join(found)


def _rich(table: Table, *, is_narrow: bool) -> RichTable:
    rich = RichTable(box=box.ROUNDED)
    for number, name in enumerate(table.columns):
        head = Text(name.replace(".", ".\n") if is_narrow else name)
        rich.add_column(head, justify="left" if number < table.labels else "right", overflow="fold")
    for row in table.rows:
        rich.add_row(*(_rich_entry(entry) for entry in row))
    return rich


def _rich_entry(entry: Entry) -> Text:
    text = Text(entry.text, _STYLES.get(entry.kind, ""))
    return text.append(f"\n{entry.note}", "dim") if entry.note else text


def _print_note(console: Console, note: str, style: str = "dim") -> None:
    """Wrapped with a hanging indent on a terminal, whole elsewhere."""
    import textwrap

    lines = textwrap.wrap(note, console.width - 2, break_on_hyphens=False) if console.is_terminal else [note]
    console.print(Text("\n".join(f"{'- ' if number == 0 else '  '}{line}" for number, line in enumerate(lines)), style),
                  soft_wrap=True)  # fmt: skip


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text).replace("\n", " ")


def _markdown_entry(entry: Entry) -> str:
    text = _markdown(entry.text)
    text = f"**{text}**" if entry.kind in ("best", "clear", "missing", "failed", "running") else text
    return f"{text} ({_markdown(entry.note)})" if entry.note else text


def _latex_table(section: Section, table: Table) -> list[str]:
    alignment = "l" * table.labels + "r" * (len(table.columns) - table.labels)
    caption = f"{table.title}. {section.title}. " + "; ".join(table.notes)
    return [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escaped(caption.rstrip('. '))}.}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\hline",
        " & ".join(map(escaped, table.columns)) + r" \\",
        r"\hline",
        *(" & ".join(map(_latex_entry, row)) + r" \\" for row in table.rows),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _latex_entry(entry: Entry) -> str:
    text = re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped(entry.text)) if entry.kind != "label" else escaped(entry.text)
    if entry.kind in ("best", "clear"):
        text = rf"\textbf{{{text}}}"
    elif entry.kind in ("missing", "failed", "running"):
        text = rf"\textit{{{text}}}"
    return rf"{text} {{\scriptsize ({escaped(entry.note)})}}" if entry.note else text


def _csv_estimate(estimate: Estimate | None) -> list[object]:
    if estimate is None:
        return ["", "", ""]
    return ["" if value is None else value for value in (estimate.mean, estimate.over_seeds, estimate.over_tasks)]


def _csv_mean(values: Sequence[object]) -> object:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else ""
