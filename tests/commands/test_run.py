"""metarun.commands.run: one run from the command line to its folder, and what happens when it is asked for again."""

import csv
import json
import logging
import os
from pathlib import Path

import pytest
import torch

from metarun import __version__
from metarun.build import make_parts
from metarun.maths.stats import has_score, summarize
from metarun.problems.regression import Regression

from ..training.small import (
    GLYPHS,
    QUICK,
    SIX_STEPS,
    configuration,
    metrics_of,
    only_folder,
    python,
    run_here,
    times_and_bytes,
)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[tuple[str, ...], Path]:
    """A command and the folder of its finished run; not to be written to."""
    command = (*SIX_STEPS, f"run.root={tmp_path_factory.mktemp('finished')}")
    assert run_here(*command) == 0
    return command, only_folder(Path(command[-1].partition("=")[2]))


def test_what_lies_in_a_run_folder(finished):
    _, folder = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        ".lock",
        "config.json",
        "overrides.json",
        "tracking.json",
        "environment.json",
        "metrics.jsonl",
        "tasks.csv",
        "result.json",
        "status.json",
        "log.txt",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
        "figures/adaptation.png",
        "figures/learning_curve.png",
    }
    for figure in (folder / "figures").iterdir():
        assert figure.read_bytes().startswith(b"\x89PNG\r\n")


def test_the_result_holds_the_whole_protocol(finished):
    command, folder = finished
    result = json.loads((folder / "result.json").read_text())
    validations = {row["step"]: row["val/mse"] for row in metrics_of(folder) if "val/mse" in row}
    best = min(validations, key=validations.__getitem__)
    assert result["protocol"] == {
        "dataset": "sinusoid",
        "split": "test",
        "ways": None,
        "shots": 5,
        "queries": 100,
        "examples": "examples",
        "tasks": 20,
        "task_seed": 0,
        "inner_steps": [0, 1, 5, 10],
        "headline_inner_steps": 10,
        "batch_norm": "none",
        "selected_step": best,
        "selected_by": "validation mse on 10 fixed tasks",
        "val_ways": None,
        "val_shots": 5,
        "val_queries": 100,
        "interval": "1.96 * std / sqrt(tasks), ddof 1",
    }
    assert result["validation"] == {"best_score": validations[best], "best_step": best}
    assert result["num_parameters"] == 1 * 40 + 40 + 40 * 40 + 40 + 40 + 1
    assert (result["metarun"], result["seed"], result["score"]) == (__version__, 0, "mse")
    assert result["higher_is_better"] is False
    assert result["environment"]["packages"]["torch"] == torch.__version__
    overrides = json.loads((folder / "overrides.json").read_text())
    assert overrides["overrides"] == list(command)
    assert overrides["command"].startswith("metarun device=cpu device.threads=1 tracker=none ")


def test_validation_and_test_of_their_own(tmp_path, capsys):
    """Ways, shots and queries of each split: in the header, in the protocol, and in the numbers."""
    from metarun.build import make_parts

    own = ("dataset.val_ways=3", "evaluation.val_shots=2", "evaluation.val_queries=4", "dataset.test_ways=4")
    short = (*QUICK, *GLYPHS, "schedule.steps=2", "schedule.eval_every=2", "evaluation.inner_steps=[1]")
    assert run_here(*short, *own, f"run.folder={tmp_path / 'run'}") == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        "glyphs: 5-way 1-shot, 5 queries; tested with 4-way, 1 shot, 5 queries, 20 tasks; "
        "validated with 3-way, 2 shots, 4 queries, 10 tasks"
    ) in words
    protocol = json.loads((tmp_path / "run" / "result.json").read_text())["protocol"]
    sizes = {key: protocol[key] for key in protocol if key.endswith(("ways", "shots", "queries"))}
    assert sizes == {"ways": 4, "shots": 1, "queries": 5, "val_ways": 3, "val_shots": 2, "val_queries": 4}

    (validation,) = (row["val/accuracy"] for row in metrics_of(tmp_path / "run") if "val/accuracy" in row)
    parts = make_parts(json.loads((tmp_path / "run" / "config.json").read_text()))
    theta = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["theta"]
    (measured,) = parts.evaluator(parts.theta.updated(theta), "val", 10, [1])
    assert measured.summary("accuracy").mean == validation
    # 3 ways of 4 queries: what validation counted are twelfths.
    assert all(12 * value == pytest.approx(round(12 * value), abs=1e-5) for value in measured.metrics["accuracy"])

    # Validation chose the state that evaluate tests, and is stated as it was.
    assert run_here("evaluate", str(tmp_path / "run"), "dataset.test_ways=5", "evaluation.shots=3") == 0
    (path,) = (tmp_path / "run" / "evaluations").iterdir()
    protocol = json.loads(path.read_text())["protocol"]
    sizes = {key: protocol[key] for key in protocol if key.endswith(("ways", "shots", "queries"))}
    assert sizes == {"ways": 5, "shots": 3, "queries": 5, "val_ways": 3, "val_shots": 2, "val_queries": 4}


