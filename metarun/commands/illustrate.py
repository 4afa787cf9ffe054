"""The figures of a finished run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import Parts
from metarun.problems.policy_gradient.problem import PolicyGradient
from metarun.report.figures import adaptation_curves, learning_curve
from metarun.report.trajectories import trajectories
from metarun.run_folder.folder import RunFolder
from metarun.tasks.environments.base import QUERY
from metarun.tasks.environments.navigation2d import Navigation2D
from metarun.tasks.sinusoid import Sinusoid, true_function
from metarun.tasks.types import Examples, TaskBatch
from metarun.tracking.jsonl import read_metrics

_SHOWN = 3  # test tasks


def draw(folder: RunFolder, choices: Mapping[str, str], parts: Parts, theta: MetaParameters) -> None:
    """The learning curve, and what adaptation does to a few test tasks where that can be seen."""
    title = f"{choices['algorithm']} on {choices['dataset']}"
    problem = parts.problem
    learning_curve(
        folder.figures / "learning_curve.png",
        read_metrics(folder.metrics),
        problem.score,
        title,
        watched=problem.watched,
        counted=problem.counted,
    )
    if isinstance(parts.source, Sinusoid):
        _draw_curves(folder.figures / "adaptation.png", parts, parts.source, theta)
    if isinstance(parts.source, Navigation2D) and isinstance(problem, PolicyGradient):
        _draw_paths(folder.figures / "adaptation.png", parts, problem, theta, title)


def _tasks(parts: Parts) -> TaskBatch:
    evaluation = parts.evaluator.evaluation
    indices = torch.arange(min(_SHOWN, evaluation.tasks), device=parts.device)
    return parts.source.sample(evaluation.seed, "test", indices, evaluation.shots, evaluation.queries)


def _draw_curves(path: Path, parts: Parts, source: Sinusoid, theta: MetaParameters) -> None:
    """Of the sinusoid family, before and after adaptation."""
    tasks = _tasks(parts)
    low, high = source.inputs
    x = torch.linspace(low, high, 200, dtype=torch.float64, device=parts.device)[None, :, None].expand(
        len(tasks), -1, -1
    )
    grid = Examples(x, true_function(tasks.latent, x)).to(parts.device, parts.dtype)
    steps = [s for s in parts.evaluator.evaluation.measured_steps(parts.algorithm.inner.steps) if s != 5]
    adaptation_curves(path, parts.algorithm, parts.problem, theta, tasks.to(parts.device, parts.dtype), grid, steps)


def _draw_paths(path: Path, parts: Parts, problem: PolicyGradient, theta: MetaParameters, title: str) -> None:
    """Of a point in the plane, by the same episodes as those of the test."""
    tasks = _tasks(parts).to(parts.device, parts.dtype)
    numbers = parts.evaluator.evaluation.measured_steps(parts.algorithm.inner.steps)
    paths: dict[int, tuple[Tensor, Tensor]] = {}
    adapted = parts.algorithm.adaptations(theta, parts.problem, tasks, numbers)
    for steps, phi in zip(numbers, adapted, strict=True):
        episodes = problem.collect(tasks, phi, QUERY, steps)
        paths[steps] = episodes.observations, episodes.mask
    trajectories(path, tasks.latent["goal"], paths, title)
