"""The paths of a point in the plane before and after adaptation, as a PNG file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metarun.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 0.98  # of the places after adaptation, at least: few that stray far should not shrink all others
_MARGIN = 1.12


def trajectories(path: Path, goals: Tensor, paths: Mapping[int, tuple[Tensor, Tensor]], title: str) -> None:
    """A column for each task, a row for each number of inner steps; all panels show the same square about the origin.

    The square holds the goals and where adapted policies go; those before adaptation may leave it.

    Args:
        goals: [B, 2]; a star.
        paths: by number of inner steps, ascending, 0 before adaptation: places [B, E, T, 2] and mask [B, E, T], 0 after an
            episode's end. Episodes are lines, lighter the more there are, and end in a dot.
    """
    goals = goals.cpu().double()
    lines = {steps: _until_end(places.cpu().double(), mask.cpu()) for steps, (places, mask) in paths.items()}
    half = _half_width(goals, [places for steps, places in lines.items() if steps > 0 or len(lines) == 1])
    count = len(goals)
    figure = figures.canvas(2.3 * count + 0.6, 2.3 * len(lines) + 0.8)
    panels = figure.subplots(len(lines), count, squeeze=False, sharex=True, sharey=True)
    for row, (steps, places) in enumerate(lines.items()):
        for task, axes in enumerate(panels[row]):
            _draw(axes, places[task], goals[task], figures.COLOURS[min(row, len(figures.COLOURS) - 1)])
            axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            axes.locator_params(nbins=4)
        panels[row][0].set_ylabel("before" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}")
    for task, axes in enumerate(panels[0]):
        axes.set_title(f"test task {task}", fontsize=10)
    figure.suptitle(title)
    figures.save(figure, path)


def _draw(axes: "Axes", places: Tensor, goal: Tensor, colour: str) -> None:
    """Episodes [E, T, 2] of one task, nan after their ends."""
    episodes = len(places)
    opacity = min(0.9, max(0.08, 3 / episodes))
    axes.plot(places[..., 0].T, places[..., 1].T, color=colour, linewidth=0.9, alpha=opacity, zorder=2)
    ends = places.isfinite().all(-1).sum(1) - 1
    last = places[torch.arange(episodes), ends]
    axes.plot(last[:, 0], last[:, 1], ".", color=colour, markersize=4, zorder=3)
    axes.plot(*places[0, 0], "o", color="white", markeredgecolor="black", markersize=5, zorder=4)
    axes.plot(*goal, "*", color="black", markeredgecolor="white", markeredgewidth=0.6, markersize=12, zorder=5)
    axes.grid(alpha=0.25, linewidth=0.6)


def _until_end(places: Tensor, mask: Tensor) -> Tensor:
    return places.masked_fill(~(mask > 0)[..., None], torch.nan)


def _half_width(goals: Tensor, lines: list[Tensor]) -> float:
    """Of a square about the origin that holds all goals and, of each task, nearly all of these places."""
    reach = torch.cat([each.abs().amax(-1).flatten(1) for each in lines], 1)
    most = reach.nanquantile(_SHOWN, 1, interpolation="higher").max()
    return _MARGIN * max(float(most), float(goals.abs().max()), 1e-3)
