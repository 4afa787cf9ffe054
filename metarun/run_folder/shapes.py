"""What the JSON files of a run's folder must hold for those who read them (`metarun.files.mismatch`)."""

import hashlib
from collections.abc import Mapping
from typing import Any

from metarun.files import NUMBER, mismatch
from metarun.json_text import json_text

CONFIG = {
    "choices": dict,
    "data": {"root": str, "cache": str},
    "dataset": {"source": dict},
    "seed": int,
}
DATA = {"provenance": {"sha256": str, "split_sha256": str}, "splits": dict}
SOURCES = {"programs": [{"step": int, "files": dict}]}
STATUS = {
    "state": str,
    "pid": int,
    "host": str,
    "started": float,
    "updated": float,
    "step": int,
    "steps": int,
    "error": (str, None),
}
RESULT = {
    "score": str,
    "results": [{"inner_steps": int}],
    "protocol": {
        "dataset": str,
        "split": str,
        "ways": (int, None),
        "shots": int,
        "queries": int,
        "tasks": int,
        "headline_inner_steps": int,
        "batch_norm": str,
        "selected_step": int,
        "selected_by": str,
    },
    "choices": {"algorithm": str, "dataset": str},
    "fingerprint": str,
    "validation": {"best_score": NUMBER, "best_step": (int, None)},
    "reference": (dict, None),
    "train_s": float,
    "step_s": float,
    "test_s": float,
    "peak_memory_mib": float,
}
EVALUATION = {
    "score": str,
    "results": [{"inner_steps": int}],
    "protocol": RESULT["protocol"],
    "overrides": [str],
    "config": {"choices": {"dataset": str}, "dataset": dict},
}
_LATER = {"training_memory_mib": NUMBER, "record": {"lines": int, "bytes": int, "sha256": str}, "lost": [str]}
"""Of a result, what earlier versions did not write."""
CHECKSUM = "checksum"
_REFERENCE = {"source": str, "differences": str, "values": dict}
_SUMMARY = {"mean": NUMBER, "std": NUMBER, "ci95": NUMBER, "num_tasks": int}


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object's text, but for its own checksum."""
    return hashlib.sha256(json_text({k: v for k, v in content.items() if k != CHECKSUM}).encode()).hexdigest()


def result_mismatch(content: Any) -> str:
    """What keeps a JSON value from being a result, in words; "" if nothing does."""
    reason = mismatch(content, RESULT) or mismatch(
        content, {key: _LATER[key] for key in _LATER.keys() & content.keys()}
    )
    if reason:
        return reason
    if CHECKSUM in content and content[CHECKSUM] != checksum(content):
        return "its checksum is wrong"
    return _scores_mismatch(content) or _reference_mismatch(content["reference"])


def evaluation_mismatch(content: Any) -> str:
    """What keeps a JSON value from being what `metarun evaluate` stores, in words; "" if nothing does."""
    return mismatch(content, EVALUATION) or _scores_mismatch(content)


def _scores_mismatch(content: Mapping[str, Any]) -> str:
    score, rows = content["score"], content["results"]
    scored = [mismatch(row, {score: _SUMMARY}, f"results[{i}]") for i, row in enumerate(rows)]
    scored += [
        mismatch(row, {"diverged": [int], score: {"median": NUMBER}}, f"results[{i}]")
        for i, row in enumerate(rows)
        if "diverged" in row  # not of earlier versions
    ]
    reason = next(filter(None, scored), "")
    if not reason and content["protocol"]["headline_inner_steps"] not in {row["inner_steps"] for row in rows}:
        reason = "it states no score after the inner steps that count"
    return reason


def _reference_mismatch(published: Mapping[str, Any] | None) -> str:
    if not published:
        return ""
    reason = mismatch(published, _REFERENCE, "reference")
    if reason:
        return reason
    values = published["values"].items()
    return next(filter(None, (mismatch(value, float, f"reference.values.{key}") for key, value in values)), "")
