"""`metarun sync`: the local record of a run, sent to a tracker later, is what a live tracker would hold, and there once."""

import json

import pytest

from metarun.command_line.main import main
from metarun.tracking.base import flat_results

from ..tracking.test_tensorboard import points as points_of
from ..tracking.test_tensorboard import read, rounded
from ..tracking.wandb_reader import read_offline_run
from ..training.small import SIX_STEPS, only_folder, run_and_kill, run_here

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
pytest.importorskip("mlflow", reason="needs the extra mlflow")

COMMAND = [word for word in SIX_STEPS if not word.startswith("tracker")] + ["device.program=eager"]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run without a tracker."""
    root = tmp_path_factory.mktemp("finished")
    assert run_here(*COMMAND, "tracker=none", f"run.root={root}") == 0
    return only_folder(root)


def expected(folder, number=float):
    """Name -> (step, value) of each line of metrics.jsonl, and of the results at the last step; of times the step alone."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    rows.append({"step": rows[-1]["step"], **flat_results(result)})
    found = {}
    for row in rows:
        for name, value in row.items():
            if name != "step":
                found.setdefault(name, []).append((row["step"], number(value)))
    return without_times(found)


def without_times(points):
    """What the clock says differs where a killed attempt had come further than its last checkpoint: there once is enough."""
    return {name: [step for step, _ in found] if name.startswith("time/") else found for name, found in points.items()}


def in_tensorboard(folder):
    return points_of(read(folder / "tensorboard"))


def in_mlflow(folder):
    """The one run there, and its points."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("metarun").experiment_id])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return run, {name: [(point.step, point.value) for point in found] for name, found in history.items()}


def assert_both_hold_the_record(folder):
    assert without_times(in_tensorboard(folder)) == expected(folder, rounded)
    run, points = in_mlflow(folder)
    assert without_times(points) == expected(folder)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == folder.name
    assert run.data.tags["metarun.id"] == json.loads((folder / "tracking.json").read_text())["run_id"]
    assert run.data.params["choices.algorithm"] == "maml"


def test_several_trackers_of_a_run_that_was_killed_and_resumed_hold_the_record_once_and_sync_adds_nothing(
    tmp_path, capsys
):
    command = [*COMMAND, "tracker=[tensorboard,mlflow]", f"run.root={tmp_path}"]
    run_and_kill(6, *command)
    assert run_here(*command) == 0
    (folder,) = tmp_path.glob("sinusoid*")
    assert "warning" not in capsys.readouterr().out
    assert_both_hold_the_record(folder)
    for name in ("tensorboard", "mlflow"):
        assert main(["sync", str(folder), "--to", name]) == 0
        said = capsys.readouterr().out.replace("\n", "")
        assert f"{folder} is in {name}: 5 lines of metrics.jsonl and its result" in said
    assert_both_hold_the_record(folder)


def test_a_run_without_a_tracker_is_sent_to_each_under_one_id(finished, capsys):
    for name in ("tensorboard", "mlflow", "wandb"):
        assert main(["sync", str(finished), "--to", name]) == 0
    assert capsys.readouterr().err == ""
    assert_both_hold_the_record(finished)
    (file,) = (finished / "wandb").glob("offline-run-*/*.wandb")
    stored = read_offline_run(file)
    assert stored.run.run_id == json.loads((finished / "tracking.json").read_text())["run_id"]
    points = {}
    for row in stored.history:
        for name, value in row.items():
            if not name.startswith("_"):
                points.setdefault(name, []).append((row["_step"], float(value)))
    whole = expected(finished)
    assert without_times(points) == {name: values for name, values in whole.items() if not name.startswith("test/")}
    assert {name: stored.summary[name] for name in whole if name.startswith("test/")} == {
        name: values[0][1] for name, values in whole.items() if name.startswith("test/")
    }


def test_a_key_changes_where_it_goes(finished, tmp_path):
    assert main(["sync", str(finished), "--to", "tensorboard", f"tracker.tensorboard.folder={tmp_path}"]) == 0
    assert without_times(points_of(read(tmp_path / finished.name))) == expected(finished, rounded)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--to", "tensorbord"], "tracker has no option 'tensorbord'; did you mean tensorboard? Options: mlflow, "),
        (["--to", "none"], "tracker has no option 'none'. Options: mlflow, tensorboard, wandb."),
        (["--to", "mlflow", "tracker.mlflow.url=x"], "mlflow has no key tracker.mlflow.url; did you mean tracker.mlflow.uri?"),
        (["--to", "mlflow", "tracker.mlflow.uri=x"], "tracker.mlflow: uri must be sqlite:///FILE or a server's address"),
        (["elsewhere", "--to", "mlflow"], "metarun sync needs folders of runs, and elsewhere is not a folder."),
        ([], "metarun sync: the following arguments are required: --to."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_sent(finished, capsys, words, message):
    assert main(["sync", str(finished), *words]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_running_run_is_left_alone(finished, capsys):
    from metarun.run_folder.folder import RunFolder

    with RunFolder(finished).locked():
        assert main(["sync", str(finished), "--to", "tensorboard"]) == 2
    assert "another process is running this configuration" in capsys.readouterr().err


def test_what_could_not_be_sent_is_exit_status_1(finished, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    before = sorted((finished / "wandb").glob("*")) if (finished / "wandb").exists() else []
    assert main(["sync", str(finished), "--to", "wandb"]) == 1
    printed = capsys.readouterr()
    assert f"warning: {finished} is not sent to wandb: http://127.0.0.1:9 cannot be reached" in printed.out
    assert printed.err == "metarun: error: 1 of 1 runs could not be sent to wandb. The same command sends the rest.\n"
    assert before == (sorted((finished / "wandb").glob("*")) if before else [])


def test_a_folder_of_an_earlier_version_has_the_id_that_it_had(finished, tmp_path):
    """Its configuration has one tracker at `tracker` itself, and no tracking.json; the id follows from the folder."""
    from metarun.commands.sync import _planned
    from metarun.run_folder.folder import RunFolder

    now = json.loads((finished / "tracking.json").read_text())
    config = json.loads((finished / "config.json").read_text())
    settings = dict(
        project="mine", entity=None, mode="auto", group=None, tags=[], init_timeout_s=10, finish_timeout_s=30
    )
    config["tracker"] = {"_target_": "metarun.tracking.wandb.WandbTracker", **settings}
    config["choices"]["tracker"] = "wandb"
    texts = {name: (finished / name).read_text() for name in ("tracking.json", "config.json")}
    try:
        (finished / "tracking.json").unlink()
        (finished / "config.json").write_text(json.dumps(config))
        node, run = _planned(RunFolder(finished), "wandb", ["tracker.wandb.entity=us"], ())
    finally:
        for name, text in texts.items():
            (finished / name).write_text(text)
    assert node == {"_target_": "metarun.tracking.wandb.WandbTracker", **settings, "entity": "us"}
    assert (run.run_id, run.name, run.group) == (now["run_id"], finished.name, None)
