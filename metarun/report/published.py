"""Published figures beside measured ones: only where they are of the same tasks, and with what else differs in words."""

from collections.abc import Mapping
from typing import Any

from metarun.errors import ConfigurationError
from metarun.report.runs import ABSENT, word
from metarun.run_folder.folder import flatten

_THE_SAME = ("choices.dataset", "dataset.test_ways", "evaluation.shots")
"""Keys of the configuration without which there is no comparison; inner steps, each figure is of a number of them."""
_MAX_TOLD = 8


def compared(reference: Mapping[str, Any] | None, config: Mapping[str, Any], score: str) -> dict[str, Any] | None:
    """What a run's result says of the published figures that its configuration names.

    Args:
        reference: `source`; `metric`; `values`, for each number of inner steps at test; `settings`, theirs, as this
            configuration has them; `differences`, those that no key of it tells.
        config: the run's, resolved, with its choices.
        score: the metric that the run measured.
    Returns:
        Its `source`, `metric` and `values`, none where data set, ways, shots or metric are not the same, and in
        `differences` what is not the same, in words.
    """
    if reference is None:
        return None
    theirs, ours = flatten(reference.get("settings") or {}), flatten(config)
    differing = {key: value for key, value in theirs.items() if ours.get(key, ABSENT) != value}
    apart = [_apart(key, ours, differing) for key in _THE_SAME if key in differing]
    apart += [f"reference.settings.{key} is missing" for key in _THE_SAME if key in ours and key not in theirs]
    if reference["metric"] != score:
        apart.append(f"the score is {score} here and {reference['metric']} there")
    if apart:
        values, said = {}, [f"Not compared: {'; '.join(apart)}."]
    else:
        values, said = {str(steps): value for steps, value in reference["values"].items()}, []
        told = [_apart(key, ours, differing) for key in differing]
        more = f"; and {len(told) - _MAX_TOLD} more" if len(told) > _MAX_TOLD else ""
        said += [f"Not the same: {'; '.join(told[:_MAX_TOLD])}{more}."] if told else []
        said += [reference["differences"]]
    shared = {key: reference[key] for key in ("source", "metric")}
    return shared | {"values": values, "differences": " ".join(filter(None, said))}


def check_reference(reference: Any) -> None:
    """Refuse published figures that could not be printed, which is done after all the training.

    Raises:
        ConfigurationError: they are not as `compared` takes them.
    """
    texts, known = ("source", "metric", "differences"), {"source", "metric", "differences", "values"}
    if reference is None:
        return
    if not isinstance(reference, Mapping) or not known <= {*reference}:
        raise ConfigurationError(
            f"reference must be null or have source, metric, values and differences, got {reference!r}"
        )
    for key in texts:
        if not isinstance(reference[key], str):
            raise ConfigurationError(f"reference.{key} must be a text, got {reference[key]!r}")
    values = reference["values"]
    for steps, value in values.items() if isinstance(values, Mapping) else [(None, None)]:
        if not (str(steps).isdecimal() and isinstance(value, int | float) and not isinstance(value, bool)):
            raise ConfigurationError(
                f"reference.values must have a number for each number of inner steps, got {values!r}"
            )
    settings = reference.get("settings")
    if not isinstance(settings, Mapping | None):
        raise ConfigurationError(f"reference.settings must be keys of this configuration, got {settings!r}")


def _apart(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return f"{key.removeprefix('choices.')} is {word(ours.get(key, ABSENT))} here and {word(theirs[key])} there"
