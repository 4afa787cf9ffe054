"""Which classes a configuration that was read from a folder may name: to instantiate one is to run it."""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

import torch

from metarun.configuration.config_folder import config_folder
from metarun.configuration.importing import class_of
from metarun.errors import ConfigurationError

_KINDS = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
_TORCH = ("torch.nn.", "torch.optim.")
_TARGET = re.compile(r"""_target_['"]?\s*[:=]\s*['"]?([\w.]+)""")


def require_trusted(config: Any, allowed: Collection[str]) -> None:
    """Refuse a stored configuration that names a class or function, at any depth, which nobody here has vouched for.

    Vouched for are the parts that metarun's own files name, torch's modules, optimizers and schedulers, and `allowed`.

    Raises:
        ConfigurationError: it names another.
    """
    for place, target in _untrusted(config):
        if target not in allowed:
            raise ConfigurationError(
                f"{place} names {target!r}, which is no part of metarun's and no module, optimizer or schedule of torch's, and "
                "to load the configuration is to run it. "
                f"If you trust the folder and that code, say so: --allow {target}"
            )


def require_resolved(config: Any) -> None:
    """Refuse a stored configuration with interpolations: metarun stores what they give, and they could give a class.

    Raises:
        ConfigurationError: it has one.
    """
    for place, value in _texts(config):
        if "${" in value:
            raise ConfigurationError(f"a run's configuration has no interpolations left, and {place} is {value!r}")


def untrusted_classes(config: Any) -> list[str]:
    """What `require_trusted` would have to be allowed, each once."""
    return list(dict.fromkeys(str(target) for _, target in _untrusted(config)))


def named_in(override: str) -> list[str]:
    """The classes that somebody names on the command line: `model._target_=my_package.MyNet`."""
    return _TARGET.findall(override)


def _untrusted(config: Any) -> Iterator[tuple[str, Any]]:
    for place, target in _targets(config):
        if not isinstance(target, str) or not (target in _own() or _is_of_torch(place, target)):
            yield place, target


def _is_of_torch(place: str, target: str) -> bool:
    if not target.startswith(_TORCH):
        return False
    try:
        found = class_of(place, target)  # imports torch's own modules alone
    except ConfigurationError:
        return False
    return isinstance(found, type) and issubclass(found, _KINDS) and f"{found.__module__}.".startswith(_TORCH)


@cache
def _own() -> frozenset[str]:
    """The targets in metarun's own configuration files."""
    texts = (path.read_text(encoding="utf-8") for path in config_folder().rglob("*.yaml"))
    return frozenset(target for text in texts for target in _TARGET.findall(text) if target.startswith("metarun."))


def _targets(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    for here, value in _children(node, place):
        if here.rpartition(".")[2] == "_target_":
            yield here, value
        yield from _targets(value, here)


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    for here, value in _children(node, place):
        if isinstance(value, str):
            yield here, value
        yield from _texts(value, here)


def _children(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield f"{place}.{key}" if place else str(key), value
