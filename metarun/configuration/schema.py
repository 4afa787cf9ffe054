"""Whether a composed configuration has the shape that the chosen files give it: no key too many or too few, no wrong kind.

Hydra checks the names on the command line and nothing else: a key in a user's YAML file that nothing reads, a deleted
`seed` and a number in the place of a part would be found late or never. What a value must be is for its part to say.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from metarun import checks
from metarun.configuration.config_folder import config_folder, groups
from metarun.configuration.defaults import default_choices
from metarun.configuration.did_you_mean import unknown_key
from metarun.configuration.overrides import HYDRA_FOLDERS
from metarun.errors import ConfigurationError

_REFERENCE = re.compile(r"\$\{\s*\.*([\w.]+)")
_SINGLE = re.compile(r"[\w./~-]+")
"""A word that Hydra reads as one value; what else may be one is looked at the long way."""
_HYDRAS_OWN = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


def plain(config: DictConfig, *, resolve: bool, throw_on_missing: bool = False) -> dict[str, Any]:
    """A configuration as nested dictionaries, lists and values.

    Raises:
        OmegaConfBaseException: what it refers to is not there; with `throw_on_missing`, a value is still ???.
    """
    content = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=throw_on_missing)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def check_shape(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    folders: Sequence[str] = (),
    overrides: Sequence[str] | None = None,
) -> None:
    """Refuse a configuration that is not shaped as its choices say.

    Args:
        cfg: the composed configuration, unresolved.
        choices: the option chosen in each group, or a list of them.
        folders: folders of configuration beside ours (`--config-dir`).
        overrides: the words that led from config.yaml to `cfg`, where they are known: those that cannot change its shape
            spare composing it once more, without them.
    Raises:
        ConfigurationError: a key that nothing reads (a part refuses those inside it itself), one that is missing, or a value
            of another kind than the files have: a mapping, a list or a single value.
    """
    if overrides is not None and not folders and _keep_shape(overrides, cfg, choices):
        return
    chosen = {
        group: f"[{','.join(option)}]" if isinstance(option, list) else option
        for group, option in choices.items()
        if "hydra/" not in group and option is not None
    }
    schema, needed = _composed(tuple(sorted(chosen.items())), tuple(folders))
    available = groups(config_folder(), *map(Path, folders))
    for group in needed:
        if group not in chosen:
            raise ConfigurationError(f"{group} must be one option. Options: {', '.join(available.get(group, ()))}.")
    given = OmegaConf.to_container(cfg, resolve=False)
    referred = {name for text in _texts(given) for name in _REFERENCE.findall(text)}
    for key, problem in _compared(given, schema, "", available):
        if problem is not None:
            raise ConfigurationError(f"{key} {problem}")
        if not any(name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in referred):
            raise ConfigurationError(_unknown(key, schema, chosen, available, folders))


def check_value(key: str, value: Any, before: Any) -> None:
    """Refuse a value of another kind than the one before it: a mapping or none, with keys that are not there.

    Raises:
        ConfigurationError: it is.
    """
    for name, problem in _compared(value, before, key, {}, is_whole=False):
        raise ConfigurationError(f"{name} {problem}" if problem else f"there is no key {name}.")


def check_places(config: Mapping[str, Any]) -> None:
    """Refuse values of `data`, `run`, `figures` and `profile` that cannot be, whether the data set reads them or not.

    Raises:
        ConfigurationError: one that is no path, no truth value, or of another kind.
    """
    for key in ("data.root", "data.cache", "run.root", "run.folder", "run.init_from"):
        value = _at(config, key)
        if not (isinstance(value, str) or (value is None and key in ("run.folder", "run.init_from"))):
            raise ConfigurationError(f"{key} must be a path, got {value!r}")
    for key in ("run.overwrite", "profile", "figures.video"):
        if not isinstance(_at(config, key), bool):
            raise ConfigurationError(f"{key} must be true or false, got {_at(config, key)!r}")
    try:
        checks.one_of("data.residence", config["data"]["residence"], ("auto", "device", "host"))
        checks.integer("data.max_pixels", config["data"]["max_pixels"], minimum=1)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def refuse_hydra_folders(hydra: DictConfig | HydraConf) -> None:
    """Refuse Hydra's own settings of folders where a file sets them; `overrides.check` refuses those on the command line.

    Raises:
        ConfigurationError: one has another value than in config.yaml.
    """
    ours = _config_yaml(config_folder())
    theirs = {"hydra": OmegaConf.to_container(hydra, resolve=False)}
    for name, words in HYDRA_FOLDERS.items():
        if _at(theirs, name) != _at(ours, name):
            raise ConfigurationError(f"{name} has no effect here: {words}.")


@functools.lru_cache(maxsize=256)  # the jobs of a sweep share their choices
def _composed(chosen: tuple[tuple[str, str], ...], folders: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration of the choices alone, without what an experiment sets, and the groups that it needs."""
    defaults = default_choices(config_folder())
    overrides = [
        f"{'' if group in defaults or '/' in group else '+'}{group}={option}"
        for group, option in chosen
        if defaults.get(group) != "null"
    ]
    if folders:
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]")
    busy = (
        GlobalHydra.instance().hydra
    )  # `compose` works on the one Hydra of the process; this one has the user's command
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("config", overrides, return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = busy
    needed = tuple(g for g, o in composed.hydra.runtime.choices.items() if o is not None and "hydra/" not in g)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    top = _top(defaults)
    return {key: value for key, value in plain(composed, resolve=False).items() if key in top}, needed


def _keep_shape(overrides: Sequence[str], cfg: DictConfig, choices: Mapping[str, Any]) -> bool:
    """Whether the configuration is the one of its choices alone, but for single values in the place of single values.

    So it is where every word is GROUP=OPTION or KEY=VALUE with a key that has a single value in config.yaml itself, and no
    experiment is chosen: what an experiment sets is checked against the files without it.
    """
    if choices.get("experiment") is not None or not {*map(str, cfg)} <= _top(default_choices(config_folder())):
        return False
    ours = _config_yaml(config_folder())
    for word in overrides:
        key, _, value = word.partition("=")
        is_single = isinstance(_at(ours, key), str | int | float) and key.rpartition(".")[2] not in _HYDRAS_OWN
        if value == "null" or not (_SINGLE.fullmatch(value) and (key in choices or is_single)):
            return False
    return True


def _top(defaults: Iterable[str]) -> set[str]:
    """Top-level keys that somebody reads: those of config.yaml, and of the groups."""
    return {*_config_yaml(config_folder())} | {group.partition("/")[0] for group in defaults}


@functools.lru_cache(maxsize=1)
def _config_yaml(folder: Path) -> dict[str, Any]:
    """config.yaml as it is written; not to be changed."""
    loaded = OmegaConf.load(folder / "config.yaml")
    assert isinstance(loaded, DictConfig)
    return plain(loaded, resolve=False)


def _compared(
    given: Any,
    schema: Any,
    key: str,
    available: Mapping[str, Iterable[str]],
    target: str | None = None,
    *,
    is_whole: bool = True,
) -> Iterator[tuple[str, str | None]]:
    """What is wrong, as (key, words): None in place of words for a key that the files do not have.

    `target` is the class of the part that `key` is inside, if it is inside one: the class refuses names and values itself.
    Without `is_whole`, `given` is merged into what is there, and may leave keys out.
    """
    if _is_interpolation(schema) or (_is_interpolation(given) and not (isinstance(schema, Mapping) and target is None)):
        return
    if isinstance(schema, Mapping):
        inner = schema.get("_target_", target)
        if given is None and target is not None and not target.startswith("metarun."):
            return
        if not isinstance(given, Mapping):
            yield key, f"{_needs_keys(key, schema, available)}, got {_shown(given)}"
        elif "_target_" in schema and "_target_" not in given and is_whole:
            yield f"{key}._target_", "must name a class, and is missing"
        elif given.get("_target_", schema.get("_target_")) == schema.get("_target_"):
            for name in schema:
                inside = f"{key}.{name}".lstrip(".")
                if name in given:
                    yield from _compared(given[name], schema[name], inside, available, inner, is_whole=is_whole)
                elif is_whole and (inner is None or inner.startswith("metarun.")):
                    yield inside, f"must be given{_options(inside, available)}"
            for name in given:
                if name not in schema and inner is None:
                    yield f"{key}.{name}".lstrip("."), None
                elif name not in schema and name in _HYDRAS_OWN:
                    yield f"{key}.{name}", "is Hydra's own and has no place here"
    elif key.rpartition(".")[2] in _HYDRAS_OWN and given != schema:
        yield key, f"is Hydra's own and must stay {_shown(schema)}, got {_shown(given)}"
    elif isinstance(schema, list) and target is None and not (isinstance(given, list) or given is None):
        yield key, f"must be a list, such as {_shown(schema)}, got {_shown(given)}"
    elif (
        key.startswith("dataset.")
        and target is None
        and _is_number(schema)
        and not (given is None or _is_number(given))
    ):
        # What a data set says is read only where nothing else was said; other keys are read in every run.
        yield key, f"must be a number, got {_shown(given)}"
    elif schema is not None and target is None and isinstance(given, Mapping | list) and not isinstance(schema, list):
        yield key, f"must be a single value, such as {_shown(schema)}, got {_shown(given)}"


def _unknown(
    key: str,
    schema: Mapping[str, Any],
    chosen: Mapping[str, str],
    available: Mapping[str, Iterable[str]],
    folders: Sequence[str],
) -> str:
    """What to say of a key that nothing reads, with the user's file and line where one of the chosen files has it."""
    top, leaf = key.partition(".")[0], key.rpartition(".")[2]
    for group, option in chosen.items():
        for folder in folders:
            file = Path(folder) / group / f"{option}.yaml"
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
            if top == group.partition("/")[0] and top not in schema:
                return (
                    f"{file} sets nothing: what it says lies under {top}, which nothing reads. "
                    "Let its first line be: # @package _global_"
                )
            found = [
                number for number, line in enumerate(lines, 1) if re.search(rf"(^|[\s{{,]){re.escape(leaf)}\s*:", line)
            ]
            if found:
                return f"{file}, line {found[0]}: {unknown_key(key, schema, available, folders)}"
    return unknown_key(key, schema, available, folders)


def _needs_keys(key: str, schema: Mapping[str, Any], available: Mapping[str, Iterable[str]]) -> str:
    names = ", ".join(str(name) for name in schema if name not in _HYDRAS_OWN)
    return f"must have keys of its own{f' ({names})' if names else ''}{_options(key, available)}"


def _options(key: str, available: Mapping[str, Iterable[str]]) -> str:
    group = key.replace(".", "/")
    return f" (choose one with {group}=OPTION: {', '.join(available[group])})" if group in available else ""


def _texts(node: Any) -> Iterator[str]:
    """Every text in nested mappings and lists."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(child)


def _at(node: Any, name: str) -> Any:
    """The value at a dotted name; None where there is none."""
    for word in name.split("."):
        node = node.get(word) if isinstance(node, Mapping) else None
    return node


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value as one would write it on the command line."""
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else f"{value!r}"
    )
