"""What result.json and tasks.csv hold: test measurements with their whole protocol, and where they were made."""

import csv
import importlib.metadata
import io
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from metarun import __version__
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import Parts
from metarun.errors import TrainingError
from metarun.maths.stats import count_words, has_score
from metarun.report.published import compared
from metarun.tasks.episodes import Episodes
from metarun.tasks.types import Split
from metarun.training.evaluate import Measurement

_PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "wandb", "torchmeta")


def measure_test(
    config: dict[str, Any],
    parts: Parts,
    theta: MetaParameters,
    step: int,
    advanced: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Measure on the test tasks, and write down the whole protocol beside the numbers.

    Args:
        step: that `theta` was selected after.
        advanced: told the share that is done (`Evaluator`).
    """
    evaluation = parts.evaluator.evaluation
    test, validation = task_sizes(config, parts, "test"), task_sizes(config, parts, "val")
    steps = evaluation.measured_steps(parts.algorithm.inner.steps)
    started = time.perf_counter()
    measurements = parts.evaluator(theta, "test", evaluation.tasks, steps, advanced)
    return {
        "metarun": __version__,
        "score": parts.problem.score,
        "higher_is_better": parts.problem.higher_is_better,
        "protocol": {
            "dataset": config["choices"]["dataset"],
            "split": "test",
            **test,
            "examples": parts.problem.examples,
            "tasks": evaluation.tasks,
            "task_seed": evaluation.seed,
            "inner_steps": steps,
            "headline_inner_steps": steps[-1],
            "batch_norm": parts.learner.batch_norm,
            "selected_step": step,
            "selected_by": f"validation {parts.problem.score} on {evaluation.val_tasks} fixed tasks",
            **{f"val_{name}": size for name, size in validation.items()},
            "interval": "1.96 * std / sqrt(tasks), ddof 1",
        },
        "results": [
            {"inner_steps": m.inner_steps, "diverged": m.diverged}
            | {metric: vars(m.summary(metric)) for metric in m.metrics}
            for m in measurements
        ],
        "reference": compared(config["reference"], config, parts.problem.score),
        "test_s": time.perf_counter() - started,
        "per_task": measurements,
    }


def require_score(result: Mapping[str, Any]) -> None:
    """Refuse a result without a score after the inner steps that count.

    Raises:
        TrainingError: the mean is not a number, or all tasks diverged.
    """
    score, row = result["score"], result["results"][-1]
    if not has_score(row[score]):
        diverged = count_words(row["diverged"], row[score]["num_tasks"])
        raise TrainingError(
            f"the test gave no finite {score} after {row['inner_steps']} inner steps (diverged: {diverged}). Likely causes: "
            "more inner steps in the test than in training (evaluation.inner_steps), inner steps too large "
            "(algorithm.inner.step_size), or outer steps too large (optimizer.lr)"
        )


def task_sizes(config: Mapping[str, Any], parts: Parts, split: Split) -> dict[str, int | None]:
    """Ways (None where there are no classes), shots and queries of the tasks of `split`, val or test."""
    source, dataset = parts.source, config["dataset"]
    ways = source.ways_of(split) if isinstance(source, Episodes) else dataset.get("test_ways", dataset.get("ways"))
    shots, queries = parts.evaluator.evaluation.examples(split)
    return {"ways": ways, "shots": shots, "queries": queries}


def environment_of(parts: Parts) -> dict[str, Any]:
    """Versions, device and number format of a run."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "metarun": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": device_name(parts.device),
        "threads": torch.get_num_threads(),
        "dtype": str(parts.dtype).removeprefix("torch."),
        "tf32": parts.tf32,
        "task_chunk": parts.task_chunk,
    }


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def tasks_csv(measurements: Sequence[Measurement]) -> str:
    """One line per test task and number of inner steps; task k is a function of (evaluation.seed, "test", k)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = list(measurements[0].metrics)
    writer.writerow(["task", "inner_steps", *metrics])
    for measurement in measurements:
        for task, values in enumerate(zip(*measurement.metrics.values(), strict=True)):
            writer.writerow([task, measurement.inner_steps, *values])
    return text.getvalue()
