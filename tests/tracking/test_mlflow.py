import math
from dataclasses import replace

import pytest

from metarun.tracking.base import RunInfo
from metarun.tracking.guard import GuardedTrackers
from metarun.tracking.mlflow import MlflowTracker

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("sqlalchemy", reason="needs the extra mlflow")

ROWS = [
    (10, {"train/loss": 0.1 + 0.2, "cg": 5}),
    (20, {"train/loss": 1e-320, "odd name!": 1.0}),
    (30, {"train/loss": math.nan, "cg": math.inf}),
]
LARGEST = 1.7976931348623157e308


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for all: to make its tables takes seconds. Each test has an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'deeper' / 'mlflow.db'}"


@pytest.fixture
def settings(store, request):
    return MlflowTracker(
        uri=store, experiment=request.node.name, tags={"mine": "yes"}, request_timeout_s=10, finish_timeout_s=30
    )


def info(folder, **changes):
    fields = dict(name="sinusoid-maml", group="sweep7", job_type="train", tags=("maml", "sinusoid"), run_id="cafe0001")
    config = {"seed": 3, "model": {"hidden": [40, 40], "head": None}, "long": "x" * 600}
    return RunInfo(folder=folder, **{"config": config, **fields, **changes})


def runs(settings):
    """What a client of MLflow's finds: for each run its own record, points as (step, value)."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    found = client.search_runs([experiment.experiment_id])
    return [
        (
            run,
            {
                key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
        )
        for run in found
    ]


def finished(settings, run, rows=ROWS, results=None):
    tracker = settings.open(run)
    for row in rows:
        tracker.log(*row)
    if results:
        tracker.summarize(results)
    tracker.close(0 if results else 1)


def assert_whole(settings):
    ((run, points),) = runs(settings)
    last = points["train/loss"].pop()
    assert last[0] == 30 and math.isnan(last[1])
    assert points == {
        "train/loss": [(10, 0.1 + 0.2), (20, 1e-320)],
        "cg": [(10, 5.0), (30, LARGEST)],
        "odd name_": [(20, 1.0)],
        "test/mse": [(30, 0.7)],
    }
    assert run.info.status == "FINISHED"
    return run


def test_a_run_holds_the_record_to_the_bit_the_configuration_and_the_results(tmp_path, settings):
    finished(settings, info(tmp_path), results={"test/mse": 0.7})
    run = assert_whole(settings)
    assert run.info.run_name == "sinusoid-maml"
    assert run.data.params == {"seed": "3", "model.hidden": "[40, 40]", "model.head": "None", "long": "x" * 500}
    tags = {
        key: value for key, value in run.data.tags.items() if key in ("metarun.id", "group", "tags", "job_type", "mine")
    }
    assert tags == {
        "metarun.id": "cafe0001", "group": "sweep7", "tags": "maml, sinusoid", "job_type": "train", "mine": "yes"
    }  # fmt: skip


def test_a_run_that_goes_on_is_the_same_and_no_point_is_there_twice(tmp_path, settings):
    killed = settings.open(info(tmp_path, is_new=True))
    for row in ROWS[:2]:
        killed.log(*row)  # and no close
    assert runs(settings)[0][0].info.status == "RUNNING"
    finished(settings, info(tmp_path), results={"test/mse": 0.7})
    assert_whole(settings)
    finished(settings, replace(info(tmp_path), is_sync=True), results={"test/mse": 0.7})
    assert_whole(settings)


def test_a_run_that_is_begun_anew_takes_the_place_of_the_other(tmp_path, settings):
    finished(settings, info(tmp_path, is_new=True), rows=[(10, {"train/loss": 9.0})], results={"test/mse": 9.0})
    finished(settings, info(tmp_path, is_new=True), results={"test/mse": 0.7})
    assert_whole(settings)


def test_another_record_under_the_same_id_is_refused(tmp_path, settings):
    finished(settings, info(tmp_path), rows=[*ROWS, (10, {"time/step_s": 1.0})])
    with pytest.raises(
        ValueError, match=r"^MLflow holds train/loss = 0\.30000000000000004 at step 10, and the record 9\.0: "
    ):
        finished(settings, info(tmp_path, is_sync=True), rows=[(10, {"time/step_s": 9.0, "train/loss": 9.0})])


@pytest.mark.scenario
def test_the_runs_of_a_sweep_may_begin_at_once(tmp_path):
    """The tables of a new database are made by one of them: MLflow does not look whether another does."""
    settings = MlflowTracker(
        uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="e", tags={}, request_timeout_s=10, finish_timeout_s=60
    )
    node = {**vars(settings), "_target_": "metarun.tracking.mlflow.MlflowTracker"}
    trackers = []
    for seed in range(4):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "metrics.jsonl").write_text('{"step": 1, "x": 0.5}\n')
        run = replace(info(folder), run_id=f"cafe{seed}", config={})
        trackers.append(GuardedTrackers({"mlflow": node}, {"mlflow": settings}, run, folder / "log.txt"))
    for tracker in trackers:
        tracker.close(0)
    found = runs(settings)
    assert sorted(run.data.tags["metarun.id"] for run, _ in found) == [f"cafe{seed}" for seed in range(4)]
    assert [points for _, points in found] == [{"x": [(1, 0.5)]}] * 4


@pytest.mark.parametrize("code, status", [(1, "FAILED"), (143, "KILLED")])
def test_how_a_run_ended_is_its_status(tmp_path, settings, code, status):
    settings.open(info(tmp_path)).close(code)
    assert [run.info.status for run, _ in runs(settings)] == [status]


def test_settings_are_checked(store, monkeypatch):
    good = dict(uri=store, experiment="e", tags={}, request_timeout_s=10, finish_timeout_s=30)
    with pytest.raises(
        ValueError, match=r"^uri must be sqlite:///FILE or a server's address, such as .*, got 'mlruns'$"
    ):
        MlflowTracker(**{**good, "uri": "mlruns"})
    with pytest.raises(ValueError, match=r"^experiment must be given, got ''$"):
        MlflowTracker(**{**good, "experiment": ""})
    with pytest.raises(ValueError, match=r"^request_timeout_s must be a number > 0, got 0$"):
        MlflowTracker(**{**good, "request_timeout_s": 0})
    present = {"mlflow"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in present or None)
    with pytest.raises(ImportError, match=r"^sqlalchemy is not installed: pip install 'metarun\[mlflow\]'"):
        MlflowTracker(**good)
    MlflowTracker(**{**good, "uri": "http://127.0.0.1:1"})  # a server needs no database here
