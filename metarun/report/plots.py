"""The curves of a comparison as files: PNG to look at, PDF for a paper, SVG for a page."""

import logging
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from metarun.files import naming
from metarun.report.comparison import Comparison
from metarun.report.curves import Curve, Figure, figures
from metarun.report.tables import title

SUFFIXES = ("png", "pdf", "svg")
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a5195",
    "#5f6b7a",
)  # Okabe and Ito, and two
# One for each colour: filled for the first eight curves, hollow for the next, so that sixteen differ without colours.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLES = ("-", "--", ":", "-.")
_MAX_LEGEND = 24
_SUBTITLE, _LEGEND = 112, 104  # letters that have room in a line
_MARKS = 12  # of a curve, about; every point of a long one would be a band
# Fonts that publishers take (no Type 3); the same numbers make the same bytes.
_SETTINGS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "metarun"}
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Write every figure of every grid, as a file of each of SUFFIXES.

    Returns:
        The files: learning_curves.png and so on; with several grids, learning_curves-1.png and so on.
    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of each table of a font
    written = []
    for number, grid in enumerate(comparison.grids, start=1):
        for figure in figures(grid):
            stem = folder / f"{figure.file}{f'-{number}' if len(comparison.grids) > 1 else ''}"
            canvas = drawn(figure, title(grid), 100.0 if grid.is_percent else 1.0)
            for suffix in SUFFIXES:
                path = stem.with_name(f"{stem.name}.{suffix}")
                with naming(path), matplotlib.rc_context(_SETTINGS):
                    canvas.savefig(path, dpi=150, metadata=_METADATA[suffix])
                written.append(path)
    return written


def drawn(figure: Figure, subtitle: str, scale: float) -> Canvas:
    """One figure, its scores times `scale`."""
    canvas = Canvas(figsize=(7, 4.4), layout="constrained")
    axes = canvas.add_subplot()
    labels = _labels(figure)
    for curve, label in zip(figure.curves, labels, strict=True):
        _draw_curve(axes, curve, label, scale)
    if figure.x_is_log:
        axes.set_xscale("log")
    elif figure.x_is_whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if figure.y_is_log:
        axes.set_yscale("log")
    axes.set(xlabel=figure.x_label, ylabel=_plain(figure.y_label))
    count, seeds = len(figure.curves), {curve.seeds for curve in figure.curves}
    said = [
        subtitle,
        _seeds(*seeds) if len(seeds) == 1 else "",
        "bands span the seeds" if figure.has_bands else "",
        "rings: selected steps" if figure.has_selected else "",
        f"{count} curves, too many for a legend" if count > _MAX_LEGEND else "",
    ]
    words = textwrap.fill("; ".join(filter(None, said)), _SUBTITLE)
    axes.set_title(f"{figure.title}\n{words.count(chr(10)) * chr(10)}", loc="left", fontweight="bold")
    axes.text(0, 1.02, _plain(words), transform=axes.transAxes, fontsize=7.5, color="#555555")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if count <= _MAX_LEGEND:
        in_a_row = max(1, _LEGEND // (max(map(len, labels)) + 8))  # a mark takes as much as eight letters
        canvas.legend(loc="outside lower center", ncols=min(count, 4, in_a_row), frameon=False, fontsize=8)
    return canvas


def look(number: int) -> dict[str, Any]:
    """How the curve of a number is drawn: no two of the first 32 alike, nor of the first 16 in marker and line."""
    turn, place = divmod(number, len(_COLOURS))
    colour = _COLOURS[place]
    return {
        "color": colour,
        "linestyle": _STYLES[turn % len(_STYLES)],
        "marker": _MARKERS[place],
        "markerfacecolor": "white" if turn % 2 else colour,
    }


def _labels(figure: Figure) -> list[str]:
    """The names of the curves, with the seeds where these are not the same for all."""
    if len({curve.seeds for curve in figure.curves}) == 1:
        return [curve.name for curve in figure.curves]
    return [f"{curve.name} ({_seeds(curve.seeds)})" for curve in figure.curves]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _draw_curve(axes: Axes, curve: Curve, label: str, scale: float) -> None:
    mean = [scale * y for y in curve.y]
    stride, shape = max(1, round(len(mean) / _MARKS)), look(curve.number)
    axes.plot(
        curve.x,
        mean,
        **shape,
        linewidth=1.4,
        markersize=5,
        markevery=(curve.number % stride, stride),  # not all at the same places
        label=_plain(label),
    )
    if curve.seeds > 1:
        low, high = ([scale * y for y in side] for side in (curve.low, curve.high))
        axes.fill_between(curve.x, low, high, color=shape["color"], alpha=0.15, linewidth=0)
    rings = [(x, y) for x, y in zip(curve.x, mean, strict=True) if x in curve.selected]
    if rings:
        axes.plot(
            *zip(*rings, strict=True), "o", markersize=9, markerfacecolor="none", markeredgecolor=shape["color"],
            zorder=4,
        )  # fmt: skip


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
