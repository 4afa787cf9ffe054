"""The words on the command line, parsed as Hydra does it, and what of them is refused before Hydra composes."""

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException

from metarun.configuration.config_folder import SEVERAL, groups
from metarun.configuration.defaults import default_choices
from metarun.configuration.did_you_mean import closest, listed, no_option
from metarun.configuration.habits import habitual_choice
from metarun.configuration.hydra_private import flags_parser
from metarun.errors import ConfigurationError

SWEEP_VALUES_TRIED = 32  # of one sweep; a range of thousands differs in its numbers only
HYDRA_FOLDERS = {
    "hydra.run.dir": "run.folder names this run's folder, run.root where run folders are made",
    "hydra.sweep.dir": "a sweep lies in sweeps/ of run.root",
    "hydra.sweep.subdir": "the runs of a sweep lie in run.root, each in its own folder",
    "hydra.output_subdir": "a run's folder holds its config.json and overrides.json",
    "hydra.job.chdir": "a run stays in the folder that it was started in",
}
"""Hydra's settings of folders, which metarun does not read, and what there is in their place."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and overrides, in any order.

    Args:
        argv: arguments without the program's name.
    Returns:
        Hydra's own namespace: `overrides`, `multirun`, `cfg`, `config_dir`, ...
    Raises:
        ConfigurationError: an unknown flag (with the closest one), or a flag without its value.
    """
    parser = flags_parser()
    flags = re.findall(r"--[a-z][a-z-]*", parser.format_usage())

    def error(message: str) -> NoReturn:
        # argparse reads -multirun as -m and "ultirun", and names what is left: the word as typed is in argv.
        pattern = r"(?:unrecognized arguments:|argument .*: ignored explicit argument) '?-*(\S+?)'?(?: .*)?"
        left = re.fullmatch(pattern, message)
        typed = [word for word in argv if left and word.startswith("-") and word.endswith(left[1])]
        raise ConfigurationError(_unknown_flag(typed[0], flags) if typed else f"{message}.")

    parser.error = error
    return parser.parse_intermixed_args(list(argv))


def check(parsed: argparse.Namespace, conf: Path) -> None:
    """Refuse what Hydra accepts or crashes on, though it cannot be meant.

    Args:
        parsed: what `parse` returned.
        conf: folder holding config.yaml.
    Raises:
        ConfigurationError: two commands at once (`-m --cfg job`), a `--config-dir` that is none, `seed=` without a
            value, `=3` without a key, `algorithm.inner=newton_cg` where the group `algorithm/inner` is meant, `algorithm=3`
            or `algorithm=null` or `algorithm=[maml,imaml]`, and Hydra's own settings of folders.
    """
    commands = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(parsed, name)]
    if len(commands) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in commands)
        raise ConfigurationError(f"{flags} exclude each other: give one of them.")
    if parsed.resolve and parsed.cfg is None:
        raise ConfigurationError("--resolve goes with --cfg: metarun --cfg job --resolve.")
    if parsed.config_dir and not Path(parsed.config_dir).is_dir():
        raise ConfigurationError(f"--config-dir must name a folder, and {parsed.config_dir} is not one.")
    available = groups(*config_folders(parsed, conf))
    defaults = default_choices(conf)
    for override in parsed.overrides:
        key, equals, value = override.partition("=")
        name = key.lstrip("+~")
        if name.startswith("hydra.") and (key.startswith("~") or (name.count(".") == 1 and value == "null")):
            raise ConfigurationError(f"{override}: Hydra needs {name}; give it another value, or leave it as it is.")
        if not equals:
            continue
        if not name:
            raise ConfigurationError(f"{override!r} has no key before its '=': write KEY=VALUE.")
        if not value and not key.startswith("~"):
            if name in available:
                raise ConfigurationError(f"{name}= names no option. {listed(available[name])}")
            raise ConfigurationError(f"{name}= has no value: write {name}=VALUE, or {name}=null for none.")
        if name in HYDRA_FOLDERS:
            raise ConfigurationError(f"{name} has no effect here: {HYDRA_FOLDERS[name]}.")
        _check_sweep(override)
        group = name.partition("@")[0]
        if group in available or group.partition("/")[0] == "hydra":
            _check_choice(override, group, available.get(group, ()), is_required=defaults.get(group, "null") != "null")
        habit = habitual_choice(name, value, available)
        if habit:
            raise ConfigurationError(habit)
        group = name.replace(".", "/")
        if "." in name and value in available.get(group, ()):
            raise ConfigurationError(f"{name} is a group, chosen with a slash: write {group}={value}.")


def config_folders(parsed: argparse.Namespace, conf: Path) -> list[Path]:
    """Ours, and that of `--config-dir`."""
    return [conf, *([Path(parsed.config_dir)] if parsed.config_dir else [])]


def can_be_read(text: str) -> bool:
    """Whether an override is one by Hydra's grammar."""
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def _check_sweep(text: str) -> None:
    """Refuse a sweep that gives no value: `seed=range(0,0)`."""
    override = OverridesParser.create().parse_override(text) if "range" in text and can_be_read(text) else None
    if override is None or not override.is_range_sweep():
        return
    try:
        is_empty = next(override.sweep_iterator(), None) is None
    except (ValueError, HydraException) as error:
        raise ConfigurationError(f"{text}: {error}.") from error
    if is_empty:
        raise ConfigurationError(f"{text} gives no value: the end of a range is not part of it.")


def _check_choice(text: str, group: str, options: Iterable[str], *, is_required: bool) -> None:
    """Refuse a group's value that names no option, which Hydra crashes on, and a group that is needed and taken away."""
    if not can_be_read(text):
        return  # `explain` says what is wrong
    override = OverridesParser.create().parse_override(text)
    if override.is_delete() and is_required:
        raise ConfigurationError(f"{text}: {group} must be chosen. {listed(options)}")
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP or (override.is_delete() and override.value() is None):
        return
    is_list = override.is_sweep_override() and override.is_discrete_sweep()
    given = text.partition("=")[2]
    for value in islice(override.sweep_iterator(), SWEEP_VALUES_TRIED) if is_list else [override.value()]:
        names = value if isinstance(value, list) else [value]
        if value is None and options and not is_required:
            raise ConfigurationError(f"{group}={given}: none is chosen unless you name one, so leave {group} out.")
        if value == [] and group == SEVERAL:
            raise ConfigurationError(f"{group}=[] names no option. {listed(options)}")
        if isinstance(value, list) and is_required and group != SEVERAL:
            raise ConfigurationError(f"{group} takes one option, got {given}. {listed(options)}")
        if not isinstance(value, dict) and not all(isinstance(name, str) for name in names):
            if group == SEVERAL and isinstance(value, list):
                value = next(name for name in value if not isinstance(name, str))
                given = str(value)
            wrong = str(value) if is_list and value is not None else "null" if value is None else given
            raise ConfigurationError(no_option(group, wrong, options))


def _unknown_flag(flag: str, flags: Iterable[str]) -> str:
    name = flag.partition("=")[0]
    match = closest(f"--{name.lstrip('-')}", flags, 0.75)
    if match:
        return f"there is no flag {name}; did you mean {match}?"
    setting = f"{name.lstrip('-').replace('-', '_')}={flag.partition('=')[2] or 'VALUE'}"
    return f"there is no flag {name}. Settings take no dashes ({setting}); flags are listed by metarun --help."
