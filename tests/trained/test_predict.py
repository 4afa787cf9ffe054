"""metarun.trained.predict and export: what `metarun predict` prints is what the model in Python gives."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import metarun
from metarun.trained import export
from metarun.trained.adapted import AdaptedModel

from ..screens import WIDTHS, assert_screen, commands_on, fits, no_broken_word
from ..training.small import GLYPHS, SIX_STEPS, run_here


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A run on glyphs, one on sinusoids, and pictures in folders."""
    root = tmp_path_factory.mktemp("predict")
    assert run_here(*SIX_STEPS, *GLYPHS, "device.program=eager", f"run.folder={root / 'glyphs'}") == 0
    assert run_here(*SIX_STEPS, "device.program=eager", f"run.folder={root / 'sinusoid'}") == 0
    for place in range(3):
        for k in range(3):
            image = Image.new("L", (20, 20), 255)
            image.paste(0, (2 + 5 * place, 2 + k, 6 + 5 * place, 14 + k))
            path = root / ("support" if k == 0 else "query") / "abc"[place] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return root


@pytest.fixture(autouse=True)
def here(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")


def predicted(*words: str) -> int:
    return run_here("predict", *words)


def test_all_three_formats_say_the_same(root, capsys):
    adapted = metarun.load("glyphs").adapt(sorted(Path("support").rglob("*.png")), list("abc"))
    files = sorted(Path("query").rglob("*.png"))
    probabilities = adapted.probabilities(files)
    order = probabilities.sort(dim=-1, descending=True, stable=True)
    expected = [
        (str(file), adapted.classes[p[0]], v[0], adapted.classes[p[1]], v[1])
        for file, v, p in zip(files, order.values.tolist(), order.indices.tolist(), strict=True)
    ]

    task = ("glyphs", "--support", "support", "--query", "query")
    assert predicted(*task, "--format", "csv") == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["image", "label", "probability", "runner_up", "runner_up_probability"]
    assert [(row[0], row[1], float(row[2]), row[3], float(row[4])) for row in rows] == expected

    assert predicted(*task, "--format", "json") == 0
    held = json.loads(capsys.readouterr().out)
    assert [tuple(row.values()) for row in held["predictions"]] == expected
    right = sum(Path(name).parent.name == label for name, label, *_ in expected)
    assert held["known_labels"] == {"correct": right, "of": 6}
    assert (held["classes"], held["inner_steps"], held["unreadable"]) == (["a", "b", "c"], 3, {})

    assert predicted(*task) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["image", "label", "%", "runner-up", "%"]
    for line, (name, label, first, other, second) in zip(lines[2:], expected, strict=False):
        assert line.split() == [name, label, f"{100 * first:.1f}", other, f"{100 * second:.1f}"]
    assert lines[-1] == f"{100 * right / 6:.1f} % right of 6 whose folder is named after a class"
    assert shown.err.splitlines() == [
        "adapted to 3 images of 3 classes in 3 inner steps",
        "each of the images was normalised by the support set; --batch-norm transductive normalises them together, as the run's "
        "test did",
    ]


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(root, capsys):
    (root / "query" / "a" / "broken.png").write_bytes(b"")
    try:
        assert (
            predicted("glyphs", "--support", "support", "--query", "query/a", "--format", "json", "--steps", "1") == 0
        )
    finally:
        (root / "query" / "a" / "broken.png").unlink()
    shown = capsys.readouterr()
    held = json.loads(shown.out)
    assert [row["image"] for row in held["predictions"]] == ["query/a/1.png", "query/a/2.png"]
    assert held["unreadable"] == {"query/a/broken.png": "query/a/broken.png is empty. Replace it or take it away."}
    assert "warning: query/a/broken.png is empty" in shown.err
    assert held["inner_steps"] == 1


def test_images_may_be_normalised_together(root, capsys):
    task = ("glyphs", "--support", "support", "--query", "query", "--format", "json")
    assert predicted(*task, "--batch-norm", "transductive") == 0
    shown = capsys.readouterr()
    assert "the 6 images were normalised together, and predictions depend on each other" in shown.err
    held = json.loads(shown.out)
    adapted = metarun.load("glyphs", batch_norm="transductive").adapt(
        sorted(Path("support").rglob("*.png")), list("abc")
    )
    best = adapted.probabilities(sorted(Path("query").rglob("*.png"))).max(-1).values.tolist()
    assert [row["probability"] for row in held["predictions"]] == best
    assert held["batch_norm"] == "transductive"


def test_a_regression_is_predicted_from_tables(root, capsys):
    (root / "support.csv").write_text("x,y\n-1,0.5\n0,1\n2,-1\n")
    (root / "query.csv").write_text("x\n0.5\n-3\n")
    adapted = metarun.load("sinusoid").adapt([-1, 0, 2], [0.5, 1, -1])
    expected = adapted.predict(torch.tensor([0.5, -3])).squeeze(-1).tolist()
    task = ("sinusoid", "--support", "support.csv", "--query", "query.csv")
    assert predicted(*task, "--format", "csv") == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["x", "y"], ["0.5", str(expected[0])], ["-3", str(expected[1])],
    ]  # fmt: skip
    assert predicted(*task) == 0
    head, _, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["row", "x", "y"]
    assert lines == [["1", "0.5", f"{expected[0]:.6g}"], ["2", "-3", f"{expected[1]:.6g}"]]


