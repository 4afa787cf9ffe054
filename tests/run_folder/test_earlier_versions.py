"""metarun.run_folder.earlier_versions: what earlier versions stored is read, and a run has the name that they gave it."""

import pytest

from metarun.run_folder.earlier_versions import of_today
from metarun.run_folder.folder import fingerprint, name

from ..training.small import configuration

NATURAL_OF_THEN = tuple(
    f"algorithm.direction.{each}" for each in ("damping=0.01", "max_divergence=2e-4", "tries=0", "momentum=0.9")
)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "sinusoid-10shot-maml-seed0-f187eabb"),
        (
            ("algorithm=imaml_ng", "dataset=glyphs", "algorithm/direction/metric=step_tasks", *NATURAL_OF_THEN),
            "glyphs-5way-1shot-imaml_ng-seed0-1f15bf9f",
        ),
        (("algorithm=anil", "device.program=compiled"), "sinusoid-10shot-anil-seed0-ecb24066"),
        (("algorithm=reptile", "tracker=none"), "sinusoid-10shot-reptile-seed0-773268b5"),
    ],
)
def test_names_are_those_of_the_version_before_keys_and_classes_moved(overrides, expected):
    """Worked out by that version, so that a command finds the run that it made then."""
    assert name(configuration(*overrides)) == expected


def test_classes_that_were_renamed_are_read_under_their_names_now():
    config = configuration("tracker=none")
    now = {key: config[key]["_target_"] for key in ("device", "gradients")}
    mark = fingerprint(config)
    config["device"]["_target_"] = "metarun.train.device.Device"
    config["tracker"] = {"_target_": "metarun.tracking.base.NoMirror"}
    config["gradients"]["_target_"] = "metarun.gradients.measure.Grid"
    read = of_today(config)
    assert {key: read[key]["_target_"] for key in now} == now
    assert read["tracker"] == {"none": {"_target_": "metarun.tracking.base.NoTracker"}}
    assert fingerprint(config) == fingerprint(read) == mark


def test_the_one_tracker_of_then_is_read_among_those_of_today():
    config = configuration("tracker=wandb", "tracker.wandb.project=mine")
    now, mark = config["tracker"], fingerprint(config)
    then = config | {"tracker": now["wandb"]}
    assert of_today(then)["tracker"] == now
    assert fingerprint(then) == mark
    assert of_today(config)["tracker"] == now


@pytest.mark.parametrize("metric", ["step_tasks", "task_empirical"])
def test_a_natural_gradient_of_before_metrics_is_read_with_the_metric_that_it_had(metric):
    chosen = f"algorithm/direction/metric={metric}"
    config = configuration("algorithm=imaml_ng", chosen, *NATURAL_OF_THEN)
    mark, direction = fingerprint(config), config["algorithm"]["direction"]
    products = {"steps": 2, "rtol": 1e-6, "preconditioner": 0.5, "recompute": False}
    then = {key: value for key, value in direction.items() if key not in ("metric", "tries")}
    then |= products | {"point": "phi" if metric == "step_tasks" else "task_empirical"}
    config["algorithm"]["direction"] = then
    assert of_today(config)["algorithm"]["direction"] == direction
    assert fingerprint(of_today(config)) == fingerprint(config) == mark
