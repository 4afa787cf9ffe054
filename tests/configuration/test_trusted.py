"""metarun.configuration.trusted: a folder from somebody else is data, and what its configuration names is not run."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarun.configuration.trusted import named_in, require_trusted, untrusted_classes
from metarun.errors import ConfigurationError

from ..training.small import SIX_STEPS, configuration, only_folder, run_here


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    assert run_here(*SIX_STEPS, f"run.root={root}") == 0
    return only_folder(root)


@pytest.fixture
def theirs(finished, tmp_path) -> Callable[[Callable[[dict], None]], Path]:
    """A copy of the run, its configuration changed by a function."""

    def make(change: Callable[[dict], None]) -> Path:
        folder = tmp_path / "theirs"
        shutil.copytree(finished, folder)
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


class _Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def _load(path: Path) -> dict[str, Any]:
    return {"_target_": "torch.load", "f": str(path), "weights_only": False}


PLACES: dict[str, Callable[[dict, dict], None]] = {
    "model": lambda config, load: config.update(model=load),
    "model.init_std": lambda config, load: config["model"].update(init_std=load),
    "algorithm.inner._args_.0": lambda config, load: config["algorithm"]["inner"].update(_args_=[load]),
    "evaluation.inner_steps.1.deep": lambda config, load: config["evaluation"].update(inner_steps=[0, {"deep": load}]),
    "optimizer": lambda config, load: config.update(optimizer=load | {"_partial_": True}),
}


@pytest.mark.parametrize("place", PLACES)
def test_evaluate_runs_nothing_that_a_folder_names(place, theirs, tmp_path, capsys):
    mark, archive = tmp_path / "it_ran", tmp_path / "evil.pt"
    archive.write_bytes(pickle.dumps(_Evil(mark)))
    folder = theirs(lambda config: PLACES[place](config, _load(archive)))
    assert run_here("evaluate", str(folder)) == 2
    err = capsys.readouterr().err
    assert err == (
        f"metarun: error: {place}._target_ names 'torch.load', which is no part of metarun's and no module, optimizer or "
        "schedule of torch's, and to load the configuration is to run it. If you trust the folder and that code, say so: "
        "--allow torch.load\n"
    )
    assert not mark.exists()
    assert not (folder / "evaluations").exists()


def test_an_interpolation_in_a_folder_is_not_resolved(theirs, monkeypatch, capsys):
    monkeypatch.setenv("SECRET", "torch.load")
    folder = theirs(lambda config: config["model"].update(_target_="${oc.env:SECRET}"))
    assert run_here("evaluate", str(folder)) == 2
    assert "a run's configuration has no interpolations left, and model._target_ is '${oc.env:SECRET}'" in (
        capsys.readouterr().err
    )


MINE = """
from metarun.models.mlp import MLP

class Mine(MLP):
    pass
"""


def test_a_class_of_the_users_is_allowed_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "package_of_trust.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = (*SIX_STEPS, f"run.root={tmp_path / 'runs'}", "model._target_=package_of_trust.Mine")
    assert run_here(*command) == 0
    folder = only_folder(tmp_path / "runs")
    asked = f"metarun evaluate {folder} --allow package_of_trust.Mine 'evaluation.inner_steps=[0,20]'"
    assert asked in capsys.readouterr().out  # the command to copy says so
    assert run_here("evaluate", str(folder)) == 2
    assert capsys.readouterr().err.endswith("say so: --allow package_of_trust.Mine\n")
    assert run_here("evaluate", str(folder), "--allow", "package_of_trust.Mine", "evaluation.tasks=5") == 0
    assert run_here("evaluate", str(folder), "model._target_=package_of_trust.Mine", "evaluation.tasks=5") == 0


@pytest.mark.parametrize(
    ("target", "is_trusted"),
    [
        ("torch.optim.AdamW", True),
        ("torch.optim.lr_scheduler.StepLR", True),
        ("torch.nn.Sequential", True),
        ("torch.nn.modules.conv.Conv2d", True),
        ("metarun.models.conv4.Conv4", True),
        ("metarun.files.write_atomically", False),  # metarun's, and no part
        ("metarun.run_folder.state.torch.load", False),
        ("torch.nn.modules.module.torch.load", False),
        ("torch.optim.lr_scheduler.math.sqrt", False),
        ("torch.nn.init.zeros_", False),
        ("torch.nn.nothing", False),
        ("torch.hub.load", False),
        ("os.system", False),
        (3, False),
    ],
)
def test_who_is_trusted(target, is_trusted):
    assert (untrusted_classes({"a": [{"_target_": target}]}) == []) == is_trusted


def test_metaruns_own_configurations_are_trusted():
    for words in (
        (),
        ("algorithm=imaml_hf", "dataset=glyphs"),
        ("algorithm=imaml_ng", "dataset=folder", "dataset.path=x"),
    ):
        require_trusted(configuration(*words), ())
    with pytest.raises(ConfigurationError, match=r"^a\.0\._target_ names 'my\.Net'"):
        require_trusted({"a": [{"_target_": "my.Net"}]}, {"my.Other"})
    require_trusted({"a": [{"_target_": "my.Net"}]}, {"my.Net"})


@pytest.mark.parametrize(
    "override", ["model._target_=my.Net", "model={_target_: my.Net, a: 1}", "model={'_target_': 'my.Net'}"]
)
def test_what_is_named_on_the_command_line(override):
    assert named_in(override) == ["my.Net"]
