"""Figures of a run, as PNG files."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.files import write_atomically
from metarun.problems.base import Problem, outputs_of
from metarun.tasks.types import Examples, TaskBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#9aa5b1", "#f0a202", "#d95d39", "#8b1e3f")


def learning_curve(
    path: Path,
    rows: Sequence[dict[str, Any]],
    score: str,
    title: str,
    *,
    watched: str = "loss",
    counted: str | None = None,
) -> None:
    """What was watched in training, and the validation score (with its 95 % band over tasks), against outer steps.

    Both have one scale where they are the same quantity.

    Args:
        rows: of metrics.jsonl.
        watched: "loss", the query loss, or another number of the training.
        counted: what to have on the horizontal axis in place of outer steps.
    """
    figure, axes = pyplot().subplots(figsize=(7, 4), layout="constrained")
    words = "query loss" if watched == "loss" else watched.replace("/", " ")
    place = f"train/{counted}_so_far" if counted else "step"
    reached, values, scores = 0.0, [], []
    for row in rows:
        reached = row[place] if row.get(place) is not None else reached  # a validation follows the line of its step
        if row.get(f"train/{watched}") is not None:
            values.append((reached, row[f"train/{watched}"]))
        measured = [row.get(name) for name in (f"val/{score}", f"val/{score}_ci95")]
        if all(value is not None for value in measured):
            scores.append((reached, *measured))
    if values:
        axes.plot(*zip(*values, strict=True), color=COLOURS[0], linewidth=1, label=f"training: {words}")
    across = (counted or "outer step").replace("_", " ")
    axes.set(xlabel=across, title=title)
    is_one_scale = watched.rpartition("/")[2] == score
    right = axes if is_one_scale else axes.twinx()
    if scores:
        steps, means, halves = zip(*scores, strict=True)
        low = [m - h for m, h in zip(means, halves, strict=True)]
        high = [m + h for m, h in zip(means, halves, strict=True)]
        right.plot(steps, means, color=COLOURS[3], marker=".", label=f"validation: {score}")
        right.fill_between(steps, low, high, color=COLOURS[3], alpha=0.2, linewidth=0)
    if is_one_scale:
        axes.set_ylabel(f"{score} (validation: 95 % over tasks)")
    else:
        axes.set_ylabel(f"training {words}")
        right.set_ylabel(f"validation {score} (95 % over tasks)", color=COLOURS[3])
    figure.legend(*_joined_handles(*dict.fromkeys((axes, right))), loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def adaptation_curves(
    path: Path,
    algorithm: Algorithm,
    problem: Problem,
    theta: MetaParameters,
    tasks: TaskBatch,
    grid: Examples,
    inner_steps: Sequence[int],
) -> None:
    """For one-dimensional regression: the true function, the support points, and the model after each number of steps.

    Args:
        tasks: B tasks; one panel each.
        grid: where to draw: inputs [B, G, 1], ascending, with the true function's values as targets.
        inner_steps: ascending; 0 is the model before adaptation.
    """
    count = len(tasks)
    figure, panels = pyplot().subplots(
        1, count, figsize=(4 * count, 3.4), layout="constrained", squeeze=False, sharey=True
    )
    x = grid.inputs[..., 0].cpu()
    colours = [COLOURS[0], *COLOURS[-(len(inner_steps) - 1) :]] if len(inner_steps) > 1 else COLOURS
    for task, axes in enumerate(panels[0]):
        axes.plot(x[task], grid.targets[task, :, 0].cpu(), color="black", linewidth=1.5, label="true function")
        axes.plot(
            tasks.support_set.inputs[task, :, 0].cpu(),
            tasks.support_set.targets[task, :, 0].cpu(),
            "^",
            color="black",
            markersize=6,
            label="support",
            zorder=5,
        )
    drawn = list(zip(inner_steps, colours, strict=False))
    adapted = algorithm.adaptations(theta, problem, tasks, [steps for steps, _ in drawn])
    if problem.learner.normalises_by_support:
        grid = grid.normalised_by(tasks.support_set)
    for (steps, colour), phi in zip(drawn, adapted, strict=True):
        with torch.no_grad():
            y = outputs_of(problem, phi, grid)[..., 0].cpu()
        words = "before" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}"
        for task, axes in enumerate(panels[0]):
            axes.plot(x[task], y[task], "--" if steps == 0 else "-", color=colour, linewidth=1.4, label=words)
            axes.set(xlabel="x", title=f"test task {task}")
    panels[0][0].set_ylabel("y")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    save(figure, path)


def _joined_handles(*axes: "Axes") -> tuple[list, list]:
    pairs = [each.get_legend_handles_labels() for each in axes]
    return [h for handles, _ in pairs for h in handles], [label for _, labels in pairs for label in labels]


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG, and forget the figure."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    pyplot().close(figure)
    write_atomically(path, drawn.getvalue(), is_durable=False)


def pyplot() -> ModuleType:
    """matplotlib's drawing to files, imported with the first figure: training need not wait half a second for it."""
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it announces its font cache on the first run
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt
