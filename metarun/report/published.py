"""Published figures beside measured ones: only where they are of the same tasks, and with what else differs in words."""

from collections.abc import Mapping
from typing import Any

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


def _apart(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return f"{key.removeprefix('choices.')} is {word(ours.get(key, ABSENT))} here and {word(theirs[key])} there"
