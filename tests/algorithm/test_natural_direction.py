"""The default direction against the natural gradient of many other tasks: the script of that name on a smaller net."""

import importlib.util
from pathlib import Path

import pytest
import torch

from metarun.maths.trees import ravel

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "how_natural_is_the_direction.py"
SMALLER = (
    "model.width=4",
    "model.norm=none",
    "dataset.image_size=16",
    "dataset.ways=3",
    "dataset.queries=2",
    "algorithm.direction.damping=0.01",
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_factors_averaged_over_steps_point_where_very_many_tasks_do(script, float64):
    """Cosines with (F_400 + damping I)^-1 g_bar at the start and after 15 steps, and how far the gradient itself is from it."""
    parts = script.parts_of(list(SMALLER))
    theta, state = parts.theta, parts.algorithm.start()
    for step in range(16):
        estimate = parts.algorithm.meta_step(
            theta=theta,
            problem=parts.problem,
            tasks=script.tasks_of(parts, 0, step * 8 + torch.arange(8)),
            state=state,
            step=step,
        )
        state = estimate.state
        move = ravel({name: leaf[None] for name, leaf in estimate.gradient.items()})[0]
        if step in (0, 15):
            mean = state["mean"][0]
            matrix = script.fisher(parts, theta, script.tasks_of(parts, 99, torch.arange(400)))
            natural = torch.linalg.solve(matrix + 0.01 * torch.eye(len(mean)), mean)
            ours, plain = script.cosine(move, natural), script.cosine(mean, natural)
            assert ours >= 0.8
            assert plain < ours if step == 0 else plain <= 0.7 * ours
        theta = theta.updated(script._moved(theta, move))
