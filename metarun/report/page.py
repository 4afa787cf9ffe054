"""A comparison as one self-contained HTML page: opens from the disk, asks nothing of the network, light and dark."""

import json
import math
import os
import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from metarun import __version__
from metarun.report.cells import ResultGrid
from metarun.report.comparison import Comparison
from metarun.report.curves import Figure, figures
from metarun.report.interval_plots import IntervalPlots, interval_plots
from metarun.report.runs import NOT_STARTED, Run, word
from metarun.report.tables import Entry, Table, costs, differences, notes, results, settings, title

_HERE = Path(__file__).resolve().parent
# A page that may load nothing at all cannot tell anybody that it was opened, whatever a run's name holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_MANY = 40  # runs, beyond which their list is folded away
_KINDS = {"failed": "failed", "damaged": "failed", "killed": "failed", "running": "running", "finished": "finished"}


def page(comparison: Comparison, folder: Path, command: str) -> str:
    """The page's whole text.

    Args:
        folder: where it will lie; links to run folders are relative to it, so that both may move together.
        command: the line that makes it again.
    """
    runs = [*comparison.runs, *comparison.left_out]
    counts: dict[str, int] = {}
    own = [run for run in runs if run.evaluation is None]
    for run in own:
        counts[run.state] = counts.get(run.state, 0) + 1
    body = [_section(grid, index) for index, grid in enumerate(comparison.grids)]
    said = notes(comparison)  # after the sections, which find out what cannot be read
    stated = [run.result["protocol"] for run in comparison.runs if run.result]
    names = {f"{each['dataset']} {each['split']}" for each in stated} or {"no results yet"}
    badges = "".join(
        f'<span class="badge"><b>{count}</b> <span class="{_KINDS.get(state, "missing")}">{escape(state)}</span></span>'
        for state, count in sorted(counts.items(), key=lambda pair: -pair[1])
    )
    counted = _count(len(own), "run")
    if len(own) < len(runs):
        counted += f" and {_count(len(runs) - len(own), 'evaluation')}"
    head = f'<h1>{escape(" · ".join(sorted(names)))}</h1><p class="soft">Comparison of {counted}, made '
    head += f"{escape(time.strftime('%Y-%m-%d %H:%M'))} by metarun {escape(__version__)}</p>"
    warned = f'<section class="card notes"><h3>Notes</h3>{_list(said)}</section>' if said else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>metarun: {escape(", ".join(sorted(names)))}</title>
