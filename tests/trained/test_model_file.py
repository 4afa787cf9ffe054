"""metarun.trained.model_file: the file gives what the adapted model gives, for images of any size and any number of them."""

import json
import sys

import pytest
import torch

import metarun
from metarun import rng
from metarun.errors import ConfigurationError
from metarun.trained.model_file import NOTES

from ..training.small import GLYPHS
from .runs import bytes_of, files_of, trained


@pytest.fixture(scope="module")
def float32_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "single", *GLYPHS)


def numbers(*shape: int) -> torch.Tensor:
    return (256 * rng.uniform(rng.key(1, "pictures"), torch.arange(shape[0]), *shape[1:])).to(torch.uint8)


def outputs(path, given: torch.Tensor) -> torch.Tensor:
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(given)
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'metarun[onnx]'")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: given.numpy()})[0])


@pytest.mark.parametrize("batch_norm", ["support", "transductive"])
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_an_exported_classifier_is_predict(kind, batch_norm, float32_run, pictures, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'metarun[onnx]'")
    support, labels = files_of(pictures / "support")
    query, _ = files_of(pictures / "query")
    adapted = metarun.load(float32_run, batch_norm=batch_norm).adapt(support, labels)
    path = tmp_path / "deep" / f"model.{kind}"
    adapted.export(path)
    assert sorted(path.parent.iterdir()) == [path], "nothing beside it"
    files = torch.stack([bytes_of(file) for file in query])
    assert (outputs(path, files) - adapted.probabilities(query)).abs().max() < 1e-5
    for shape in ((1, 1, 40, 25), (6, 1, 9, 14), (2, 1, 14, 14)):
        given = numbers(*shape)
        assert (outputs(path, given) - adapted.probabilities(given)).abs().max() < 1e-5, shape


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_an_exported_regression_is_predict(kind, sinusoid_run, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'metarun[onnx]'")
    adapted = metarun.load(sinusoid_run).adapt([0.0, 1, 2], [1.0, 0, 1])
    path = tmp_path / f"model.{kind}"
    adapted.export(path)
    given = torch.tensor([[0.25], [1.5], [-4]])
    assert (outputs(path, given) - adapted.predict(given)).abs().max() < 1e-5


def test_the_file_says_what_it_takes_and_gives(float32_run, pictures, tmp_path):
    support, labels = files_of(pictures / "support")
    adapted = metarun.load(float32_run).adapt(support, labels)
    adapted.export(tmp_path / "model.pt2")
    extra = {NOTES: ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    said = json.loads(extra[NOTES])
    assert said["classes"] == [f"sign {k}" for k in range(5)]
    assert said["inputs"] == {
        "shape": ["Q", 1, "height", "width"], "dtype": "uint8", "black": 0, "white": 255,
        "done_inside": "cropped to the middle square, resized to 14x14, inverted and scaled to [0, 1]",
    }  # fmt: skip
    assert said["normalised_by"] == "the support set, which the file holds"
    assert (said["outputs"], said["inner_steps"], said["run"]) == ("probabilities", 3, "single")
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'metarun[onnx]'")
    adapted.export(tmp_path / "model.onnx")
    held = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(held[NOTES]) == said


def test_other_endings_and_a_missing_extra_are_refused(sinusoid_run, tmp_path, monkeypatch):
    adapted = metarun.load(sinusoid_run).adapt([0.0, 1], [1.0, 0])
    with pytest.raises(ConfigurationError, match=r"a file that ends in \.pt2 or \.onnx, got .*model\.pt$"):
        adapted.export(tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'metarun\[onnx\]'"):
        adapted.export(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