def test_validation_is_as_the_test_unless_it_is_told_apart():
    sizes = {
        ("evaluation.shots=3", "evaluation.queries=2"): (3, 2, 3, 2),
        ("dataset.test_shots=3", "dataset.test_queries=2"): (3, 2, 3, 2),
        ("evaluation.val_shots=3",): (1, 5, 3, 5),
    }
    for overrides, expected in sizes.items():
        evaluation = configuration(*GLYPHS, *overrides)["evaluation"]
        assert tuple(evaluation[key] for key in ("shots", "queries", "val_shots", "val_queries")) == expected
    ways = {
        ("dataset.ways=4",): (4, 4, 4),
        ("dataset.test_ways=4",): (5, 4, 4),
        ("dataset.val_ways=4",): (5, 5, 4),
    }
    for overrides, expected in ways.items():
        source = configuration(*GLYPHS, *overrides)["dataset"]["source"]
        assert tuple(source[key] for key in ("ways", "test_ways", "val_ways")) == expected


def test_the_table_is_the_mean_and_interval_of_the_tasks_in_the_csv(finished):
    _, folder = finished
    result = json.loads((folder / "result.json").read_text())
    with (folder / "tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 20
    for line in result["results"]:
        values = [float(row["mse"]) for row in rows if int(row["inner_steps"]) == line["inner_steps"]]
        assert [int(row["task"]) for row in rows if int(row["inner_steps"]) == line["inner_steps"]] == list(range(20))
        assert line["mse"] == vars(summarize(values))
        assert line["mse"]["num_tasks"] == 20


def test_the_test_is_made_with_the_selected_state(finished):
    """The numbers in the result are those of best.pt, measured by hand for a task."""
    from metarun.build import make_parts

    _, folder = finished
    parts = make_parts(json.loads((folder / "config.json").read_text()))
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    measured = parts.evaluator(parts.theta.updated(best["theta"]), "test", 20, [0, 1, 5, 10])
    with (folder / "tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    for measurement in measured:
        stored = [float(row["mse"]) for row in rows if int(row["inner_steps"]) == measurement.inner_steps]
        assert stored == measurement.metrics["mse"]


def test_a_finished_run_is_answered_from_its_folder(finished, capsys):
    command, folder = finished
    before = times_and_bytes(folder)
    assert run_here(*command) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"This configuration has been run already: {folder}. (run.overwrite=true runs it again.)")
    mse = json.loads((folder / "result.json").read_text())["results"][-1]["mse"]
    assert f"{mse['mean']:.3f} ± {mse['ci95']:.3f}" in out
    assert err == ""
    assert times_and_bytes(folder) == before


def test_published_figures_are_those_that_are_named_now(finished, capsys):
    command, folder = finished
    before = times_and_bytes(folder)
    settings = "settings: {choices: {dataset: sinusoid}, evaluation: {shots: 5, tasks: 600}}"
    told = f"reference={{source: A paper, metric: mse, values: {{10: 0.35}}, differences: Theirs is tall., {settings}}}"
    assert run_here(*command, told) == 0
    out = capsys.readouterr().out
    assert "published: A paper. Not the same: evaluation.tasks is 20 here and 600 there. Theirs is tall." in out
    assert " 0.350 " in out
    assert times_and_bytes(folder) == before


def read_strictly(path: Path) -> list[dict]:
    """The objects of a file of JSON, or of one on each line; a bare NaN is none."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds a bare {word}")

    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [json.loads(text, parse_constant=refuse) for text in texts]


def test_a_run_without_a_score_has_failed_and_says_what_to_change(tmp_path, capsys):
    """Inner steps of 10 overflow in every validation, though one of them in training does not."""
    command = (*SIX_STEPS, "algorithm.inner.step_size=10", "evaluation.inner_steps=[60]", f"run.root={tmp_path}")
    for _ in range(2):  # asked again, it fails again
        assert run_here(*command) == 1
        err = capsys.readouterr().err
        (folder,) = tmp_path.iterdir()
        line = err.splitlines()[-1]
        assert line == (
            "metarun: error: no validation gave a finite mse, so no state was selected and there is nothing to test. "
            "Likely causes: inner steps too large (algorithm.inner.step_size) or too many in validation "
            "(evaluation.inner_steps), or outer steps too large (optimizer.lr)"
        )
        assert not (folder / "result.json").exists() and not (folder / "checkpoints" / "best.pt").exists()
        (status,) = read_strictly(folder / "status.json")
        assert (status["state"], status["error"]) == ("failed", line.removeprefix("metarun: error: "))
    rows = [row for row in read_strictly(folder / "metrics.jsonl") if "val/mse" in row]
    assert [(row["step"], row["val/mse"], row["val/diverged"]) for row in rows] == [(3, None, 10), (6, None, 10)]
    assert run_here("ls", str(tmp_path)) == 0
    assert "1 failed" in capsys.readouterr().out


def test_a_test_without_a_score_is_a_failed_run(tmp_path, capsys, monkeypatch):
    """Validation has a score, and one test task has none: shown, counted, and no result."""
    regression = Regression.metrics

    def poisoned(self, outputs, targets):
        """Of the test's tasks, which have other points, the one whose first target is the largest."""
        mse = regression(self, outputs, targets)["mse"]
        return {"mse": torch.where(targets.flatten()[0] == worst, torch.nan, mse)}

    config = configuration(*SIX_STEPS)
    source, evaluation = make_parts(config).source, config["evaluation"]
    tasks = source.sample(evaluation["seed"], "test", torch.arange(20), evaluation["shots"], evaluation["queries"])
    first = tasks.to("cpu", torch.float32).query.targets[:, 0, 0]
    worst = first.max()
    monkeypatch.setattr(Regression, "metrics", poisoned)
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}") == 1
    out, err = capsys.readouterr()
    (folder,) = tmp_path.iterdir()
    named = f"1 of 20 tasks: {first.argmax().item()}"
    assert f"diverged after 10 inner steps: {named}; the median says more than the mean" in out
    assert err == (
        f"metarun: error: the test gave no finite mse after 10 inner steps (diverged: {named}). Likely causes: more inner "
        "steps in the test than in training (evaluation.inner_steps), inner steps too large (algorithm.inner.step_size), "
        "or outer steps too large (optimizer.lr)\n"
    )
    assert not (folder / "result.json").exists()
    assert (folder / "tasks.csv").read_text().count("nan") == 4  # after each number of inner steps

    # An evaluation is stored, in JSON that any reader reads, and told in the same words.
    assert run_here("evaluate", str(folder)) == 1
    (path,) = (folder / "evaluations").iterdir()
    out, again = capsys.readouterr()
    assert again == err and f"stored in {path}" in out
    (result,) = read_strictly(path)
    assert [(row["diverged"], row["mse"]["mean"]) for row in result["results"]] == [([first.argmax().item()], None)] * 4
    assert result["not_finite"]["results.3.mse.mean"] == "nan"
    monkeypatch.setattr(Regression, "metrics", regression)
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}") == 0
    (stored,) = read_strictly(folder / "result.json")
    assert [row["diverged"] for row in stored["results"]] == [[]] * 4

    # What an earlier version took for a result is tested again.
    del stored["checksum"]
    stored["results"][-1]["mse"]["mean"] = float("nan")
    (folder / "result.json").write_text(json.dumps(stored))
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}") == 0
    assert has_score(read_strictly(folder / "result.json")[0]["results"][-1]["mse"])


