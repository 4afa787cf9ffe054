"""The figure of iMAML's paper, measured on the user's own model: error, memory and time against inner steps."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from metarun.report.gradient_tables import LABELS, columns_of

_PANELS = (
    ("error", "relative error of the meta-gradient"),
    ("memory_mib", "most memory held at once (MiB)"),
    ("time_ms", "time for the batch (ms)"),
)
_MAPS = {"hessian": "Reds", "hessian_forward": "Purples", "gauss_newton": "Blues", "finite_difference": "Greens"}
_PLAIN = {"unrolled": "black", "first_order": "#9aa5b1"}


def gradient_figure(result: dict[str, Any]) -> bytes:
    """A PNG, with one line for each estimator; both axes logarithmic, so an error of zero is not drawn."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = figure.subplots(1, 3)
    cells = result["cells"]
    columns = [column for column in columns_of(cells) if column[2] != 0]  # no CG steps are first order
    drawn = {
        (cell["name"], cell["curvature"], cell["cg_steps"]) for cell in cells if any(cell[key] for key, _ in _PANELS)
    }
    columns = [column for column in columns if column in drawn]
    steps = sorted({cell["inner_steps"] for cell in cells})
    for axes, (key, label) in zip(panels, _PANELS, strict=True):
        for column in columns:
            points = [
                (cell["inner_steps"], cell[key])
                for cell in cells
                if (cell["name"], cell["curvature"], cell["cg_steps"]) == column and cell[key]
            ]
            axes.plot(*(zip(*points, strict=True) if points else ([], [])), **_style(column, columns, result["solver"]))
        axes.set(xlabel="inner steps", title=label, yscale="log")
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(step) for step in steps])
        if key != "error":  # often less than a decade
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.25, linewidth=0.6)
    reference = "the exact meta-gradient" if result["exact"] else "the unrolled meta-gradient"
    if result["exact"] and not all(result["exact"]["solved"]):
        reference = "the best point found (inner problem not solved)"
    panels[0].set_ylabel(f"relative to {reference}")
    figure.suptitle(f"{result['choices']['algorithm']} on {result['choices']['dataset']}, {result['model_words']}")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8
    )
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format="png")
    return file.getvalue()


def _style(column: tuple, columns: list[tuple], solver: str) -> dict[str, Any]:
    """The darker, the more CG steps; a colour for each curvature."""
    name, curvature, cg_steps = column
    if curvature is None:
        return {"label": LABELS[name], "color": _PLAIN[name], "linewidth": 2, "marker": "o", "markersize": 4}
    alike = sorted(other[2] or 0 for other in columns if other[:2] == (name, curvature))
    shade = 0.4 + 0.5 * alike.index(cg_steps or 0) / max(1, len(alike) - 1)
    label = f"{LABELS[name]}, {LABELS[curvature]}" if cg_steps is None else f"{LABELS[curvature]}, {cg_steps} {solver}"
    return {
        "label": label,
        "color": matplotlib.colormaps[_MAPS[curvature]](shade),
        "linestyle": "-" if curvature == "hessian" else "--",
        "marker": "." if curvature == "hessian" else "x",
        "markersize": 5,
        "linewidth": 1.4,
    }