<link rel="icon" href="data:,">
<style>
{(_HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>{head}<div class="badges">{badges}</div>{_command(command)}</header>
<main>
{warned}
{"".join(body)}
<h2 id="runs">Runs</h2>
<details class="card"{" open" if len(runs) <= _MANY else ""}><summary>{counted}</summary>
{"".join(_run(run, folder) for run in runs)}</details>
</main>
<footer>Every number comes from result.json, tasks.csv and metrics.jsonl in the run folders.</footer>
<script>
{(_HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _section(grid: ResultGrid, index: int) -> str:
    found = figures(grid)
    drawn = "".join(_figure(figure, grid, f"{figure.file}-{index}", place == 0) for place, figure in enumerate(found))
    said = [
        "bands span the seeds" if any(figure.has_bands for figure in found) else "",
        "rings are selected steps" if any(figure.has_selected for figure in found) else "",
    ]
    told = f"Figures: {', '.join(filter(None, said))}. " if any(said) else ""
    spent = costs(grid)
    parts = [
        f"<h2>{escape(title(grid))}</h2>",
        _table(results(grid), _plots_of_results(grid), score=_score_column(grid)),
        _table(differences(grid), _plots_of_differences(grid), score=len(grid.rows) + len(grid.columns))
        if grid.differences
        else "",
        f'<div class="figures">{drawn}</div>' if drawn else "",
        f'<p class="soft"><small>{told}Drag a rectangle to zoom (or Ctrl + wheel, + and -), double-click to reset, click a '
        "name to hide it.</small></p>" if drawn else "",
        '<noscript><p class="missing">The figures are drawn by a script, and scripts are off; the tables are whole.</p></noscript>'
        if drawn else "",
        _table(spent, None) if spent.rows else "",
    ]  # fmt: skip
    differing = settings(grid)
    if differing.rows:
        inner = _bare_table(differing, None)
        summary = f"{differing.title} ({_count(len(differing.rows), 'key')})"
        parts.append(f'<details class="card"><summary>{summary}</summary><div class="scroll">{inner}</div></details>')
    return "\n".join(parts)


def _score_column(grid: ResultGrid) -> int | None:
    """The column that narrow windows keep in sight; None where every column holds scores."""
    return None if grid.columns else len(grid.rows) + 2


def _table(table: Table, plots: IntervalPlots | None, score: int | None = None) -> str:
    below = (
        f'<ul class="below">{"".join(f"<li>{escape(note)}</li>" for note in table.notes)}</ul>' if table.notes else ""
    )
    inner = _bare_table(table, plots, score)
    return f'<section class="card"><h3>{escape(table.title)}</h3><div class="scroll">{inner}</div>{below}</section>'


def _bare_table(table: Table, plots: IntervalPlots | None, score: int | None = None) -> str:
    """With a last column of drawings where there are any, and their scale below it."""
    heads = "".join(
        f'<th scope="col"{_classes(place < table.labels, place == score)}>{escape(name)}</th>'
        for place, name in enumerate(table.columns)
    )
    heads += f'<th scope="col" class="l">{plots.key}</th>' if plots else ""
    rows = []
    for place, row in enumerate(table.rows):
        cells = "".join(_cell(entry, at < table.labels, at == score) for at, entry in enumerate(row))
        rows.append(f"<tr>{cells}{f'<td class=l>{plots.rows[place]}</td>' if plots else ''}</tr>")
    below = (
        f'<tfoot><tr><td colspan="{len(table.columns)}"></td><td class="l">{plots.axis}</td></tr></tfoot>'
        if plots
        else ""
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>{below}</table>"


def _cell(entry: Entry, is_label: bool, is_score: bool) -> str:
    note = f"<small>{escape(entry.note)}</small>" if entry.note else ""
    return f"<td{_classes(is_label, is_score, entry.kind)}>{escape(entry.text)}{note}</td>"


def _plots_of_results(grid: ResultGrid) -> IntervalPlots | None:
    return None if grid.columns else interval_plots([cell.estimate for cell in grid.cells], grid, zero=False)


def _plots_of_differences(grid: ResultGrid) -> IntervalPlots | None:
    return interval_plots([difference.estimate for difference in grid.differences], grid, zero=True)


def _figure(figure: Figure, grid: ResultGrid, identity: str, is_large: bool) -> str:
    scale = 100.0 if grid.is_percent else 1.0
    curves = [
        {
            "name": curve.name,
            "number": curve.number,
            "seeds": curve.seeds,
            "x": _numbers(curve.x, 1.0),
            **{side: _numbers(getattr(curve, side), scale) for side in ("y", "low", "high")},
            "selected": _numbers(curve.selected, 1.0),
        }
        for curve in figure.curves
    ]
    logarithmic = {"x": figure.x_is_log, "y": figure.y_is_log}
    data = {
        "x_label": figure.x_label,
        "y_label": figure.y_label,
        "log": logarithmic,
        "whole": figure.x_is_whole,
        "curves": curves,
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    tools = "".join(
        f'<button type="button" data-tool="{tool}" title="{what}">{sign}</button>'
        for tool, sign, what in (("in", "+", "zoom in"), ("out", "−", "zoom out"), ("reset", "reset", "show everything"),
                                  ("size", "⤢", "larger or smaller"))
    )  # fmt: skip
    name, classes = escape(figure.title), "card large" if is_large else "card"
    return "".join(
        (
            f'<figure class="{classes}" data-chart id="{identity}">',
            f'<figcaption><b>{name}</b><span class="tools">{tools}</span></figcaption>',
            f'<svg class="chart" tabindex="0" role="img" aria-label="{name}"></svg><div class="tip" hidden></div>',
            f'<div class="legend"></div><script type="application/json">{text}</script></figure>',
        )
    )


def _numbers(values: Iterable[float], scale: float) -> list[float | None]:
    """Seven digits are more than a screen shows; JSON has no word for what is no number."""
    return [float(f"{value * scale:.7g}") if math.isfinite(value) else None for value in values]


def _run(run: Run, folder: Path) -> str:
    link = escape(quote(Path(os.path.relpath(run.path.resolve(), folder.resolve())).as_posix()) + "/")
    name = escape(run.path.name if run.evaluation is None else f"{run.path.name}, {run.evaluation.stem}")
    name = name if run.state == NOT_STARTED else f'<a href="{link}">{name}</a>'
    detail = f'<span class="soft">{escape(run.detail)}</span>' if run.detail else ""
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
    return (
        f'<div class="run"><p><span class="{_KINDS.get(run.state, "missing")}">{escape(run.state)}</span>'
        f'{name}<span class="soft">seed {escape(word(run.seed))}, '
        f"{changed}</span>{detail}</p>{_command(run.command)}</div>"
    )


def _command(command: str) -> str:
    if not command:
        return ""
    return f'<div class="command"><code>{escape(command)}</code><button type="button" class="copy" hidden>copy</button></div>'


def _classes(is_label: bool, is_score: bool, kind: str = "") -> str:
    names = " ".join(filter(None, ("l" if is_label else "", "score" if is_score else "", kind)))
    return f' class="{names}"' if names else ""


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
