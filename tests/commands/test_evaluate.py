"""metarun.commands.evaluate: `metarun evaluate` tests a stored run again and leaves it as it is."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from metarun.maths.stats import summarize
from metarun.run_folder.folder import fingerprint

from ..training.small import GLYPHS, SIX_STEPS, only_folder, run_here, times_and_bytes


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of a finished run; nothing but evaluations is to be added to it."""
    root = tmp_path_factory.mktemp("finished")
    assert run_here(*SIX_STEPS, f"run.root={root}") == 0
    return only_folder(root)


def test_evaluate_measures_again_and_leaves_the_run_as_it_is(folder, capsys):
    before = times_and_bytes(folder)
    stored = json.loads((folder / "result.json").read_text())

    assert run_here("evaluate", str(folder)) == 0
    (path,) = (folder / "evaluations").iterdir()
    same = json.loads(path.read_text())
    assert f"stored in {path}" in capsys.readouterr().out
    assert same["results"] == stored["results"]
    with (folder / "tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert same["task_scores"] == {
        steps: [float(row["mse"]) for row in rows if row["inner_steps"] == steps] for steps in ("0", "1", "5", "10")
    }

    changes = ("evaluation.shots=10", "evaluation.inner_steps=[0,3]", "evaluation.tasks=7", "algorithm.inner.steps=2")
    assert run_here("evaluate", str(folder), *changes) == 0
    (other,) = {*(folder / "evaluations").iterdir()} - {path}
    changed = json.loads(other.read_text())
    assert changed["overrides"] == list(changes)
    assert (changed["protocol"]["shots"], changed["protocol"]["tasks"]) == (10, 7)
    assert [line["inner_steps"] for line in changed["results"]] == [0, 2, 3]
    assert [line["mse"]["num_tasks"] for line in changed["results"]] == [7, 7, 7]
    # theta itself, on the first 7 of the same 20 tasks
    with (folder / "tasks.csv").open() as file:
        unadapted = [float(row["mse"]) for row in csv.DictReader(file) if row["inner_steps"] == "0"]
    assert changed["results"][0]["mse"]["mean"] == pytest.approx(summarize(unadapted[:7]).mean, rel=1e-6)

    after = times_and_bytes(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {path, other}


def test_evaluate_takes_whole_groups_and_parts(folder):
    assert run_here("evaluate", str(folder), "algorithm/inner=gradient_descent_16", "device=cpu") == 0
    newest = max((folder / "evaluations").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    result = json.loads(newest.read_text())
    assert result["config"]["algorithm"]["inner"]["steps"] == 16
    # What evaluation measures after is the run's own list; the number of the new part is added.
    assert [line["inner_steps"] for line in result["results"]] == [0, 1, 5, 10, 16]


def test_evaluate_reads_a_run_from_before_validation_could_differ(folder, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    config = json.loads((old / "config.json").read_text())
    del config["evaluation"]["val_shots"], config["evaluation"]["val_queries"], config["head"]
    (old / "config.json").write_text(json.dumps(config))
    assert run_here("evaluate", str(old), "device=cpu") == 0
    (path,) = {*(old / "evaluations").iterdir()} - {
        old / "evaluations" / p.name for p in (folder / "evaluations").iterdir()
    }
    assert json.loads(path.read_text())["results"] == json.loads((folder / "result.json").read_text())["results"]


def test_a_run_of_an_earlier_version_keeps_its_name_and_is_read(folder, tmp_path):
    """Its inner solver had `eval_steps`, some keys came later, and classes have other names now."""
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    config = json.loads((old / "config.json").read_text())
    mark, algorithm = fingerprint(config), config["algorithm"]
    algorithm["inner"]["eval_steps"] = config["evaluation"]["inner_steps"]
    del algorithm["not_meta_learned"], algorithm["meta_gradient"]["recompute"], config["head"]
    del algorithm["inner"]["eval_step_sizes"]
    config["device"]["_target_"] = "metarun.train.device.Device"
    assert fingerprint(config) == mark
    (old / "config.json").write_text(json.dumps(config))
    assert run_here("evaluate", str(old), "evaluation.inner_steps=[0,2]") == 0
    newest = max((old / "evaluations").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    result = json.loads(newest.read_text())
    assert [line["inner_steps"] for line in result["results"]] == [0, 1, 2]
    stored = json.loads((folder / "result.json").read_text())["results"]
    assert result["results"][:2] == stored[:2]
    # A key that came later can be set all the same: other steps, other scores.
    assert run_here("evaluate", str(old), "evaluation.inner_steps=[0,2]", "algorithm.inner.eval_step_sizes=[0.02]") == 0
    newest = max((old / "evaluations").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    other = json.loads(newest.read_text())["results"]
    assert other[0] == stored[0] and other[1]["mse"]["mean"] != stored[1]["mse"]["mean"]


def test_evaluate_changes_what_took_its_value_from_a_changed_key(folder):
    """The stored configuration is resolved: test_shots used to change nothing there."""
    shots = {
        ("dataset.test_shots=7",): 7,
        ("dataset.test_shots=7", "evaluation.shots=3"): 3,
        ("evaluation.shots=3", "dataset.test_shots=7"): 3,
        ("dataset.shots=7",): 5,  # sinusoids are tested with 5 shots, whatever the training has
    }
    for changes, expected in shots.items():
        assert run_here("evaluate", str(folder), *changes) == 0
        newest = max((folder / "evaluations").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        result = json.loads(newest.read_text())
        assert result["overrides"] == list(changes)
        assert result["protocol"]["shots"] == result["config"]["evaluation"]["shots"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["evaluation.shot=3"], "no key evaluation.shot; did you mean evaluation.shots?"),
        (["evaluation.tasks=abc"], "evaluation: tasks must be an integer, got 'abc'"),
        (["evaluation.tasks=[1"], "'evaluation.tasks=[1' cannot be read"),
        (["device=tpu"], "device has no option 'tpu'; did you mean cpu?"),
        (["foo"], "after RUN_DIR come KEY=VALUE pairs, and 'foo' has no '='."),
        (["=3"], "'=3' has no key before its '=': write KEY=VALUE."),
        (["data=cuda"], "data must have keys of its own (root, cache, residence, max_pixels), got 'cuda'"),
        (
            ["algorithm.inner=0"],
            "algorithm.inner must have keys of its own (steps, step_size, eval_step_sizes, proximal), got 0",
        ),
        (["seed={a: 1}"], "seed must be a single value, such as 0, got {'a': 1}"),
        (
            ["evaluation.tasks=1,2"],
            "evaluation.tasks=1,2 gives several values; write 'evaluation.tasks=[1,2]' for one list.",
        ),
        (["evaluation.tasks=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (["choices.algorithm=3"], "choices.algorithm says what the run was, and an evaluation does not change it."),
        (["model.hidden=[10]"], "the model must be the one that was trained"),
    ],
)
def test_evaluate_refuses_what_cannot_be(changes, message, folder, capsys):
    before = times_and_bytes(folder)
    capsys.readouterr()
    assert run_here("evaluate", str(folder), *changes) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metarun: error: ")
    assert message in line
    assert times_and_bytes(folder) == before


def test_evaluate_needs_a_run(tmp_path, capsys):
    for folder, message in ((tmp_path, "must hold a run"), (tmp_path / "none", "is not a folder")):
        assert run_here("evaluate", str(folder)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("metarun: error: ")
        assert str(folder) in line
        assert message in line


def test_evaluate_looks_for_data_where_it_is_told_now(tmp_path, capsys):
    """A run folder may have come from another machine."""
    command = (*SIX_STEPS, *GLYPHS, f"run.folder={tmp_path / 'run'}", f"data.root={tmp_path / 'there'}")
    assert run_here(*command) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    store = {
        "_target_": "metarun.tasks.sources.named.named_set",
        "name": "omniglot",
        "root": config["data"]["root"],
        "cache": config["data"]["cache"],
        "image_size": 14,
    }
    config["dataset"]["source"]["store"] = store
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    here = tmp_path / "here"
    capsys.readouterr()
    assert run_here("evaluate", str(tmp_path / "run"), f"data.root={here}", f"data.cache={tmp_path / 'cache'}") == 2
    assert f"not found in {here} or {here / 'omniglot'}" in capsys.readouterr().err
