"""What a run prints to be pasted: each line is parsed as a shell does it, and run."""

import shlex

import pytest

from ..screens import commands_on
from ..tasks.test_folder import write_classes
from ..training.small import GLYPHS, NAVIGATION, QUICK, run_here

ONE_STEP = (*QUICK, "schedule.steps=1", "schedule.eval_every=1")
PICTURES = (
    "dataset=folder",
    "dataset.path='my pictures'",
    "dataset.image_size=16",
    "model.width=4",
    "dataset.queries=1",
)


@pytest.mark.scenario
@pytest.mark.parametrize(
    "words",
    [
        ("run.root='my runs'",),
        ("algorithm=imaml", "run.folder='-a run'"),
        (*GLYPHS, "algorithm=protonet", "run.root='[1]'"),
        (*NAVIGATION, "run.root=runs"),
        (*PICTURES, "dataset.test_queries=1", "algorithm.inner.steps=1"),
        ("algorithm=cavia", "model=context_mlp"),
        ("--config-dir", "my conf", "model=small", "run.folder='a=b'"),
        ("--config-dir", "my conf", "experiment=pets"),
    ],
    ids=lambda words: " ".join(words[-2:]),
)
def test_the_next_lines_of_a_run_can_be_pasted(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_OUTPUTS", "my outputs")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "a cache"))
    write_classes(tmp_path / "my pictures", {f"class {c:02d}": 3 for c in range(30)})
    for name, text in {
        "model/small": "defaults: [mlp]\nhidden: [3]\n",
        "experiment/pets": "# @package _global_\ndefaults:\n  - override /dataset: folder\n  - override /algorithm: fomaml\n"
        "dataset: {path: 'my pictures', image_size: 16, queries: 1, test_queries: 1}\nmodel: {width: 4}\n",
    }.items():
        path = tmp_path / "my conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with commands_on(60) as text:
        assert run_here(*words, *ONE_STEP) == 0, text()
    evaluate, other = (
        shlex.split(line[12:])
        for line in text().splitlines()
        if line.startswith(("next        ", " " * 12 + "metarun "))
    )
    assert evaluate[:2] == ["metarun", "evaluate"] and other[0] == "metarun"
    with commands_on(60) as text:
        assert run_here(*evaluate[1:]) == 0, text()
        assert run_here(*other[1:]) == 0, text()
    assert f"algorithm={'maml' if 'algorithm=imaml' in words else 'imaml'}" in other
    assert text().count("run folder  ") == 1