def test_overwrite_runs_it_again_to_the_same_numbers(tmp_path):
    command = (*SIX_STEPS, f"run.root={tmp_path}")
    assert run_here(*command) == 0
    folder = only_folder(tmp_path)
    before, metrics = times_and_bytes(folder), metrics_of(folder)
    assert run_here(*command, "run.overwrite=true") == 0
    after = times_and_bytes(only_folder(tmp_path))
    for name in ("checkpoints/last.pt", "checkpoints/best.pt", "result.json"):
        assert after[folder / name][0] > before[folder / name][0]
    assert metrics_of(folder) == metrics
    assert after[folder / "tasks.csv"][1] == before[folder / "tasks.csv"][1]


def test_a_folder_of_another_run_is_refused_with_the_keys_that_differ(finished, capsys):
    command, folder = finished
    before = times_and_bytes(folder)
    assert run_here(*command, f"run.folder={folder}", "algorithm.inner.step_size=0.02", "seed=3") == 2
    err = capsys.readouterr().err
    assert err == (
        f"metarun: error: {folder} holds a run of another configuration "
        "(algorithm.inner.step_size: 0.01 -> 0.02; seed: 0 -> 3). "
        "Choose another run.folder, or run.overwrite=true to replace it.\n"
    )
    assert times_and_bytes(folder) == before


def test_overwrite_replaces_another_run_in_its_folder(tmp_path):
    command = (*SIX_STEPS, f"run.folder={tmp_path / 'mine'}")
    assert run_here(*command) == 0
    assert run_here(*command, "seed=3", "run.overwrite=true") == 0
    assert json.loads((tmp_path / "mine" / "result.json").read_text())["seed"] == 3
    assert [row["step"] for row in metrics_of(tmp_path / "mine")] == [2, 3, 4, 6, 6]


