"""Figures of a run, as PNG files."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.console.words import interval
from metarun.files import write_atomically
from metarun.problems.base import Problem, outputs_of
from metarun.report.scales import is_logarithmic
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
    selected: int | None = None,
) -> None:
    """What was watched in training, and the validation score (with its 95 % band over tasks), against outer steps.

    Both have one scale where they are the same quantity. A scale is logarithmic where its values span decades. A single
    validation is no curve: its point is labelled with its number.

    Args:
        rows: of metrics.jsonl.
        watched: "loss", the query loss, or another number of the training.
        counted: what to have on the horizontal axis in place of outer steps.
        selected: the outer step whose parameters were selected, to be marked.
    """
    figure = canvas(7, 4)
    axes = figure.subplots()
    from matplotlib.ticker import PercentFormatter

    words = "query loss" if watched == "loss" else watched.replace("/", " ")
    place = f"train/{counted}_so_far" if counted else "step"
    reached, values, scores, chosen = 0.0, [], [], []
    for row in rows:
        reached = row[place] if row.get(place) is not None else reached  # a validation follows the line of its step
        if row.get(f"train/{watched}") is not None:
            values.append((reached, row[f"train/{watched}"]))
        measured = [row.get(name) for name in (f"val/{score}", f"val/{score}_ci95")]
        if all(value is not None for value in measured):
            scores.append((reached, *measured))
            chosen += [scores[-1]] if row["step"] == selected else []
    across = (counted or "outer step").replace("_", " ")
    axes.set(xlabel=across, title=title)
    if values:
        mark = "" if len(values) > 1 else "o"
        axes.plot(*zip(*values, strict=True), marker=mark, color=COLOURS[0], linewidth=1, label=f"training: {words}")
    is_one_scale = watched.rpartition("/")[2] == score or not (values and scores)
    right = axes if is_one_scale else axes.twinx()
    if scores:
        _draw_scores(right, scores, score)
    for ring in chosen if len(scores) > 1 else ():
        look = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": COLOURS[3], "linestyle": ""}
        right.plot(*ring[:2], marker="o", **look, label=f"selected: step {selected}")
    watched_values, ends = (
        [value for _, value in values],
        [mean + s * half for _, mean, half in scores for s in (-1, 1)],
    )
    for each, drawn in ((axes, watched_values + ends),) if is_one_scale else ((axes, watched_values), (right, ends)):
        if is_logarithmic(drawn) and not (score == "accuracy" and each is right):
            each.set_yscale("log")
    if scores and score == "accuracy":
        right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if not is_one_scale:
        axes.set_ylabel(f"training {words}")
        right.set_ylabel(f"validation {score}{_band(scores)}", color=COLOURS[3])
    elif scores:
        axes.set_ylabel(f"{score} (validation: 95 % over tasks)" if values else f"validation {score}{_band(scores)}")
    else:
        axes.set_ylabel(f"training {words}")
    handles, labels = _joined_handles(*dict.fromkeys((axes, right)))
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def _draw_scores(axes: "Axes", scores: Sequence[tuple[float, ...]], score: str) -> None:
    """The validations as a curve with its band; one alone as a labelled point."""
    steps, means, halves = zip(*scores, strict=True)
    low = [m - h for m, h in zip(means, halves, strict=True)]
    high = [m + h for m, h in zip(means, halves, strict=True)]
    if len(scores) == 1:
        axes.errorbar(steps, means, halves, color=COLOURS[3], marker="o", ls="", label=f"validation: {score}")
        words = interval(means[0], halves[0], score == "accuracy")
        # To the left of it: the one validation is mostly the last step.
        axes.annotate(words, (steps[0], means[0]), (-8, 6), textcoords="offset points", ha="right", color=COLOURS[3])
        return
    axes.plot(steps, means, color=COLOURS[3], marker=".", label=f"validation: {score}")
    axes.fill_between(steps, low, high, color=COLOURS[3], alpha=0.2, linewidth=0)


def _band(scores: Sequence[tuple[float, ...]]) -> str:
    return " (95 % over tasks)" if scores else ""


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
    figure = canvas(4 * count, 3.4)
    panels = figure.subplots(1, count, squeeze=False, sharey=True)
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
    """Write a PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    write_atomically(path, drawn.getvalue(), is_durable=False)


def canvas(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, to be drawn to a file.

    matplotlib is imported with the first one: training need not wait half a second for it. Its pyplot is left alone, which is the
    user's: in a notebook it draws to the page.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it announces its font cache on the first run
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
