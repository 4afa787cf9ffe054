"""Which results may stand in one table: those that were evaluated by the same protocol, on the same test tasks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from metarun.report.runs import ABSENT, TESTED_ON, Run, word

# What result.json calls it -> the key of the configuration that decides it.
_KEYS = {
    "ways": "dataset.ways",
    "shots": "evaluation.shots",
    "queries": "evaluation.queries",
    "tasks": "evaluation.tasks",
    "task_seed": "evaluation.seed",
    "selected_by": "evaluation.val_tasks",
    "val_ways": "dataset.val_ways",
    "val_shots": "evaluation.val_shots",
    "val_queries": "evaluation.val_queries",
}
# Of validation -> of the test, whose value it has in runs that were made when the two could not differ.
_OF_VALIDATION = {
    "dataset.val_ways": "dataset.ways",
    "evaluation.val_shots": "evaluation.shots",
    "evaluation.val_queries": "evaluation.queries",
}
# Not of the protocol: the inner steps, which are a column of the table, and the step whose parameters the run selected.
_OF_THE_RUN = {"inner_steps", "headline_inner_steps", "selected_step"}
# Settings of a source of tasks that touch its training tasks alone, or no task at all.
_OF_TRAINING = {"rotations", "flips", "crop_padding", "residence", "threads", "workers"}
# Differ in these, and the test tasks are still the same.
_SAME_TASKS = {"batch_norm", "evaluation.val_tasks", "interval", *_OF_VALIDATION}


def protocol(run: Run) -> dict[str, Any]:
    """How a run was (or will be) evaluated: key -> value; of an unfinished run, as far as its configuration says.

    Beside what result.json states this holds what decides task k: the settings of the source of tasks, and which
    examples it drew from (the checksums in data.json, where the data set has any).
    """
    flat = run.flat
    stated: dict[str, Any] | None = run.result["protocol"] if run.result else None
    not_tested = (
        _OF_TRAINING | {"val_ways"} | ({"ways", "output_size"} if "dataset.source.test_ways" in flat else set())
    )
    found: dict[str, Any] = {
        key: value
        for key, value in run.settings.items()
        # A problem's settings say how a model learns; what is measured, its kind says.
        if (key.startswith("dataset.source.") and key.rpartition(".")[2] not in not_tested)
        or key == "dataset.problem._target_"
    }
    found |= {f"data.{key}": run.provenance[key] for key in ("sha256", "split_sha256") if key in run.provenance}
    if run.result is None or stated is None:
        found["dataset"] = run.value("dataset")
        found["dataset.ways"] = flat.get("dataset.test_ways", flat.get("dataset.ways"))
        evaluation = {f"evaluation.{key}" for key in ("shots", "queries", "tasks", "seed")}
        found |= {key: value for key, value in flat.items() if key in evaluation or key in _OF_VALIDATION}
    else:
        stated = {"examples": "examples"} | stated  # results of earlier versions do not say it
        found |= {_KEYS.get(key, key): value for key, value in stated.items() if key not in _OF_THE_RUN}
        found["score"] = run.result["score"]
    return {key: found[like] for key, like in _OF_VALIDATION.items() if like in found} | found


def same_tasks(one: Run, other: Run) -> bool:
    """Whether task k is the same task for both, so that their scores may be compared task by task."""
    return tasks_of(one) == tasks_of(other)


def tasks_of(run: Run) -> str:
    """What decides each test task of a run, and the score, as one text: the same for runs that may be compared."""
    stated = protocol(run).items()
    return _frozen({key: value for key, value in stated if key not in _SAME_TASKS and value is not None})


def split(runs: Sequence[Run], axes: Sequence[str]) -> tuple[list[list[Run]], list[str]]:
    """Part runs that must not stand in one table.

    Runs of different protocols share a table only where the user has made what differs a row or a column, as with
    `--cols dataset.shots`: then no two of them are in one cell.

    Args:
        axes: the keys of rows and columns that the user named.
    Returns:
        The parts, each in the order given; and for each key that parts them, what it is and where, in words.
    """
    finished = [run for run in runs if run.result]
    protocols = {id(run): protocol(run) for run in runs}
    # Where validation is like the test in every run, what is said of the test says it all.
    keys = sorted({key for run in finished for key, value in protocols[id(run)].items()
                   if key not in _OF_VALIDATION or value != protocols[id(run)].get(_OF_VALIDATION[key])})  # fmt: skip
    parting = []
    for key in keys:
        deciding = [axis for axis in axes if _decides(axis, key)]
        found: dict[tuple[str, ...], set[str]] = {}
        for run in finished:
            label = tuple(word(run.value(axis)) for axis in deciding)
            found.setdefault(label, set()).add(_frozen(protocols[id(run)].get(key, ABSENT)))
        if any(len(each) > 1 for each in found.values()):
            parting.append(key)
    parts: dict[tuple[str, ...], list[Run]] = {}
    for run in finished:
        parts.setdefault(tuple(_frozen(protocols[id(run)].get(key, ABSENT)) for key in parting), []).append(run)
    for run in runs:
        if run.result:
            continue
        mine = protocols[id(run)]
        for values, part in parts.items():
            pairs = zip(parting, values, strict=True)
            if all(_frozen(mine[key]) == value for key, value in pairs if key in mine):
                part.append(run)
                break
        else:
            parts[tuple(_frozen(mine.get(key, ABSENT)) for key in parting)] = [run]
    order = {id(run): number for number, run in enumerate(runs)}
    ordered = [sorted(part, key=lambda run: order[id(run)]) for part in parts.values()]
    by_key = {key: [protocols[id(run)].get(key, ABSENT) for run in finished] for key in parting}
    # What follows from the data set needs no line of its own.
    said = [key for key in parting if key == "dataset" or not _follows(by_key[key], by_key.get("dataset", []))]
    return ordered, [_difference(key, by_key[key]) for key in said]


def _decides(axis: str, key: str) -> bool:
    """Whether a row or column labelled by `axis` tells the reader what the protocol's `key` is.

    Of the same name is what follows from another: evaluation.shots from dataset.shots or dataset.test_shots. What is of
    validation follows from what is of the test, and not the other way round.
    """
    if key == "score":
        return False
    if key.startswith("data."):
        return axis in ("dataset", TESTED_ON) or axis.startswith("dataset.")
    if axis in ("dataset", TESTED_ON):
        return key not in ("evaluation.tasks", "evaluation.seed", "split", "interval")
    names = {name.rpartition(".")[2] for name in (key, _OF_VALIDATION.get(key, key))}
    return axis.rpartition(".")[2].removeprefix("test_") in names or (axis == "model" and key == "batch_norm")


def _follows(values: Sequence[Any], others: Sequence[Any]) -> bool:
    pairs = {(_frozen(other), _frozen(value)) for other, value in zip(others, values, strict=False)}
    return bool(pairs) and len(pairs) == len({other for other, _ in pairs})


def _difference(key: str, values: Sequence[Any]) -> str:
    counts: dict[str, int] = {}
    for value in map(word, values):
        counts[value] = counts.get(value, 0) + 1
    return f"{key}: " + ", ".join(f"{value} in {n} run{'s' if n > 1 else ''}" for value, n in counts.items())


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def words(protocol: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """One line: `omniglot test, 5-way, 1-shot, 600 tasks, 15 queries per class, batch norm transductive`."""
    ways, examples = protocol.get("dataset.ways"), protocol.get("examples", "examples")
    shots, queries = protocol.get("evaluation.shots"), protocol.get("evaluation.queries")
    are_collected = examples != "examples"
    parts = {
        "dataset": f"{protocol.get('dataset')} {protocol.get('split', 'test')}",
        "dataset.ways": f"{ways}-way" if ways else "",
        "evaluation.shots": f"{shots} {examples} for each inner step" if are_collected else f"{shots}-shot",
        "evaluation.tasks": f"{protocol.get('evaluation.tasks')} tasks",
        "evaluation.queries": f"{queries} to measure"
        if are_collected
        else f"{queries} queries{' per class' if ways else ''}",
        "batch_norm": f"batch norm {protocol['batch_norm']}" if "batch_norm" in protocol else "",
    }
    return ", ".join(text for key, text in parts.items() if text and key not in without)
