"""The one writer of JSON: what is no number becomes null, and the same object says so."""

import json
import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = "not_finite"
"""The key under which an object says which of its nulls were a NaN or an infinity."""


def json_text(content: Any, *, indent: int | None = None) -> str:
    """`content` as JSON. JSON has no word for a NaN or an infinity, and many readers refuse what Python writes for them.

    Each is written as null. An object with any says where they were and what, under `not_finite`: `{"loss.mean": "nan"}`.
    """
    found = not_finite(content)
    if found:
        content = _with_null(content)
        if isinstance(content, dict):
            content[NOT_FINITE] = content.get(NOT_FINITE, {}) | found
    return json.dumps(content, indent=indent, allow_nan=False)


def as_written(content: Mapping[str, Any]) -> dict[str, Any]:
    """A flat object as `json_text` was given it: its nulls are the NaN and infinities that they stand for."""
    words = content.get(NOT_FINITE, {})
    kept = {key: value for key, value in content.items() if key != NOT_FINITE}
    return {key: float(words.get(key, "nan")) if value is None else value for key, value in kept.items()}


def not_finite(content: Any, place: str = "") -> dict[str, str]:
    """Where numbers in `content` are not finite, keys and indices joined by dots, and what they are: nan, inf or -inf."""
    if isinstance(content, float):
        return {} if math.isfinite(content) else {place: str(content)}
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        return {}
    found: dict[str, str] = {}
    for key, value in items:
        found |= not_finite(value, f"{place}.{key}" if place else str(key))
    return found


def _with_null(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _with_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_null(value) for value in content]
    return content
