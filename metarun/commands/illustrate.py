"""The figures of a finished run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import Parts
from metarun.errors import ConfigurationError
from metarun.problems.policy_gradient.problem import PolicyGradient
from metarun.report.figures import adaptation_curves, learning_curve
from metarun.report.trajectories import trajectories
from metarun.report.video import film
from metarun.run_folder.folder import RunFolder
from metarun.tasks.environments.base import QUERY
from metarun.tasks.environments.locomotion import Bodies, Locomotion
from metarun.tasks.environments.mujoco_frames import frames
from metarun.tasks.environments.navigation2d import Navigation2D
from metarun.tasks.sinusoid import Sinusoid, true_function
from metarun.tasks.types import Examples, TaskBatch
from metarun.tracking.jsonl import read_metrics

_SHOWN = 3  # test tasks
_WIDTH, _HEIGHT = 320, 240  # of each image in a video
_logger = logging.getLogger("metarun")


def check_video(config: Mapping[str, Any], parts: Parts) -> None:
    """Refuse a video of what cannot be seen.

    Raises:
        ConfigurationError: `figures.video` is asked for, and there is no robot.
    """
    if config["figures"]["video"] and not isinstance(parts.source, Locomotion):
        raise ConfigurationError(
            f"figures.video=true shows a robot, and dataset={config['choices']['dataset']} has none. Set figures.video=false, or "
            "choose dataset=halfcheetah_direction or another of MuJoCo's."
        )


def draw(folder: RunFolder, config: Mapping[str, Any], parts: Parts, theta: MetaParameters, selected_step: int) -> None:
    """The learning curve with the step that was selected, and what adaptation does to a few test tasks where it can be seen."""
    choices = config["choices"]
    title = f"{choices['algorithm']} on {choices['dataset']}"
    problem = parts.problem
    learning_curve(
        folder.figures / "learning_curve.png",
        read_metrics(folder.metrics),
        problem.score,
        title,
        watched=problem.watched,
        counted=problem.counted,
        selected=selected_step,
    )
    if isinstance(parts.source, Sinusoid):
        _draw_curves(folder.figures / "adaptation.png", parts, parts.source, theta)
    if isinstance(parts.source, Navigation2D) and isinstance(problem, PolicyGradient):
        _draw_paths(folder.figures / "adaptation.png", parts, problem, theta, title)

    if config["figures"]["video"] and isinstance(parts.source, Locomotion) and isinstance(problem, PolicyGradient):
        _film(folder.figures / "adaptation.gif", parts, problem, parts.source, theta)


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


def _film(path: Path, parts: Parts, problem: PolicyGradient, source: Locomotion, theta: MetaParameters) -> None:
    """The first two test tasks, one beside the other, before adaptation and below it after all inner steps, one episode of each."""
    tasks = _tasks(parts)[:2].to(parts.device, parts.dtype)
    latent = tasks.latent | {QUERY: tasks.latent[QUERY][:, :1]}
    last = parts.evaluator.evaluation.measured_steps(parts.algorithm.inner.steps)[-1]
    rows = []
    for steps, phi in zip([0, last], parts.algorithm.adaptations(theta, parts.problem, tasks, [0, last]), strict=True):
        seen: list[Bodies] = []
        problem.collect(TaskBatch(None, None, latent), phi, QUERY, steps, seen.append)
        panels = []
        for task in range(len(tasks)):
            states = torch.stack([torch.from_numpy(state.physics[task, 0]) for state in seen])
            drawn = frames(source.robot.model, states.numpy(), _WIDTH, _HEIGHT)
            if isinstance(drawn, str):
                _logger.warning("figures.video=true: %s", drawn)
                return
            panels.append(torch.from_numpy(drawn.copy()))
        rows.append(torch.cat(panels, 2))
    film(path, torch.cat(rows, 1), 0.01 * source.frame_skip)
