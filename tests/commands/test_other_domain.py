"""metarun.commands.other_domain: `metarun evaluate RUN_DIR dataset=OTHER` fits the data to the model, and says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.func import functional_call

from metarun.build import make_parts
from metarun.commands.other_domain import as_trained, domain_of
from metarun.errors import ConfigurationError
from metarun.tasks.episodes import Episodes
from metarun.tasks.sources.folder import folder as images_of

from ..tasks.small_archives import noise
from ..training.small import GLYPHS, SIX_STEPS, configuration, run_here

PICTURES = {f"bird {c}": 8 for c in range(7)}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Seven classes of colour, 84x84, as mini-ImageNet's are."""
    root = tmp_path_factory.mktemp("birds")
    for name, count in PICTURES.items():
        (root / name).mkdir()
        for k in range(count):
            Image.fromarray(noise(name, k, size=(84, 84, 3))).save(root / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    """The folder of a run on glyphs, 14x14 in grey, five ways."""
    path = tmp_path_factory.mktemp("grey") / "run"
    assert run_here(*SIX_STEPS, *GLYPHS, "device.program=eager", f"run.folder={path}") == 0
    return path


def newest(run: Path) -> dict:
    files = (run / "evaluations").iterdir()
    return json.loads(max(files, key=lambda path: path.stat().st_mtime_ns).read_text())


def by_hand(run: Path, episodes: Episodes, num_tasks: int, steps: int) -> list[float]:
    """Accuracies on test episodes: the network as a plain module, its batch statistics of the set at hand, and gradient steps."""
    config = json.loads((run / "config.json").read_text())
    module = make_parts(config).learner.module
    theta = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["theta"]
    rate, found = config["algorithm"]["inner"]["step_size"], []
    for task in range(num_tasks):
        batch = episodes.sample(0, "test", torch.tensor([task]), 1, 5)
        (x, y), (query, answers) = ((part.inputs[0], part.targets[0]) for part in (batch.support_set, batch.query_set))
        phi = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
        for _ in range(steps):
            gradients = torch.autograd.grad(F.cross_entropy(functional_call(module, phi, x), y), list(phi.values()))
            moved = zip(phi.items(), gradients, strict=True)
            phi = {name: (leaf - rate * g).detach().requires_grad_() for (name, leaf), g in moved}
        found.append(float((functional_call(module, phi, query).argmax(-1) == answers).float().mean()))
    return found


def test_colour_pictures_of_another_size_are_tested_as_by_hand(grey, pictures, cache, capsys):
    words = ("dataset=folder", f"dataset.path={pictures}", f"data.cache={cache}", "evaluation.tasks=6")
    assert run_here("evaluate", str(grey), *words) == 0
    said = f"note: another domain: trained on glyphs, tested on folder {pictures}; its images are "
    assert said + "resized to 14x14, made grey and inverted, as in training" in capsys.readouterr().out
    result = newest(grey)
    assert (result["trained_on"], result["tested_on"]) == ("glyphs", f"folder {pictures}")
    assert result["protocol"]["dataset"] == result["config"]["choices"]["dataset"] == "folder"
    assert (result["protocol"]["ways"], result["protocol"]["shots"], result["protocol"]["queries"]) == (5, 1, 5)
    # All seven classes are the test's: none of them was trained on.
    store = images_of(str(pictures), cache, 14, 1, None, [0, 0, 1], 0, None)
    assert store.names("test") == list(PICTURES) and store.items.shape == (56, 1, 14, 14)
    episodes = Episodes(store=store, ways=5, rotations=False, inverted=True)
    for row in result["results"]:
        expected = by_hand(grey, episodes, 6, row["inner_steps"])
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert row["accuracy"]["num_tasks"] == 6


def test_the_order_of_the_words_does_not_matter(grey, pictures, cache):
    words = [f"dataset.path={pictures}", "dataset=folder", f"data.cache={cache}", "evaluation.tasks=6"]
    assert run_here("evaluate", str(grey), *words) == 0
    one = newest(grey)["results"]
    assert run_here("evaluate", str(grey), *reversed(words)) == 0
    assert newest(grey)["results"] == one


def test_grey_drawings_are_given_three_equal_channels(pictures, cache, tmp_path, capsys):
    """A network trained in colour on glyphs: three equal channels, whose weights could be added up to one."""
    run = tmp_path / "run"
    colour = (
        "dataset=folder",
        f"dataset.path={pictures}",
        f"data.cache={cache}",
        "dataset.image_size=16",
        "model.width=4",
    )
    sizes = ("dataset.ways=2", "dataset.test_queries=5", "dataset.queries=2", "dataset.split_fractions=[0.4,0.3,0.3]")
    assert run_here(*SIX_STEPS, *colour, *sizes, "device.program=eager", f"run.folder={run}") == 0
    few = "dataset.source.store.num_classes={train: 1, val: 1, test: 6}"
    capsys.readouterr()
    assert run_here("evaluate", str(run), "dataset=glyphs", few, "evaluation.tasks=6") == 0
    assert (
        "tested on glyphs; its images are resized to 16x16, made colour and inverted, as in training"
        in capsys.readouterr().out
    )
    result = newest(run)
    assert result["config"]["dataset"]["source"]["channels"] == 3 and result["protocol"]["ways"] == 2
    grey = make_parts(
        configuration("dataset=glyphs", "dataset.image_size=16", "dataset.ways=2", few, *SIX_STEPS),
        is_trained_here=False,
    )
    episodes = Episodes(store=grey.source.store, ways=2, rotations=False, channels=3, inverted=True)
    inputs = episodes.sample(0, "test", torch.arange(2), 1, 5).query_set.inputs
    single = grey.source.sample(0, "test", torch.arange(2), 1, 5).query_set.inputs
    ink = (255 * single).round()
    assert torch.equal(inputs, ((255 - ink) * (1 / 255)).expand(-1, -1, 3, -1, -1))
    for row in result["results"]:
        expected = by_hand(run, episodes, 6, row["inner_steps"])
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_curves_of_another_kind(tmp_path, capsys):
    run = tmp_path / "run"
    assert run_here(*SIX_STEPS, "device.program=eager", f"run.folder={run}") == 0
    assert run_here("evaluate", str(run), "dataset=harmonic") == 0
    assert "another domain: trained on sinusoid, tested on harmonic\n" in capsys.readouterr().out
    result = newest(run)
    assert (result["trained_on"], result["tested_on"]) == ("sinusoid", "harmonic")
    # Tests of the run's own data say so too, and need no note.
    assert run_here("evaluate", str(run)) == 0
    assert "another domain" not in capsys.readouterr().out
    assert newest(run)["trained_on"] == newest(run)["tested_on"] == "sinusoid"
    for words, message in {
        ("dataset=glyphs",): "the run learned regression, and dataset=glyphs is for classification",
        ("dataset=bandit",): "the run learned regression, and dataset=bandit is for policies",
    }.items():
        assert run_here("evaluate", str(run), *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"metarun: error: {message}: its model cannot be tested there."


def test_what_does_not_fit_is_refused_in_one_line(grey, pictures, cache, capsys):
    own = ("dataset=folder", f"dataset.path={pictures}", f"data.cache={cache}")
    for words, message in {
        ("dataset=letter",): "the run was trained on images, and dataset=letter has none.",
        (*own, "dataset.ways=6"): "the model must be the one that was trained, and ",
        (*own, "dataset.test_ways=8"): "the model needs an output for each of the 8 ways of split test, got 5. ",
        ("dataset=harmonic",): "the run learned classification, and dataset=harmonic is for regression: ",
    }.items():
        assert run_here("evaluate", str(grey), *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_the_runs_own_data_set_keeps_its_own_split(grey):
    """Named again it must not be split anew: classes of the training could come into the test."""
    assert run_here("evaluate", str(grey), "dataset=glyphs") == 0
    stored = json.loads((grey / "config.json").read_text())
    assert newest(grey)["config"]["dataset"] == stored["dataset"]
    assert newest(grey)["results"] == json.loads((grey / "result.json").read_text())["results"]


def test_settings_are_fitted():
    trained = configuration("dataset=letter", "dataset.ways=4", "dataset.output_size=6")["dataset"]
    other = configuration("dataset=plants_margin")["dataset"]
    with pytest.raises(
        ConfigurationError, match="was trained on examples of 16 numbers, and those of dataset=plants_margin have 64"
    ):
        as_trained("plants_margin", other, trained)
    fitted = as_trained("letter", configuration("dataset=letter")["dataset"], trained)
    assert (fitted["ways"], fitted["test_ways"], fitted["val_ways"], fitted["output_size"]) == (4, 4, None, 6)
    table = as_trained("table", configuration("dataset=table")["dataset"], trained)
    # Its features are standardised by its own training classes, so that it keeps some.
    assert table["split_fractions"] == [0.6, 0.2, 0.2] and table["input_shape"] is None
    two = configuration("dataset=sinusoid")["dataset"] | {"output_size": 2}
    with pytest.raises(ConfigurationError, match=r"the run's model has 1 output\(s\), and dataset=two asks for 2"):
        as_trained("two", two, configuration("dataset=sinusoid")["dataset"])


def test_a_domain_is_named_with_the_path_of_ones_own_data():
    assert domain_of(configuration("dataset=glyphs")) == "glyphs"
    assert domain_of(configuration("dataset=table", "dataset.path=a.csv")) == "table a.csv"