def test_damage_in_a_run_folder_is_named_in_one_line(tmp_path, capsys):
    command = (*SIX_STEPS, f"run.root={tmp_path}")
    assert run_here(*command) == 0
    folder = only_folder(tmp_path)
    result, last, metrics = folder / "result.json", folder / "checkpoints" / "last.pt", folder / "metrics.jsonl"

    def refused() -> str:
        capsys.readouterr()
        assert run_here(*command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    whole = result.read_text()
    result.write_text(whole[:50])
    assert refused().startswith(f"metarun: error: {result} is damaged (")
    result.unlink()
    checkpoint = last.read_bytes()
    last.write_bytes(checkpoint[:500])
    (last.parent / "previous.pt").unlink()
    assert refused() == (
        f"metarun: error: {last} is damaged (it is cut short, or no checkpoint at all), and there is no earlier checkpoint. "
        "run.overwrite=true trains from the beginning."
    )
    last.write_bytes(checkpoint)
    metrics.write_text("hello\n" + metrics.read_text())
    assert refused().startswith(f"metarun: error: {metrics}, line 1: expected a JSON object")


def test_a_config_json_that_was_changed_is_not_taken_for_another_run(tmp_path, capsys):
    command = (*SIX_STEPS, f"run.root={tmp_path}")
    assert run_here(*command) == 0
    folder = only_folder(tmp_path)
    path, numbers = folder / "config.json", json.loads((folder / "result.json").read_text())["results"]
    config = json.loads(path.read_text())
    config["algorithm"]["inner"]["step_size"] = 0.02
    for has_result in (True, False):  # the result says whose it is, and so does a checkpoint
        path.write_text(json.dumps(config))
        capsys.readouterr()
        assert run_here(*command) == 2
        assert capsys.readouterr().err == (
            f"metarun: error: {path} is damaged (it has algorithm.inner.step_size: 0.02 -> 0.01, and what lies beside it was "
            "made by the latter). Delete it and run again.\n"
        )
        if has_result:
            (folder / "result.json").unlink()
    path.unlink()
    assert run_here(*command) == 0
    assert json.loads((folder / "result.json").read_text())["results"] == numbers
    path.write_text("[]")
    assert run_here(*command, "run.overwrite=true") == 0


@pytest.mark.scenario
def test_the_command_in_another_process(tmp_path):
    """`python -m metarun`: exit status, both streams, and nothing but the run in the folder it was called from."""
    done = python("-m", "metarun", *SIX_STEPS, cwd=tmp_path)
    out, err = done.communicate()
    assert (done.returncode, err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    folder = only_folder(tmp_path / "outputs")
    assert f"run folder  {folder.relative_to(tmp_path)}" in out


def test_wandb_is_on_by_default_and_offline_without_a_key(tmp_path):
    kept = [word for word in SIX_STEPS if not word.startswith("tracker")]
    done = python(
        "-m", "metarun", *kept, f"run.root={tmp_path / 'runs'}", HOME=str(tmp_path), NETRC="/nonexistent-netrc"
    )
    _, err = done.communicate()
    assert done.returncode == 0, err
    folder = only_folder(tmp_path / "runs")
    (stored,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert stored.stat().st_size > 0
    assert json.loads((folder / "result.json").read_text())["protocol"]["tasks"] == 20


def test_the_score_for_sweepers_is_the_best_validation(tmp_path):
    """Hydra hands the value on; here it is read from the run itself."""
    from unittest import mock

    from metarun.command_line.main import main
    from metarun.commands import run

    values = []
    wrapped = run.run

    def listening(cfg):
        values.append(wrapped(cfg))
        return values[-1]

    with mock.patch.object(run, "run", listening):
        assert main([*SIX_STEPS, f"run.root={tmp_path}"]) == 0
        assert main([*SIX_STEPS, f"run.root={tmp_path}"]) == 0
    result = json.loads((only_folder(tmp_path) / "result.json").read_text())
    assert values == [result["validation"]["best_score"]] * 2


def test_the_log_tells_the_story(finished):
    command, folder = finished
    lines = (folder / "log.txt").read_text().splitlines()
    assert f"metarun {__version__}, metarun {' '.join(command[:2])}" in lines[0]
    assert lines[-1].partition("finished: ")[2].startswith('{"inner_steps": 10')


def test_the_process_is_left_as_it_was(tmp_path):
    """Working folder, environment, generator and logger of whoever calls the command line from Python."""
    state, folder = torch.get_rng_state(), os.getcwd()
    environment = dict(os.environ)
    logger = logging.getLogger("metarun")
    logging_before = logger.level, logger.propagate, list(logger.handlers)
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}") == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert (os.getcwd(), dict(os.environ)) == (folder, environment)
    assert (logger.level, logger.propagate, list(logger.handlers)) == logging_before
