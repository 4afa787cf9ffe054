"""The second day, from end to end: train, predict on pictures of one's own, export, test again; by commands and in Python."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import metarun
from metarun.tasks.sources.glyphs import glyphs

from .training.small import python

TRAINING = (
    "dataset=glyphs", "model.width=16", "schedule.steps=60", "schedule.eval_every=20", "evaluation.tasks=20",
    "evaluation.val_tasks=10", "device.program=eager", "device.threads=1", "tracker=none", "run.folder=trained",
)  # fmt: skip
NAMES = ["alef", "bet", "gimel", "dalet", "he"]


def said(*words: str, folder: Path) -> str:
    """What a command prints; it must end well."""
    with python("-m", "metarun", *words, cwd=folder) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


@pytest.mark.scenario
def test_the_second_day(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said(*TRAINING, folder=tmp_path)

    # Five new characters, black on white, at another size than the training's: two drawings to learn from, four to recognise.
    alphabet = glyphs({"train": 1, "val": 1, "test": 5}, 6, 105, 99)
    for name, class_id in zip(NAMES, alphabet.splits["test"].tolist(), strict=True):
        for k in range(6):
            ink = alphabet.items[int(alphabet.starts[class_id]) + k, 0]
            path = tmp_path / ("new" if k > 1 else "known") / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 - ink).numpy()).save(path)
    known, new = (sorted((tmp_path / folder).rglob("*.png")) for folder in ("known", "new"))

    # Predict at the command line ...
    task = ("--support", "known", "--query", "new")
    together = ("--batch-norm", "transductive")  # as the run's test: a plain module does so, too
    told = said("predict", "trained", *task, *together, "--format", "csv", folder=tmp_path)
    rows = list(csv.DictReader(io.StringIO(told)))
    assert [row["image"] for row in rows] == [str(file.relative_to(tmp_path)) for file in new]

    # ... in Python ...
    run = metarun.load("trained", batch_norm="transductive")
    labels = [file.parent.name for file in known]
    model = run.adapt(known, labels)
    assert model.classes == tuple(sorted(NAMES))
    assert model.predict(new) == [row["label"] for row in rows]
    probabilities = model.probabilities(new)
    stated = torch.tensor([float(row["probability"]) for row in rows])
    torch.testing.assert_close(probabilities.max(-1).values, stated, rtol=1e-5, atol=1e-6)

    # ... and by hand: a plain module, plain gradient descent with the step size and the number of steps of the test.
    module, inputs = run.module(), run.model_inputs(known)
    targets = torch.tensor([model.classes.index(label) for label in labels])
    for _ in range(3):
        gradients = torch.autograd.grad(F.cross_entropy(module(inputs), targets), list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= 0.4 * gradient
    with torch.no_grad():
        by_hand = module(run.model_inputs(new)).softmax(-1)
    torch.testing.assert_close(by_hand, probabilities, rtol=1e-4, atol=1e-5)

    # The files that need no metarun give the same.
    images = torch.stack([torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in new])
    images = images.view(len(new), 1, 105, 105)
    said("export", "trained", "--support", "known", "--to", "model.pt2", *together, folder=tmp_path)
    with torch.no_grad():
        exported = torch.export.load("model.pt2").module()(images)
    assert (exported - probabilities).abs().max() < 1e-5
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install -e '.[onnx]'")
    said("export", "trained", "--support", "known", "--to", "model.onnx", *together, folder=tmp_path)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    assert (torch.from_numpy(found) - probabilities).abs().max() < 1e-5

    # Tested again, the same by both ways in.
    said("evaluate", "trained", "evaluation.tasks=30", folder=tmp_path)
    (stored,) = (tmp_path / "trained" / "evaluations").iterdir()
    assert json.loads(stored.read_text())["results"] == run.evaluate("evaluation.tasks=30")["results"]
