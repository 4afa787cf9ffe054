"""metarun from Python: lazy names, examples that run, and configurations that come back as they were."""

import doctest
import json
import shlex
import subprocess
import sys

import pytest

import metarun
from metarun import interface
from metarun.errors import ConfigurationError
from metarun.trained import run

from .training.small import SIX_STEPS, run_here


def test_import_waits_for_nothing():
    """So that `import metarun` takes hundredths of a second: nothing but Python and metarun's own first file."""
    script = (
        "import sys; before = {*sys.modules}; import metarun; "
        "print(sorted({name.split('.')[0] for name in {*sys.modules} - before} - sys.stdlib_module_names), "
        "sorted(name for name in sys.modules if name.startswith('metarun')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['metarun'] ['metarun']\n", "")


def test_the_names_are_there():
    assert {*metarun.__all__} <= {*dir(metarun)}
    for name in metarun.__all__:
        assert getattr(metarun, name) is not None
    with pytest.raises(AttributeError, match="module 'metarun' has no attribute 'trian'"):
        metarun.trian  # noqa: B018


def test_the_examples_in_the_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(interface, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert (found.failed, found.attempted) == (0, 5)
    assert run_here(*SIX_STEPS, "device.program=eager", "run.folder=outputs/waves") == 0
    found = doctest.testmod(run)
    assert (found.failed, found.attempted) == (0, 3)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["algorithm=imaml", "dataset=glyphs", "optimizer.lr=0.01", "tracker=none"],
        ["experiment=imaml_omniglot_15min", "seed=3"],
        ["tracker=[wandb,tensorboard]", "tracker.wandb.project=mine"],
        ["dataset=folder", 'dataset.path="a b/it\'s"', "dataset.split_fractions=[0.5,0.25,0.25]"],
        ["algorithm=maml", "algorithm/inner=newton_cg", "lr_schedule=cosine", "run.folder='null'"],
    ],
)
def test_a_changed_configuration_is_one_with_overrides(overrides):
    config = metarun.compose(overrides)
    assert metarun.compose(interface._overrides_of(config, None)) == config
    config["schedule"]["steps"] = 77  # the cosine's length follows it
    config["dataset"]["shots"] = 2  # schedule.shots, evaluation.shots ... follow it
    again = metarun.compose(interface._overrides_of(config, None))
    assert again == metarun.compose([*overrides, "schedule.steps=77", "dataset.shots=2"])


def test_train_takes_a_changed_configuration_and_gives_the_run(tmp_path, capsys):
    config = metarun.compose([*SIX_STEPS, "device.program=eager", f"run.root={tmp_path}"])
    config["optimizer"]["lr"] = 0.0005
    trained = metarun.train(config)
    assert trained.result == json.loads((trained.path / "result.json").read_text())
    command = json.loads((trained.path / "overrides.json").read_text())["command"]
    assert "optimizer.lr=0.0005" in command
    capsys.readouterr()
    assert run_here(*shlex.split(command)[1:]) == 0, "the recorded command is this run's"
    assert "has been run already" in capsys.readouterr().out
    again = metarun.train([*SIX_STEPS, "device.program=eager", f"run.root={tmp_path}", "optimizer.lr=0.0005"])
    assert again.path == trained.path


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match=r"did you mean optimizer\.lr"):
        metarun.compose("optimizer.lrr=1")
    with pytest.raises(ConfigurationError, match=r"overrides are KEY=VALUE or GROUP=OPTION, got '-m'"):
        metarun.compose(["-m", "seed=0,1"])
    with pytest.raises(ConfigurationError, match="add -m"):
        metarun.compose(["seed=0,1"])
    with pytest.raises(ConfigurationError, match=r"one that metarun\.compose gave, with its `choices`"):
        metarun.train({"seed": 0})
    config = metarun.compose()
    config["schedule"]["stepz"] = 3
    with pytest.raises(ConfigurationError, match=r"schedule\.stepz"):
        metarun.train(config)


def test_results_are_a_table_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    for seed in (0, 1):
        assert (
            run_here(*SIX_STEPS, "device.program=eager", f"run.root={tmp_path}", f"seed={seed}", "optimizer.lr=0.01")
            == 0
        )
    assert run_here(*SIX_STEPS, "device.program=eager", f"run.root={tmp_path}", "optimizer.lr=0.02") == 0
    frame = metarun.results(tmp_path)
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 3 * 4 and set(frame["state"]) == {"finished"}
    assert set(frame["optimizer.lr"]) == {0.01, 0.02}
    counted = frame[frame["counts"]].set_index("path")
    assert set(counted["inner_steps"]) == {10}
    for path, row in counted.iterrows():
        result = json.loads((tmp_path / path / "result.json").read_text())
        assert row["mean"] == result["results"][-1]["mse"]["mean"]
        assert row["seed"] == result["seed"]


def test_results_need_pandas(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match="pip install pandas"):
        metarun.results(tmp_path)