@pytest.mark.parametrize(
    "words, said",
    [
        (("nowhere", "--support", "support", "--query", "query"), "nowhere must hold a run"),
        (
            ("glyphs", "--support", "nowhere", "--query", "query"),
            "--support must be a folder with one folder of images",
        ),
        (("glyphs", "--support", "support", "--query", "x.png"), "--query must name images or folders of images"),
        (("glyphs", "--support", "support"), "the following arguments are required: --query"),
        (("glyphs", "--support", "support", "--query", "query", "--steps", "-1"), "steps must be a whole number >= 0"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(words, said, capsys):
    assert predicted(*words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.strip().splitlines()) == 1
    assert said in shown.err


def test_export_writes_what_predict_gives(root, capsys):
    assert run_here("export", "glyphs", "--support", "support", "--to", "model.pt2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "takes   uint8 [Q, 1, height, width]; cropped to the middle square, resized to 14x14, inverted and scaled to [0, 1] inside",
        "gives   probabilities of a, b, c; exactly those of `metarun predict`",
        "batches normalised by the support set, which the file holds",
        'use     torch.export.load("model.pt2").module()',
    ]
    files = sorted(Path("query").rglob("*.png"))
    images = torch.stack([torch.frombuffer(bytearray(Image.open(f).tobytes()), dtype=torch.uint8) for f in files])
    with torch.no_grad():
        found = torch.export.load("model.pt2").module()(images.view(6, 1, 20, 20))
    adapted = metarun.load("glyphs").adapt(sorted(Path("support").rglob("*.png")), list("abc"))
    assert (found - adapted.probabilities(files)).abs().max() < 1e-5
    assert run_here("export", "glyphs", "--support", "support", "--to", "model.zip") == 2
    assert "a file that ends in .pt2 or .onnx, got model.zip" in capsys.readouterr().err


def test_a_file_that_differs_is_taken_away(root, capsys, monkeypatch):
    monkeypatch.setattr(export, "_outputs", lambda path, given: torch.full((len(given), 3), 1 / 3) + 0.1)
    assert run_here("export", "glyphs", "--support", "support", "--to", "other.pt2") == 1
    assert "the exported model differs from the adapted one by" in capsys.readouterr().err
    assert not (root / "other.pt2").exists()


def test_screens(root, monkeypatch, tmp_path):
    """With logits that are made up, so that no digit depends on the machine."""
    logits = torch.tensor([[4.0, 1, 0], [2, 1, 0], [0, 1, 0.5], [0, 5, 1], [1, 1, 2], [0, 2, 6]])
    monkeypatch.setattr(AdaptedModel, "outputs", lambda model, inputs, *, prepared=False: logits[: len(inputs)])
    monkeypatch.setattr(export, "_difference", lambda adapted, path: 0.0)
    texts: dict[int, dict[str, str]] = {}
    for width in (*WIDTHS, 24):
        with commands_on(width) as text:
            assert predicted("glyphs", "--support", "support", "--query", "query") == 0
            texts[width] = {"predict": text()}
        with commands_on(width) as text:
            assert run_here("export", "glyphs", "--support", "support", "--to", "out/model.pt2") == 0
            texts[width]["export"] = re.sub(r"\(\d+ KiB\)", "(123 KiB)", text())
        for name, shown in texts[width].items():
            assert_screen(f"{name}-{width}", shown)
            fits(shown, width, "model.pt2")
    for width in WIDTHS:
        for name, shown in texts[width].items():
            no_broken_word(shown, texts[120][name])
