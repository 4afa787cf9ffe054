"""The curves of a comparison as PNG files."""

from pathlib import Path

from matplotlib.figure import Figure as Canvas

from metarun.files import naming
from metarun.report.comparison import Comparison
from metarun.report.curves import Figure, figures
from metarun.report.tables import title

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
_STYLES = ("-", "--", ":", "-.")
_MAX_LEGEND = 24


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Write every figure of every grid.

    Returns:
        The files: learning_curves.png and so on; with several grids, learning_curves-1.png and so on.
    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, grid in enumerate(comparison.grids, start=1):
        for figure in figures(grid):
            path = folder / f"{figure.file}{f'-{number}' if len(comparison.grids) > 1 else ''}.png"
            _save(figure, title(grid), 100.0 if grid.is_percent else 1.0, path)
            written.append(path)
    return written


def _save(figure: Figure, subtitle: str, scale: float, path: Path) -> None:
    canvas = Canvas(figsize=(7, 4.4), layout="constrained")
    axes = canvas.add_subplot()
    for number, curve in enumerate(figure.curves):
        colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
        label = f"{curve.name} ({curve.seeds} seed{'s' if curve.seeds > 1 else ''})"
        axes.plot(
            curve.x, [scale * y for y in curve.y], style, color=colour, marker="o", markersize=3, label=_plain(label)
        )
        if curve.seeds > 1:
            low, high = ([scale * y for y in side] for side in (curve.low, curve.high))
            axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=figure.x_label, ylabel=_plain(figure.y_label))
    axes.set_title(f"{figure.title}\n", loc="left", fontweight="bold")
    axes.text(
        0, 1.02, _plain(f"{subtitle}; bands span the seeds"), transform=axes.transAxes, fontsize=7.5, color="#555555"
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(figure.curves) <= _MAX_LEGEND:
        canvas.legend(loc="outside lower center", ncols=min(len(figure.curves), 4), frameon=False, fontsize=8)
    with naming(path):
        canvas.savefig(path, dpi=150)


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
