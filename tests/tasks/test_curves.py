"""metarun.tasks.harmonic and sinusoid_and_line: torchmeta's functions and ranges, tasks as functions of their index."""

import importlib.util
import math

import pytest
import torch

from metarun.tasks import harmonic, sinusoid_and_line
from metarun.tasks.curves import normal
from metarun.tasks.harmonic import Harmonic
from metarun.tasks.sinusoid_and_line import SinusoidAndLine

LACOSTE = Harmonic(centre=(-4.0, 4.0), frequency=(5.0, 7.0), phase=(0.0, 2 * math.pi))
FINN = SinusoidAndLine(
    amplitude=(0.1, 5.0), phase=(0.0, math.pi), slope=(-3.0, 3.0), intercept=(-3.0, 3.0), inputs=(-5.0, 5.0)
)
BOTH = [LACOSTE, FINN]


def test_harmonic_targets_are_the_sum_that_latent_names():
    batch = LACOSTE.sample(3, "train", torch.arange(6), shots=5, queries=7)
    for part, number in ((batch.support, 5), (batch.query, 7)):
        assert part.inputs.shape == part.targets.shape == (6, number, 1) and part.inputs.dtype == torch.float64
        for task in range(6):
            w = float(batch.latent["frequency"][task])
            (a1, a2), (b1, b2) = (batch.latent[name][task].tolist() for name in ("amplitudes", "phases"))
            for x, y in zip(part.inputs[task, :, 0].tolist(), part.targets[task, :, 0].tolist(), strict=True):
                assert y == pytest.approx(a1 * math.sin(w * x + b1) + a2 * math.sin(2 * w * x + b2), abs=1e-12)


def test_sinusoid_and_line_targets_are_those_of_its_kind():
    batch = FINN.sample(3, "train", torch.arange(40), shots=5, queries=7)
    assert 10 < int(batch.latent["is_line"].sum()) < 30
    for task in range(40):
        latent = {name: value[task].item() for name, value in batch.latent.items()}
        for x, y in zip(batch.query.inputs[task, :, 0].tolist(), batch.query.targets[task, :, 0].tolist(), strict=True):
            line = latent["intercept"] + latent["slope"] * x
            sine = latent["amplitude"] * math.sin(x - latent["phase"])
            assert y == pytest.approx(line if latent["is_line"] else sine, rel=1e-13, abs=1e-13)


def test_normal_is_the_inverse_of_the_distribution_function():
    unit = torch.tensor([0.0, 2.0**-53, 0.025, 0.5, 0.975, 1 - 2.0**-53], dtype=torch.float64)
    drawn = normal(unit)
    assert torch.allclose(drawn[2:5], torch.tensor([-1.959963984540054, 0.0, 1.959963984540054]).double(), atol=1e-12)
    assert bool(drawn.isfinite().all()) and float(drawn[0]) < -8


@pytest.mark.parametrize(
    ("source", "name", "low", "high"),
    [
        (LACOSTE, "centre", -4, 4),
        (LACOSTE, "frequency", 5, 7),
        (LACOSTE, "phases", 0, 2 * math.pi),
        (FINN, "amplitude", 0.1, 5),
        (FINN, "phase", 0, math.pi),
        (FINN, "slope", -3, 3),
        (FINN, "intercept", -3, 3),
        (FINN, "support", -5, 5),
        (FINN, "query", -5, 5),
    ],
)
def test_ranges_are_uniform(source, name, low, high):
    batch = source.sample(0, "train", torch.arange(20_000), 1, 1)
    drawn = batch.latent[name] if name in batch.latent else getattr(batch, name).inputs
    drawn = drawn.flatten()[:20_000]
    assert float(drawn.min()) >= low and float(drawn.max()) < high
    counts = torch.histc(drawn, 20, low, high)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 19 + 4 * 38**0.5  # four standard deviations of chi^2


