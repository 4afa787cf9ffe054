"""Differences of gradients on nets with kinks: close where no kink is near, and otherwise said to be far off."""

import pytest
import torch

from metarun import rng
from metarun.algorithm import Recursion, Unrolled
from metarun.models.conv4 import Conv4
from metarun.models.learner import Learner
from metarun.problems.classification import Classification
from metarun.tasks.episodes import Episodes
from metarun.tasks.sources.glyphs import glyphs
from tests.calls import task_gradients

from .closed_forms import composed, descent

BOUND = {torch.float32: 0.02, torch.float64: 2e-9}  # 0.013 and 3e-10 measured; with steps of eps^(1/3): 0.9 to 9


@pytest.fixture(scope="module")
def source() -> Episodes:
    store = glyphs({"train": 8, "val": 5, "test": 5}, 6, 28, 0)
    return Episodes(store=store, ways=5, rotations=False, flips=False, crop_padding=0, residence="auto")


def estimates(source: Episodes, norm: str, dtype: torch.dtype):
    """HF-MAML's, in `dtype`, and the exact one, of two tasks at the start."""
    with rng.seeded_construction(0, "test"):
        learner = Learner(Conv4(input_shape=(1, 28, 28), num_outputs=5, width=32, norm=norm))
    theta, problem = learner.init(), Classification(learner)
    found = []
    for estimator, kind in ((Recursion(curvature="finite_difference"), dtype), (Unrolled(), torch.float64)):
        learner.to("cpu", kind)
        tasks = source.sample(0, "train", torch.arange(2), 1, 5).to("cpu", kind)
        leaves = {name: leaf.to(kind) for name, leaf in theta.items()}
        found.append(task_gradients(composed(descent(1, 0.4), estimator), leaves, problem, tasks))
    return found


def relative_error(found, exact) -> torch.Tensor:
    flat = [torch.cat([leaf.double().flatten(1) for leaf in each.gradient.values()], 1) for each in (found, exact)]
    return (flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1)


@pytest.mark.parametrize("dtype", BOUND)
def test_hf_maml_on_a_batch_normalised_net(dtype, source):
    found, exact = estimates(source, "batch", dtype)
    assert (relative_error(found, exact) <= BOUND[dtype]).all()
    assert (found.stats["curvature/disagreement"] <= 3 * BOUND[dtype] + 1e-5).all()


def test_a_net_that_lies_on_its_kinks_is_told(source):
    """No norm and biases of zero: where an image is blank every unit is at zero exactly."""
    found, exact = estimates(source, "none", torch.float64)
    assert (relative_error(found, exact) > 1).all()
    assert (found.stats["curvature/disagreement"] > 0.5).all()


def test_the_warning_in_words():
    recursion = Recursion(curvature="finite_difference")
    assert recursion.diagnosis({"train/curvature/disagreement": 0.1}) is None
    assert recursion.diagnosis({}) is None
    text = recursion.diagnosis({"train/curvature/disagreement": 0.321})
    assert text.startswith("curvature by differences of gradients is off by some 32 %")
    assert "algorithm.meta_gradient.curvature=hessian" in text
