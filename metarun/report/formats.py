"""Tables for Markdown and as CSV."""

import csv
import io
import re
from collections.abc import Sequence

from metarun.report.cells import Estimate
from metarun.report.comparison import Comparison
from metarun.report.protocol import protocol
from metarun.report.protocol import words as protocol_words
from metarun.report.runs import word
from metarun.report.tables import Entry, gap, notes, sections, title


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


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text).replace("\n", " ")


def _markdown_entry(entry: Entry) -> str:
    text = _markdown(entry.text)
    text = f"**{text}**" if entry.kind in ("best", "clear", "missing", "failed", "running") else text
    return f"{text} ({_markdown(entry.note)})" if entry.note else text


def _csv_estimate(estimate: Estimate | None) -> list[object]:
    if estimate is None:
        return ["", "", ""]
    return ["" if value is None else value + 0.0 for value in (estimate.mean, estimate.over_seeds, estimate.over_tasks)]


def _csv_mean(values: Sequence[object]) -> object:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else ""
