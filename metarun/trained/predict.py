"""`metarun predict RUN_DIR --support FOLDER --query FOLDER`: a trained model on a task of one's own."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console

from metarun.console.columns import Column, is_fitting, table
from metarun.console.terminal import tell, terminal
from metarun.errors import ConfigurationError
from metarun.json_text import json_text
from metarun.trained.adapted import AdaptedModel
from metarun.trained.files import FileTask, read_task
from metarun.trained.run import TrainedRun, load

FORMATS = ("table", "csv", "json")
_ENDLESS = 10_000  # off a terminal lines are as long as they need to be


def predict(
    run_dir: Path,
    support: Path,
    query: Sequence[Path],
    *,
    steps: int | None,
    form: str,
    batch_norm: str,
    device: str,
    allowed: Sequence[str],
) -> None:
    """Adapt a run's model to a support set, predict a query set, and print what was found.

    Predictions go to standard output; what there is to know beside them to standard error.

    Args:
        support: a folder of images for each class, or a table.
        query: images, folders of images, or a table.
        steps: inner steps; None: those of the run's result.
        form: one of `FORMATS`.
        batch_norm: "support" or "transductive" (`load`).
        allowed: classes beside metarun's and torch's that the run may name.
    Raises:
        ConfigurationError: no such run, or files that make no task for it.
        TrainingError: what was adapted or predicted is not finite.
    """
    run = load(run_dir, batch_norm=batch_norm, device=device, allow=allowed)
    task = read_task(run, support, query)
    adapted = adapted_to(run, task, steps)
    rows = _rows(adapted, task)
    labels = [label for label in task.labels if label is not None]
    right = sum(row["label"] == label for row, label in zip(rows, task.labels, strict=True) if label is not None)
    accuracy = {"correct": right, "of": len(labels)} if labels else None
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        sys.stdout.write(text.getvalue())
    elif form == "json":
        about = {"run": str(run.path), "trained_step": run.step, "inner_steps": adapted.steps}
        about |= {"classes": adapted.classes, "batch_norm": run.learner.batch_norm, "predictions": rows}
        print(json_text(about | {"known_labels": accuracy, "unreadable": task.unreadable}, indent=2))
    else:
        console = terminal()
        _show(console, rows, task, adapted)
        if accuracy:
            share = f"{100 * right / len(labels):.1f} %"
            tell(console, (share, "bold"), f" right of {len(labels)} whose folder is named after a class")
    report(adapted, task)


def adapted_to(run: TrainedRun, task: FileTask, steps: int | None) -> AdaptedModel:
    """The run's model, adapted to the support set that was read.

    Raises:
        ConfigurationError: it does not fit the model.
    """
    try:
        return run.adapt(task.support, task.targets, steps, prepared=True)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def report(adapted: AdaptedModel, task: FileTask) -> None:
    """Say on standard error what was adapted to, what could not be read, and what predictions depend on."""
    console = terminal(stderr=True)
    doubts = adapted.run.inputs.doubts(task.support)
    for reason in (*task.unreadable.values(), *([doubts] if doubts else [])):
        tell(console, ("warning:", "yellow"), f" {reason}")
    classes = f" of {len(adapted.classes)} classes" if adapted.classes is not None else ""
    images = "images" if adapted.classes is not None and len(adapted.support.shape) == 4 else "examples"
    tell(console, f"adapted to {len(task.support)} {images}{classes} in {adapted.steps} inner steps")
    if not len(task.query):
        return
    own = adapted.run.config["batch_norm"]
    if adapted.depends_on_others:
        tell(console, f"the {len(task.query)} {images} were normalised together, and predictions depend on each other")
    elif adapted.run.learner.batch_norm != "none" and own == "transductive":
        as_tested = "--batch-norm transductive normalises them together, as the run's test did"
        tell(console, f"each of the {images} was normalised by the support set; {as_tested}")


def _rows(adapted: AdaptedModel, task: FileTask) -> list[dict[str, Any]]:
    names = [dict(zip(task.columns[0], name, strict=True)) for name in task.names]
    outputs = adapted.outputs(task.query, prepared=True)
    if adapted.classes is None:
        return [
            name | dict(zip(task.columns[1], row, strict=True))
            for name, row in zip(names, outputs.tolist(), strict=True)
        ]
    values, places = outputs.softmax(-1).sort(dim=-1, descending=True, stable=True)
    rows = []
    for name, value, place in zip(names, values.tolist(), places.tolist(), strict=True):
        first, second = (adapted.classes[at] for at in place[:2])
        found = {"label": first, "probability": value[0], "runner_up": second, "runner_up_probability": value[1]}
        rows.append(name | found)
    return rows


def _show(console: Console, rows: Sequence[dict[str, Any]], task: FileTask, adapted: AdaptedModel) -> None:
    """A line for each example; on a narrow terminal without runner-up, or with a line of its own for each image."""
    width = console.width if console.is_terminal else _ENDLESS
    columns = _columns(rows, task, adapted)
    needed = [column for column in columns if column.left_out == 0]
    if is_fitting(needed, width, box.SIMPLE_HEAD):
        drawn = table(columns, width, is_framed=False)
        console.print(drawn, soft_wrap=not console.is_terminal, crop=False)
        return
    for row, name in zip(rows, columns[0].cells, strict=True):
        if adapted.classes is None:
            said = [f"{target} {row[target]:.6g}" for target in task.columns[1]]
        else:
            said = [str(row["label"]), f"{100 * row['probability']:.1f} %"]
        console.print(name, soft_wrap=True)
        tell(console, "  ", "  ".join(said), indent=2)


def _columns(rows: Sequence[dict[str, Any]], task: FileTask, adapted: AdaptedModel) -> list[Column]:
    """Which example, what is predicted, and what may be left out where there is no room: features, the runner-up."""
    names = task.columns[0]
    if names == ("image",):
        columns = [Column(heading="image", cells=[row["image"] for row in rows])]
    else:
        columns = [Column(heading="row", cells=[str(number) for number in range(1, len(rows) + 1)], justify="right")]
        columns += [
            Column(heading=name, cells=[row[name] for row in rows], justify="right", left_out=3 + place)
            for place, name in enumerate(names)
        ]
    if adapted.classes is None:
        targets = task.columns[1]
        return columns + [
            Column(heading=name, cells=[f"{row[name]:.6g}" for row in rows], justify="right") for name in targets
        ]

    def percent(key: str, left_out: int) -> Column:
        return Column(heading="%", cells=[f"{100 * row[key]:.1f}" for row in rows], justify="right", left_out=left_out)

    return [
        *columns,
        Column(heading="label", cells=[str(row["label"]) for row in rows], style="bold"),
        percent("probability", 0),
        Column(heading="runner-up", cells=[str(row["runner_up"]) for row in rows], style="dim", left_out=1),
        percent("runner_up_probability", 2),
    ]
