"""Configurations that earlier versions stored: read as this version has them, and compared as they were first written."""

from collections.abc import Mapping
from typing import Any

_RENAMED = {
    "metarun.train.device.Device": "metarun.device.settings.Device",
    "metarun.tracking.base.NoMirror": "metarun.tracking.base.NoTracker",
    "metarun.train.trainer.Schedule": "metarun.training.trainer.Schedule",
    "metarun.train.evaluate.Evaluation": "metarun.training.evaluate.Evaluation",
    "metarun.gradients.measure.Grid": "metarun.gradients.measure.GradientSettings",
}
"""Classes of metarun that stood in configurations under another name -> their names now."""


_TRACKERS = ("wandb", "none")
"""Trackers from before several could be chosen: their settings lay in `tracker` itself."""


def of_today(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration as this version reads it: what came later as it was then, without what is gone."""
    stored = _with_targets(stored, _RENAMED)
    algorithm = dict(stored["algorithm"])
    algorithm["inner"] = {key: value for key, value in algorithm["inner"].items() if key != "eval_steps"}
    if algorithm["inner"].get("_target_") == "metarun.algorithm.GradientDescent":
        algorithm["inner"].setdefault("eval_step_sizes", None)
    algorithm["direction"] = _direction_of_today(algorithm.get("direction"))
    device = stored["device"]
    if isinstance(device, Mapping):  # else the part refuses it in words
        device = {"tf32": False, "program": "auto", **device}
        if device.pop("compile", False) is True:
            device["program"] = "compiled"
    if isinstance(tracker := stored.get("tracker"), Mapping) and "_target_" in tracker:
        chosen = stored["choices"].get("tracker") if isinstance(stored.get("choices"), Mapping) else None
        stored = {**stored, "tracker": {chosen if chosen in _TRACKERS else "tracker": tracker}}
    return {
        "head": None,
        "profile": False,
        "figures": {"video": False},
        **stored,
        "algorithm": algorithm,
        "device": device,
    }


def as_first_written(settings: Mapping[str, Any], evaluation: Any) -> dict[str, Any]:
    """Settings as earlier versions wrote them, so that runs keep their names and fingerprints.

    Args:
        settings: those that decide a run's numbers.
        evaluation: the configuration of the evaluation.
    """
    kept = _with_targets(settings, {now: then for then, now in _RENAMED.items()})
    if kept.get("head") is None:  # a key that came later
        kept.pop("head", None)
    if isinstance(device := kept.get("device"), Mapping):
        kept["device"] = _device_of_then(device)
    kept["algorithm"] = _algorithm_of_then(kept["algorithm"], evaluation)
    return kept


def _device_of_then(device: Mapping[str, Any]) -> dict[str, Any]:
    """A device's settings as they were first written: with `compile` in place of `program`, and without `tf32`."""
    then = {key: value for key, value in device.items() if not (key == "tf32" and value is False)}
    program = then.get("program")
    if program in ("auto", "compiled"):
        del then["program"]
        then["compile"] = program == "compiled"
    return then


def _algorithm_of_then(algorithm: Any, evaluation: Any) -> Any:
    """An algorithm's settings as they were first written, so that runs from before the keys below keep their names."""
    if not isinstance(algorithm, Mapping) or not isinstance(evaluation, Mapping):
        return algorithm
    then = {key: value for key, value in algorithm.items() if not (key == "not_meta_learned" and not value)}
    if isinstance(inner := then.get("inner"), Mapping):
        inner = {"eval_steps": evaluation.get("inner_steps"), **inner}
        if inner.get("eval_step_sizes") is None:  # a key that came later
            inner.pop("eval_step_sizes", None)
        then["inner"] = inner
    then["direction"] = _direction_of_then(then.get("direction"))
    if isinstance(estimator := then.get("meta_gradient"), Mapping) and estimator.get("recompute") is False:
        then["meta_gradient"] = {key: value for key, value in estimator.items() if key != "recompute"}
    return then


_PRODUCTS = ("point", "steps", "rtol", "preconditioner", "recompute")
"""What a natural gradient had of its own before it was given a metric."""
_NATURAL, _METRICS = (
    "metarun.algorithm.NaturalGradient",
    ("metarun.algorithm.StepTasks", "metarun.algorithm.TaskEmpirical"),
)
_DEFAULTS = {"point": "task_empirical", "steps": 2, "rtol": 1e-6, "preconditioner": 0.5, "recompute": False}


def _direction_of_today(direction: Any) -> Any:
    """A direction of before metrics with the metric that it had."""
    if not isinstance(direction, Mapping) or direction.get("_target_") != _NATURAL or "metric" in direction:
        return direction
    now = {key: value for key, value in direction.items() if key not in _PRODUCTS}
    products = {key: value for key, value in direction.items() if key in _PRODUCTS}
    is_empirical = products.get("point") == "task_empirical"
    metric = {"_target_": _METRICS[1]} if is_empirical else {"_target_": _METRICS[0], **products}
    return now | {"tries": 0, "metric": metric}


def _direction_of_then(direction: Any) -> Any:
    """A direction as it was first written: a natural gradient with the settings of its metric among its own."""
    if not isinstance(direction, Mapping) or direction.get("_target_") != _NATURAL or direction.get("tries") != 0:
        return direction
    metric = direction.get("metric")
    if not isinstance(metric, Mapping) or metric.get("_target_") not in _METRICS:
        return direction
    then = {key: value for key, value in direction.items() if key not in ("metric", "tries")}
    products = {key: value for key, value in metric.items() if key != "_target_"}
    return then | (products or _DEFAULTS)


def _with_targets(node: Any, names: Mapping[str, str]) -> Any:
    """A part of a configuration with the classes in `names` renamed, at any depth."""
    if not isinstance(node, Mapping):
        return node
    renamed = {key: _with_targets(value, names) for key, value in node.items()}
    target = renamed.get("_target_")
    return renamed | {"_target_": names[target]} if isinstance(target, str) and target in names else renamed
