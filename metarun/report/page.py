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
from metarun.report.cells import Estimate, ResultGrid
from metarun.report.comparison import Comparison
from metarun.report.curves import Figure, figures
from metarun.report.runs import NOT_STARTED, Run, word
from metarun.report.tables import Entry, Table, costs, differences, notes, number, results, settings, title
from metarun.report.tables import decimals as decimals_of

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
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    body = [_section(grid, index) for index, grid in enumerate(comparison.grids)]
    said = notes(comparison)  # after the sections, which find out what cannot be read
    names = {title(grid).split(",")[0] for grid in comparison.grids}
    badges = "".join(
        f'<span class="badge"><b>{count}</b> <span class="{_KINDS.get(state, "missing")}">{escape(state)}</span></span>'
        for state, count in sorted(counts.items(), key=lambda pair: -pair[1])
    )
    head = (
        f'<h1>{escape(" · ".join(sorted(names)))}</h1><p class="soft">Comparison of {_count(len(runs), "run")}, made '
    )
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
<details class="card"{" open" if len(runs) <= _MANY else ""}><summary>{_count(len(runs), "run folder")}</summary>
{"".join(_run(run, folder) for run in runs)}</details>
</main>
<footer>Every number comes from result.json, tasks.csv and metrics.jsonl in the run folders.</footer>
<script>
{(_HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _section(grid: ResultGrid, index: int) -> str:
    drawn = "".join(
        _figure(figure, grid, f"{figure.file}-{index}", place == 0) for place, figure in enumerate(figures(grid))
    )
    parts = [
        f"<h2>{escape(title(grid))}</h2>",
        _table(results(grid), _forest_of_results(grid)),
        _table(differences(grid), _forest_of_differences(grid)) if grid.differences else "",
        f'<div class="figures">{drawn}</div>' if drawn else "",
        '<p class="soft"><small>Figures: bands span the seeds. Drag a rectangle to zoom (or Ctrl + wheel, + and -), '
        "double-click to reset, click a name to hide it.</small></p>" if drawn else "",
        '<noscript><p class="missing">The figures are drawn by a script, and scripts are off; the tables are whole.</p></noscript>'
        if drawn else "",
        _table(costs(grid), []),
    ]  # fmt: skip
    differing = settings(grid)
    if differing.rows:
        inner = _bare_table(differing, [])
        summary = f"{differing.title} ({_count(len(differing.rows), 'key')})"
        parts.append(f'<details class="card"><summary>{summary}</summary><div class="scroll">{inner}</div></details>')
    return "\n".join(parts)


def _table(table: Table, drawings: list[str]) -> str:
    below = (
        f'<ul class="below">{"".join(f"<li>{escape(note)}</li>" for note in table.notes)}</ul>' if table.notes else ""
    )
    inner = _bare_table(table, drawings)
    return f'<section class="card"><h3>{escape(table.title)}</h3><div class="scroll">{inner}</div>{below}</section>'


def _bare_table(table: Table, drawings: list[str]) -> str:
    """With a last column of `drawings` where there are any, one for each row."""
    heads = "".join(
        f'<th scope="col"{_left(place < table.labels)}>{escape(name)}</th>' for place, name in enumerate(table.columns)
    )
    heads += f'<th scope="col" class="l">{_FOREST_KEY}</th>' if drawings else ""
    rows = []
    for place, row in enumerate(table.rows):
        cells = "".join(_cell(entry, at < table.labels) for at, entry in enumerate(row))
        rows.append(f"<tr>{cells}{f'<td class=l>{drawings[place]}</td>' if drawings else ''}</tr>")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(entry: Entry, is_label: bool) -> str:
    classes = " ".join(filter(None, ("l" if is_label else "", entry.kind)))
    note = f"<small>{escape(entry.note)}</small>" if entry.note else ""
    return f'<td class="{classes}">{escape(entry.text)}{note}</td>'


_FOREST_KEY = (
    '<svg class="key" viewBox="0 0 26 10" aria-hidden="true"><g class="forest"><line class="tasks" x1="2" x2="24" y1="5" '
    'y2="5"/></g></svg> tasks <svg class="key" viewBox="0 0 26 10" aria-hidden="true"><g class="forest"><line class="seeds" '
    'x1="2" x2="24" y1="5" y2="5"/></g></svg> seeds'
)


def _forest_of_results(grid: ResultGrid) -> list[str]:
    if grid.columns:
        return []
    estimates = [cell.estimate for cell in grid.cells]
    return _forest(estimates, grid, zero=False)


def _forest_of_differences(grid: ResultGrid) -> list[str]:
    return _forest([difference.estimate for difference in grid.differences], grid, zero=True)


def _forest(estimates: list[Estimate | None], grid: ResultGrid, *, zero: bool) -> list[str]:
    """Means and intervals on one common scale, a drawing for each row.

    The scale holds the means and the intervals over tasks; an interval over two seeds may be huge, and runs out of it.
    """
    shown = [estimate for estimate in estimates if estimate is not None and math.isfinite(estimate.mean)]
    if not shown:
        return []
    ends = [0.0] if zero else []
    for estimate in shown:
        half = max(estimate.over_tasks or 0.0, min(estimate.over_seeds or 0.0, 8 * (estimate.over_tasks or math.inf)))
        ends += [estimate.mean - half, estimate.mean + half] if math.isfinite(half) else [estimate.mean]
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def at(value: float) -> float:
        return round(260 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    places = decimals_of(grid)
    drawings = []
    for estimate in estimates:
        if estimate is None or not math.isfinite(estimate.mean):
            drawings.append("")
            continue
        marks = f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="26"/>' if zero else ""
        for kind, half in (("tasks", estimate.over_tasks), ("seeds", estimate.over_seeds)):
            if half is not None and math.isfinite(half):
                left, right = estimate.mean - half, estimate.mean + half
                marks += f'<line class="{kind}" x1="{at(left)}" x2="{at(right)}" y1="13" y2="13"/>'
                marks += '<path class="off" d="M0 13 l6 -4 v8 z"/>' if left < low else ""
                marks += '<path class="off" d="M260 13 l-6 -4 v8 z"/>' if right > high else ""
        label = number(estimate.mean, grid, places, sign=zero)
        marks += f'<circle cx="{at(estimate.mean)}" cy="13" r="4.5"/>'
        drawings.append(f'<svg class="forest" viewBox="0 0 260 26" role="img" aria-label="{label}">{marks}</svg>')
    return drawings


def _figure(figure: Figure, grid: ResultGrid, identity: str, is_large: bool) -> str:
    scale = 100.0 if grid.is_percent else 1.0
    curves = [
        {
            "name": curve.name,
            "seeds": curve.seeds,
            "x": _numbers(curve.x, 1.0),
            **{side: _numbers(getattr(curve, side), scale) for side in ("y", "low", "high")},
        }
        for curve in figure.curves
    ]
    data = {"x_label": figure.x_label, "y_label": figure.y_label, "curves": curves}
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
    name = escape(run.path.name)
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


def _left(is_label: bool) -> str:
    return ' class="l"' if is_label else ""


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
