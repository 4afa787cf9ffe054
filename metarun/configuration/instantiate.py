"""From a resolved configuration to its parts: the only place that instantiates, and the words where a part refuses."""

import inspect
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from metarun.configuration.importing import class_of
from metarun.configuration.kinds import check_kinds
from metarun.errors import ConfigurationError


def make(config: Mapping[str, Any], key: str, **arguments: Any) -> Any:
    """Instantiate one part of the configuration.

    Raises:
        ConfigurationError: the part refuses its values; the message begins with the key.
    """
    node = config
    for word in key.split("."):
        node = node[word]
    if node is None:
        raise ConfigurationError(f"{key} must be given, got null")
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigurationError(f"{key} must have a _target_, the name of its class, got {node!r}")
    _check_values(key, node)
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        full_key = getattr(error, "full_key", None) or str(error).rpartition("full_key: ")[2]
        where = ".".join(
            filter(None, [key, full_key if error.__cause__ is not None and "full_key:" in str(error) else ""])
        )
        cause = error.__cause__
        if cause is None:
            raise ConfigurationError(f"{where}: {_one_line(error)}") from error
        is_null = isinstance(cause, AttributeError) and "'NoneType' object" in str(cause)
        if is_null or isinstance(
            cause, ValueError | TypeError | OSError | ImportError | RuntimeError | ArithmeticError
        ):
            words = f"{where}: {_one_line(cause)}{_given(config, where, cause)}"
            raise ConfigurationError(_about_arguments(config, where, cause) or words) from cause
        raise cause from error


class named:
    """Turn a `ValueError` or `TypeError` inside the block into a `ConfigurationError` that begins with a key."""

    def __init__(self, key: str, config: Mapping[str, Any]) -> None:
        self._key, self._config = key, config

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError) and not isinstance(error, ConfigurationError):
            raise ConfigurationError(
                f"{self._key}: {_one_line(error)}{_given(self._config, self._key, error)}"
            ) from error


def _check_values(where: str, node: Any) -> None:
    """Refuse values inside a part that are of another kind than its signature says, and integers beyond 64 bits."""
    if isinstance(node, int) and not -(2**63) <= node < 2**63:
        raise ConfigurationError(f"{where} must be an integer of at most 64 bits, got one of {node.bit_length()}")
    if isinstance(node, list):
        for item in node:
            _check_values(where, item)
    if not isinstance(node, Mapping):
        return
    part = class_of(f"{where}._target_", node["_target_"]) if "_target_" in node else None
    for name, value in node.items():
        _check_values(f"{where}.{name}", value)
    if part is not None:
        values = {name: value for name, value in node.items() if not (name.startswith("_") or _is_part(value))}
        with named(where, {}):
            check_kinds(part, values)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _about_arguments(config: Mapping[str, Any], key: str, error: BaseException) -> str | None:
    """What a constructor says of the names of its arguments, in words about keys; None where it says something else."""
    node = _node(config, key)
    said = re.search(r"(\w+)(?:\.__init__)?\(\) (?:got an unexpected|missing \d+ required)(.*)", str(error))
    if not isinstance(error, TypeError) or said is None or not isinstance(node, Mapping):
        return None
    made = get_object(node["_target_"])
    if said[1] not in (made.__name__, *(base.__name__ for base in getattr(made, "__mro__", ()))):
        return None  # of a call inside the constructor
    if "missing" in said[0]:
        names = re.findall(r"'(\w+)'", said[2])
        return f"{key} needs {', '.join(names)}: give " + " ".join(f"+{key}.{name}=VALUE" for name in names)
    unexpected = re.search(r"argument '(.+?)'(?:\.|$)", said[2])  # of a damaged file, any characters
    if unexpected is None:
        return None
    known = [name for name in inspect.signature(made).parameters if name != "self"]
    near = get_close_matches(unexpected[1], known, n=1)
    return f"there is no key {key}.{unexpected[1]}" + (
        f"; did you mean {key}.{near[0]}?" if near else f"; {made.__name__} takes {', '.join(known)}."
    )


def _node(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for word in key.split("."):
        node = node.get(word) if isinstance(node, Mapping) else None
    return node


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _given(config: Mapping[str, Any], key: str, error: BaseException) -> str:
    """What a part was given, where its error names Python's types and not the setting at fault."""
    node = _node(config, key)
    if isinstance(error, ValueError | OSError | ImportError) or not isinstance(node, Mapping):
        return ""
    values = {name: value for name, value in node.items() if not (name.startswith("_") or isinstance(value, Mapping))}
    return f" (given {', '.join(f'{name}={value!r}' for name, value in values.items())})" if values else ""
