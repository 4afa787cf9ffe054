"""Runs on tables and arrays: what a person gives is scaled as in training, and predictions come in the person's units."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import metarun
from metarun.command_line.main import main

from .runs import trained
from .test_run import by_hand

SETTINGS = ("device.dtype=float64", "dataset.shots=3", "dataset.queries=3", "algorithm.inner.step_size=0.05")


@pytest.fixture(scope="module")
def regression(tmp_path_factory) -> Path:
    """The folder of a run on a table of twelve people, whose doses are in the hundreds and effects in the thousands."""
    root = tmp_path_factory.mktemp("regression")
    rng = np.random.default_rng(0)
    rows = [
        (f"p{t}", 300 + 50 * rng.normal(), rng.normal(), 4000 + 900 * rng.normal()) for t in range(12) for _ in range(8)
    ]
    with (root / "people.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("who", "dose", "day", "effect"), *rows])
    own = (f"dataset.path={root / 'people.csv'}", "dataset.target=effect", "dataset.task=who")
    return trained(root / "run", "dataset=table_regression", *own, *SETTINGS, "dataset.standardise_target=true")


def scales(folder: Path) -> tuple[dict, dict]:
    """Mean and deviation of the training rows, by NumPy: of features and of targets."""
    data = json.loads((folder / "data.json").read_text())
    with (folder.parent / "people.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["who"] in data["splits"]["train"]]
    found = []
    for names in (("dose", "day"), ("effect",)):
        values = np.array([[float(row[name]) for name in names] for row in rows])
        found.append({"mean": torch.tensor(values.mean(0)), "std": torch.tensor(values.std(0))})
    return found[0], found[1]


def test_a_regression_is_adapted_and_predicts_in_a_persons_units(regression):
    features, targets = scales(regression)
    x = torch.tensor([[310.0, 0.5], [250.0, -1.0], [330.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([4100.0, 3900.0, 5000.0], dtype=torch.float64)
    (regression.parent / "people.csv").rename(regression.parent / "away.csv")  # it need not be there
    run = metarun.load(regression)
    (regression.parent / "away.csv").rename(regression.parent / "people.csv")
    module = run.module()
    inputs, wanted = (x - features["mean"]) / features["std"], (y[:, None] - targets["mean"]) / targets["std"]
    by_hand(module, lambda: F.mse_loss(module(inputs), wanted), run.steps, 0.05)
    with torch.no_grad():
        expected = module(inputs) * targets["std"] + targets["mean"]
    adapted = run.adapt(x, y)
    torch.testing.assert_close(adapted.predict(x), expected, rtol=1e-10, atol=1e-8)
    assert adapted.evaluate(x, y)["mse"] == pytest.approx(float(((expected - y[:, None]) ** 2).mean()), rel=1e-9)


def test_files_have_the_columns_of_training_in_any_order(regression, tmp_path, capsys):
    """The same predictions as in Python, from columns in another order than those of training."""
    x, y = [[310.0, 0.5], [250.0, -1.0], [330.0, 0.0]], [4100.0, 3900.0, 5000.0]
    support, query = tmp_path / "support.csv", tmp_path / "query.csv"
    lines = [f"{day},{target},{dose}" for (dose, day), target in zip(x, y, strict=True)]
    support.write_text("\n".join(["day,effect,dose", *lines]))
    query.write_text("day,dose\n0.25,300\n")
    capsys.readouterr()
    words = ["predict", str(regression), "--support", str(support), "--query", str(query), "--format", "csv"]
    assert main(words) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    expected = metarun.load(regression).adapt(x, y).predict([[300.0, 0.25]])
    assert float(row["effect"]) == pytest.approx(float(expected), rel=1e-6)
    query.write_text("day,amount\n0.25,300\n")
    assert main(words) == 2
    said = "this run was trained on the columns dose, day, and --support and --query must have them all."
    assert said in capsys.readouterr().err


def test_an_exported_model_scales_by_itself(regression, tmp_path):
    x, y = torch.tensor([[310.0, 0.5], [250.0, -1.0]]), torch.tensor([4100.0, 3900.0])
    adapted = metarun.load(regression, device="cpu").adapt(x, y)
    adapted.export(tmp_path / "model.pt2")
    with torch.no_grad():
        found = torch.export.load(tmp_path / "model.pt2").module()(x)
    torch.testing.assert_close(found, adapted.predict(x), rtol=1e-9, atol=1e-6)


def test_arrays_of_classes_are_scaled_place_by_place(tmp_path):
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(12), 8)
    inputs = 50 + 9 * rng.normal(size=(96, 2, 3))
    split = np.array(["train"] * 8 + ["val"] * 2 + ["test"] * 2)
    np.savez(tmp_path / "x.npz", X=inputs, y=y, split=split)
    own = ("dataset=arrays", f"dataset.path={tmp_path / 'x.npz'}", "dataset.ways=2")
    run = metarun.load(trained(tmp_path / "run", *own, *SETTINGS))
    training = inputs[y < 8]
    given = inputs[y >= 10][::8]
    scaled = (torch.tensor(given) - torch.tensor(training.mean(0))) / torch.tensor(training.std(0))
    torch.testing.assert_close(run.inputs(given, {}), scaled, rtol=1e-12, atol=1e-12)
    adapted = run.adapt(given, ["a", "b"])
    again = run.adapt(scaled, ["a", "b"], prepared=True)
    torch.testing.assert_close(adapted.outputs(given), again.outputs(scaled, prepared=True), rtol=1e-12, atol=1e-12)
