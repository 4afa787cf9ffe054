"""metarun.tasks.sinusoid: the curve, its ranges, and tasks as functions of (seed, split, index)."""

import math

import pytest
import torch

from metarun.tasks.sinusoid import Sinusoid, true_function

FINN = Sinusoid(amplitude=(0.1, 5.0), phase=(0.0, math.pi), inputs=(-5.0, 5.0))


def test_targets_are_the_curve_that_latent_names():
    batch = FINN.sample(3, "train", torch.arange(6), shots=5, queries=7)
    assert (FINN.input_shape, FINN.output_size) == ((1,), 1)
    for part, number in ((batch.support, 5), (batch.query, 7)):
        assert part.inputs.shape == part.targets.shape == (6, number, 1)
        assert part.inputs.dtype == part.targets.dtype == torch.float64
        for task in range(6):
            amplitude, phase = float(batch.latent["amplitude"][task]), float(batch.latent["phase"][task])
            for x, y in zip(part.inputs[task, :, 0].tolist(), part.targets[task, :, 0].tolist(), strict=True):
                assert y == pytest.approx(amplitude * math.sin(x - phase), rel=1e-14, abs=1e-14)
        assert torch.equal(part.targets, true_function(batch.latent, part.inputs))


def test_true_function_in_closed_form():
    latent = {"amplitude": torch.tensor([2.0, 3.0]), "phase": torch.tensor([0.0, math.pi / 2])}
    curve = true_function(latent, torch.tensor([[[math.pi / 2]], [[math.pi]]]))
    assert torch.allclose(curve, torch.tensor([[[2.0]], [[3.0]]]))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("amplitude", 0.1, 5.0), ("phase", 0.0, math.pi), ("support", -5.0, 5.0), ("query", -5.0, 5.0)],
)
def test_ranges_are_uniform(name, low, high):
    batch = FINN.sample(0, "train", torch.arange(20_000), 1, 1)
    drawn = batch.latent[name] if name in batch.latent else getattr(batch, name).inputs.flatten()
    assert float(drawn.min()) >= low and float(drawn.max()) < high
    counts = torch.histc(drawn, 20, low, high)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 19 + 4 * 38**0.5  # four standard deviations of chi^2


def test_amplitude_phase_support_and_query_are_uncorrelated():
    batch = FINN.sample(0, "train", torch.arange(20_000), 1, 1)
    columns = [*batch.latent.values(), batch.support.inputs.flatten(), batch.query.inputs.flatten()]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(4)
    assert float(correlation.abs().max()) < 4 / 20_000**0.5


def test_a_task_does_not_depend_on_its_batch():
    whole, some = FINN.sample(0, "val", torch.arange(50), 5, 5), torch.tensor([49, 7, 7])
    part = FINN.sample(0, "val", some, 5, 5)
    # sin may round differently in a vector's tail, so targets are equal to rounding and what they come from exactly.
    assert torch.equal(part.support.inputs, whole.support.inputs[some])
    assert torch.equal(part.query.inputs, whole.query.inputs[some])
    assert all(torch.equal(part.latent[name], whole.latent[name][some]) for name in whole.latent)
    assert torch.allclose(part.query.targets, whole.query.targets[some], rtol=1e-14, atol=1e-14)


def test_support_and_query_are_separate_sequences_that_only_grow():
    small, large = FINN.sample(0, "train", torch.arange(9), 5, 10), FINN.sample(0, "train", torch.arange(9), 20, 100)
    assert torch.equal(small.support.inputs, large.support.inputs[:, :5])
    assert torch.equal(small.query.inputs, large.query.inputs[:, :10])
    assert all(torch.equal(small.latent[name], large.latent[name]) for name in small.latent)
    assert not bool((small.support.inputs == small.query.inputs[:, :5]).any())


def test_seeds_and_splits_give_other_tasks():
    drawn = [
        FINN.sample(seed, split, torch.arange(9), 1, 1).latent["phase"]
        for seed in (0, 1)
        for split in ("train", "val", "test")
    ]
    assert len(torch.stack(drawn).unique()) == 6 * 9


def test_bad_ranges_and_numbers_name_their_key():
    with pytest.raises(ValueError, match=r"phase must be .* got \[2, 1\]\. Set dataset\.source\.phase"):
        Sinusoid(amplitude=(1, 2), phase=(2, 1), inputs=(0, 1))
    with pytest.raises(ValueError, match=r"amplitude must be > 0"):
        Sinusoid(amplitude=(0, 2), phase=(0, 1), inputs=(0, 1))
    with pytest.raises(ValueError, match=r"dataset\.shots"):
        FINN.check("train", 0, 1)
    with pytest.raises(ValueError, match=r"evaluation\.queries"):
        FINN.check("train", 1, 0)
    FINN.check("train", 1, 1)