@pytest.mark.parametrize("name", ["amplitudes", "support", "query"])
def test_normal_draws_are_standard(name):
    batch = LACOSTE.sample(0, "train", torch.arange(20_000), 1, 1)
    drawn = batch.latent[name][:, 0] if name in batch.latent else getattr(batch, name).inputs[:, 0, 0]
    drawn = drawn if name == "amplitudes" else drawn - batch.latent["centre"]
    uniform = 0.5 * (1 + torch.erf(drawn / 2**0.5))
    counts = torch.histc(uniform, 20, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 19 + 4 * 38**0.5


def test_half_of_the_tasks_are_lines():
    share = FINN.sample(0, "train", torch.arange(10_000), 1, 1).latent["is_line"].double().mean()
    assert abs(float(share) - 0.5) < 4 * 0.005


@pytest.mark.parametrize("source", BOTH, ids=["harmonic", "sinusoid_and_line"])
def test_tasks_are_functions_of_seed_split_and_index(source):
    whole, some = source.sample(0, "val", torch.arange(50), 5, 5), torch.tensor([49, 7, 7])
    part = source.sample(0, "val", some, 5, 5)
    assert torch.equal(part.support.inputs, whole.support.inputs[some])
    assert torch.equal(part.query.inputs, whole.query.inputs[some])
    assert all(torch.equal(part.latent[name], whole.latent[name][some]) for name in whole.latent)
    large = source.sample(0, "val", torch.arange(50), 9, 30)
    assert torch.equal(whole.support.inputs, large.support.inputs[:, :5])
    assert torch.equal(whole.query.inputs, large.query.inputs[:, :5])
    firsts = [
        source.sample(s, split, torch.arange(3), 1, 1).support.inputs for s in (0, 1) for split in ("train", "val")
    ]
    assert len(torch.cat(firsts).unique()) == 12


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: Harmonic(centre=(1, 0), frequency=(5, 7), phase=(0, 1)),
            r"centre must be .* Set dataset\.source\.centre",
        ),
        (
            lambda: SinusoidAndLine(amplitude=(0, 1), phase=(0, 1), slope=(0, 1), intercept=(0, 1), inputs=(0, 1)),
            "amplitude must be > 0",
        ),
        (lambda: LACOSTE.check("train", 0, 1), r"dataset\.shots"),
        (lambda: FINN.check("train", 1, 0), r"evaluation\.queries"),
    ],
)
def test_bad_ranges_and_numbers_name_their_key(source, message):
    with pytest.raises(ValueError, match=message):
        source()


def test_torchmeta_computes_the_same_curves():
    """Its own tasks, with the numbers that it drew put into our functions."""
    if importlib.util.find_spec("torchmeta") is None:
        pytest.skip("torchmeta is not installed")
    from metarun.tasks.sources.torchmeta_compat import patched

    patched()
    from torchmeta.toy.harmonic import Harmonic as TheirHarmonic
    from torchmeta.toy.sinusoid_line import SinusoidAndLine as TheirMixture

    def tensor(values: object) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64)

    theirs = TheirHarmonic(num_samples_per_task=6, num_tasks=20)
    theirs.seed(0)
    for position in range(20):
        task = theirs[position]
        latent = {
            "frequency": tensor([task.frequency]),
            "phases": tensor(task.phases)[None],
            "amplitudes": tensor(task.amplitudes)[None],
        }
        assert LACOSTE.centre[0] <= task.domain <= LACOSTE.centre[1]
        assert LACOSTE.frequency[0] <= task.frequency <= LACOSTE.frequency[1]
        found = harmonic.true_function(latent, tensor(task._inputs)[None])
        assert torch.allclose(found[0], tensor(task._targets), rtol=1e-12, atol=1e-12)
    theirs = TheirMixture(num_samples_per_task=6, num_tasks=20)
    theirs.seed(0)
    kinds = set()
    for position in range(20):
        task = theirs[position]
        is_line = not hasattr(task, "amplitude")
        kinds.add(is_line)
        latent = {"is_line": torch.tensor([is_line])} | {
            name: tensor([getattr(task, name, 1.0)]) for name in ("amplitude", "phase", "slope", "intercept")
        }
        found = sinusoid_and_line.true_function(latent, tensor(task._inputs)[None])
        assert torch.allclose(found[0], tensor(task._targets), rtol=1e-12, atol=1e-12)
    assert kinds == {True, False}
