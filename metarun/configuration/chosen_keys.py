"""The keys of what is chosen: each with its value and the comment that stands beside it in the YAML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.configuration.comments import comments
from metarun.configuration.explain import COMPOSITION_ERRORS, explain
from metarun.configuration.hydra_private import files_of
from metarun.configuration.overrides import check, config_folders, parse
from metarun.errors import ConfigurationError

_HYDRAS = ("hydra.launcher", "hydra.sweeper")
"""Of Hydra's own keys, those that have files in conf."""
_NOT_SET = ("_target_", "_partial_")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key as a reader sees it.

    Attributes:
        name: dotted, as on the command line.
        value: resolved, as it would be written there.
        comment: what the chosen files say beside it; "" if nothing.
    """

    name: str
    value: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A composed configuration.

    Attributes:
        choices: group path -> what is chosen, as Hydra made them: none, one or several options.
        keys: in the configuration's order.
    """

    choices: dict[str, list[str]]
    keys: list[Key]


def chosen_keys(arguments: Sequence[str], conf: Path) -> Chosen:
    """Compose what the words of a command line choose.

    Args:
        arguments: GROUP=OPTION, KEY=VALUE, and Hydra's flags, of which --config-dir alone matters.
        conf: folder holding config.yaml.
    Raises:
        ConfigurationError: it cannot be composed.
    """
    parsed = parse(arguments)
    check(parsed, conf)
    folders = config_folders(parsed, conf)
    is_searched = any(word.startswith("hydra.searchpath") for word in parsed.overrides)
    own = [] if is_searched else [f"hydra.searchpath=[file://{folder.absolute()}]" for folder in folders[1:]]
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            overrides = [*own, *parsed.overrides]
            composed = compose("config", overrides, return_hydra_config=True)
            files = files_of(overrides)
    except COMPOSITION_ERRORS as error:
        raise ConfigurationError(explain(error, arguments, conf)) from error
    said = _comments(files, folders)
    keys = [
        _key(composed, name, raw, said.get(name, ""))
        for name, raw in _leaves(OmegaConf.to_container(composed, resolve=False), "")
        if not name.startswith("hydra.") or name.startswith(_HYDRAS)
    ]
    return Chosen(choices=_choices(composed.hydra.runtime.choices, files), keys=keys)


def _choices(told: Mapping[str, str | None], files: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """What is chosen in each group, as Hydra tells it; of several options in one group its files alone tell."""
    choices = {group: options_of(choice) for group, choice in told.items()}
    for group, _, option in (name.rpartition("/") for name, _ in files):
        if group and group not in told and not group.startswith("hydra"):
            choices.setdefault(group, []).append(option)
    return choices


def options_of(choice: Any) -> list[str]:
    """The options in what Hydra or a run's record has for a group: none, one, or a list."""
    return [] if choice is None else [str(option) for option in (choice if isinstance(choice, list) else [choice])]


def _key(composed: DictConfig, name: str, raw: Any, comment: str) -> Key:
    try:
        value = OmegaConf.select(composed, name)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        value = raw  # what it refers to is not there, or not chosen yet
    other = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    if isinstance(value, dict) and other:
        value = raw  # a whole part, which has keys of its own elsewhere
    return Key(name=name, value=_text(value), comment=comment or (f"from {other[1]}" if other else ""))


def _comments(files: Sequence[tuple[str, str]], folders: Sequence[Path]) -> dict[str, str]:
    """What the files say of each key: the last that has a comment for it has the word."""
    said: dict[str, str] = {}
    for name, package in files:
        places = [folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()]
        if places:
            for key, words in comments(places[0].read_text(encoding="utf-8")).items():
                if words:
                    said[f"{package}.{key}".lstrip(".")] = words
    return said


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """All that has a value, by dotted name. Mappings whose keys are no names, as patterns of parameters, are values."""
    for name, child in node.items():
        if isinstance(child, dict) and child and all(isinstance(key, str) and key.isidentifier() for key in child):
            yield from _leaves(child, f"{prefix}{name}.")
        elif name not in _NOT_SET:
            yield f"{prefix}{name}", child


def _text(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
