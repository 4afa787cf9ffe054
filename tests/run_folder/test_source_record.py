"""The user's own classes are no part of the configuration: their source is kept with the run, and a change is told."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from metarun.run_folder.folder import RunFolder
from metarun.run_folder.source_record import changed_sources, record_sources, sources_of

from ..training.small import QUICK, only_folder, run_here

NET = """
import torch
from own_package.act import activation

class Net(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first = torch.nn.Linear(inputs, 4)
        self.head = torch.nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(activation(self.first(x)))
"""
FILES = {
    "own_package/__init__.py": "",
    "own_package/net.py": NET,
    "own_package/act.py": "import torch\nimport beside\n\ndef activation(x):\n    return torch.tanh(x)\n",
    "own_package/never_imported.py": "",
    "beside.py": "",
    "conf/model/own.yaml": "_target_: own_package.net.Net\ninputs: 1\noutputs: 1\n",
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a package of a user's own."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    _forget()


def _forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own_package", "beside")]:
        del sys.modules[name]


def run(place: Path, *words: str, steps: int = 1) -> int:
    settings = (f"schedule.steps={steps}", "schedule.eval_every=1", f"run.root={place / 'runs'}")
    return run_here("--config-dir", str(place / "conf"), *QUICK, "model=own", *settings, *words)


def test_what_a_class_is_made_of(place):
    import own_package.net  # noqa: F401

    config = {"model": {"_target_": "own_package.net.Net"}, "x": {"y": {"_target_": "torch.nn.ReLU"}}}
    names = ["beside.py", "own_package/__init__.py", "own_package/act.py", "own_package/net.py"]
    digests = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names}
    assert sources_of(config) == {"own_package": digests}
    assert sources_of({"model": {"_target_": "metarun.models.mlp.MLP"}, "o": {"_target_": "torch.optim.SGD"}}) == {}


def test_a_program_is_recorded_where_it_changes(place, tmp_path):
    import own_package.net  # noqa: F401

    config, folder = {"model": {"_target_": "own_package.net.Net"}}, RunFolder(tmp_path)
    first = sources_of(config)
    assert record_sources(folder, config, None) == [{"step": 0, "files": first}]
    assert record_sources(folder, config, 5) == [{"step": 0, "files": first}]
    assert changed_sources(folder) == []
    (place / "own_package/act.py").write_text("# other\n")
    assert changed_sources(folder) == [place / "own_package/act.py"]
    assert record_sources(folder, config, 7) == [{"step": 0, "files": first}, {"step": 7, "files": sources_of(config)}]
    assert changed_sources(folder) == []
    assert record_sources(folder, config, None) == [{"step": 0, "files": sources_of(config)}], "a run that begins anew"
    assert record_sources(folder, {}, None) == [] and not folder.sources.exists()


def test_a_finished_run_is_not_answered_when_its_model_has_changed(place, capsys):
    assert run(place) == 0
    folder = only_folder(place / "runs")
    assert json.loads((folder / "result.json").read_text())["environment"]["sources"][0]["step"] == 0
    _forget()
    assert run(place) == 0 and "has been run already" in capsys.readouterr().out
    (place / "own_package/act.py").write_text(FILES["own_package/act.py"].replace("tanh", "sigmoid"))
    _forget()
    assert run(place) == 2
    assert capsys.readouterr().err == (
        f"metarun: error: {place}/own_package/act.py changed since this finished run was made with it: {folder}. Give it back "
        "as it was, choose another run.folder to keep this result, or replace it with run.overwrite=true.\n"
    )
    assert run_here("evaluate", str(folder), "evaluation.tasks=2", "--allow", "own_package.net.Net") == 0
    assert f"warning: {place}/own_package/act.py has changed since this run was made" in capsys.readouterr().out
    _forget()
    assert run(place, "run.overwrite=true") == 0 and run(place) == 0


def test_an_unfinished_run_says_that_it_goes_on_with_another_program(place, capsys, monkeypatch):
    assert run(place, steps=2) == 0
    folder = only_folder(place / "runs")
    (folder / "result.json").unlink()  # as if it had been killed before the test
    (place / "beside.py").write_text("# edited\n")
    _forget()
    assert run(place, steps=2) == 0
    out = capsys.readouterr().out
    words = "the user's own classes have changed since this run began"
    assert " ".join(out.split()).count(f"warning: {words}") == 1
    assert "note: the classes of your own changed after step 2" in out
    programs = json.loads((folder / "result.json").read_text())["environment"]["sources"]
    assert [program["step"] for program in programs] == [0, 2]
