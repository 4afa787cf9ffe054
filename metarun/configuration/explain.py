"""What to say when the command line does not compose: what is wrong, in plain words, and the closest thing that exists.

Hydra's messages name its own machinery ("No match in the defaults list", "Key not in struct"). Here the overrides are
composed again, one more at a time, until one fails; that one is then explained against what exists beside it.
"""

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from metarun.configuration.config_folder import SEVERAL, groups
from metarun.configuration.did_you_mean import closest, either, key_names, listed, no_option, no_such_key
from metarun.configuration.overrides import SWEEP_VALUES_TRIED, can_be_read, config_folders, parse

CLOSING = {"[": "]", "{": "}", "(": ")"}
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)
"""What composing raises: Hydra's and OmegaConf's own, and those of a file that is no YAML or no UTF-8."""


def explain(error: Exception, argv: Sequence[str], conf: Path) -> str:
    """One clear message for an exception that Hydra or OmegaConf raised.

    Args:
        error: the exception.
        argv: the arguments that led to it, without the program's name.
        conf: folder holding config.yaml.
    Returns:
        What is wrong, what was given, and the closest existing option, group or key if there is one.
    """
    parsed = parse(argv)
    folders = config_folders(parsed, conf)
    available = groups(*folders)
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return _broken_file(error, folders)
    if isinstance(error, OverrideParseException):
        return _unreadable(error, available)
    if not isinstance(error, OmegaConfBaseException) and not parsed.config_path:
        try:
            overrides = OverridesParser.create().parse_overrides(parsed.overrides)
        except OverrideParseException as unreadable:
            return _unreadable(unreadable, available)
        except ValueError:
            return "an integer on the command line has thousands of digits; integers must have at most 64 bits."
        is_sweep = parsed.multirun or "hydra.mode=MULTIRUN" in parsed.overrides
        for override in overrides:
            if override.is_sweep_override() and not is_sweep:
                return _sweep_without_flag(override, override.key_or_group in available)
        # Groups first, the outer ones ahead of those inside them: a key exists once its group is chosen.
        overrides.sort(key=lambda o: (o.key_or_group not in available, o.key_or_group.count("/")))
        with initialize_config_dir(str(conf), version_base="1.3"):
            message = _first_failure(overrides, parsed, available, folders)
        if message:
            return message
    return _general(error)


def _first_failure(
    overrides: Iterable[Override],
    parsed: argparse.Namespace,
    available: Mapping[str, Iterable[str]],
    folders: Iterable[Path],
) -> str | None:
    """Compose with one more override at a time and explain the first that fails; None if nothing of this does."""
    name = parsed.config_name or "config"
    accepted: list[str] = []
    if parsed.config_dir and not any(line.startswith("hydra.searchpath") for line in parsed.overrides):
        accepted.append(f"hydra.searchpath=[file://{Path(parsed.config_dir).absolute()}]")
    try:
        base = compose(name, accepted, return_hydra_config=True)
    except COMPOSITION_ERRORS:
        return None  # config.yaml itself does not compose
    parser = OverridesParser.create()
    for override in overrides:
        composed = base
        values = list(_single_values(override))
        for line in values:
            try:
                composed = compose(name, [*accepted, line], return_hydra_config=True)
            except (
                Exception
            ) as failure:  # Hydra raises whatever Python does where a value is of a kind that it did not expect
                return _explain_override(parser.parse_override(line), failure, base, available, folders)
        accepted += values[-1:]
        base = composed
    return None


def _single_values(override: Override) -> Iterator[str]:
    """The override as plain assignments: itself, or one for each of the first values of a sweep."""
    if not override.is_sweep_override():
        yield str(override.input_line)
    elif override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return  # whatever it finds is there
    elif override.is_interval_sweep():
        yield f"{override.get_key_element()}=null"  # what it may become is the sweeper's; that the key exists is not
    else:
        for value in islice(override.sweep_string_iterator(), SWEEP_VALUES_TRIED):
            yield f"{override.get_key_element()}={value}"


def _explain_override(
    override: Override,
    error: Exception,
    base: DictConfig,
    available: Mapping[str, Iterable[str]],
    folders: Iterable[Path],
) -> str:
    """What is wrong with the one override that did not compose on top of `base`."""
    key, line = override.key_or_group, override.input_line
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return _broken_file(error, folders)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group == key:
            return no_option(group, option, error.options or available.get(group, ()))
        return f"with {line}: {_general(error)}"
    if key in available:
        option = str(override.value())
        if option not in available[key] and re.fullmatch(r"[\w.-]+", option):
            return no_option(key, option, available[key])
        if "No match in the defaults list" in str(error):
            return f"nothing is chosen for {key} by default: write +{line}."
        if override.is_add() or override.is_force_add():
            return f"{key} is already chosen by default: write {str(line).lstrip('+')}, without the +."
        return f"{line} cannot be: {_words(error)}"
    keys = set(key_names(OmegaConf.to_container(base, resolve=False)))
    if key in keys and override.is_add():
        return f"{key} exists already: write {str(line)[1:]}, without the +."
    if key in keys:
        return f"{line} cannot be: {_words(error.__cause__ or error)}"
    if not key.startswith("hydra"):
        keys = {name for name in keys if name.partition(".")[0] != "hydra"}
    return no_such_key(key, str(line).partition("=")[2], keys, available, folders)


def _unreadable(error: OverrideParseException, available: Mapping[str, Iterable[str]]) -> str:
    """What is wrong with an override that Hydra's grammar rejects."""
    text = error.override
    key, equals, value = text.partition("=")
    if not equals:
        group = closest(text, available)
        if text in available:
            return f"{text!r} is no KEY=VALUE: write {text}=OPTION. {listed(available[text])}"
        choices = [f"{name}={text}" for name, options in available.items() if text in options]
        if choices or group:
            return f"{text!r} is no KEY=VALUE; did you mean {either(choices or [f'{group}=OPTION'])}?"
        return f"{text!r} is no KEY=VALUE: write {text}=VALUE."
    if not re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key):
        return f"{text!r} does not begin with a key: write KEY=VALUE, without blanks around the '='."
    if value.startswith("="):
        return f"{text} has one '=' too many: write {key}={value.lstrip('=')}."
    unclosed = _unclosed(value)
    if unclosed:
        return f"{text}: the {unclosed} is never closed."
    bare = re.sub(r"""([{,]\s*)(["'])([^"']*)\2(\s*:)""", r"\1\3\4", value)
    if bare != value and can_be_read(f"{key}={bare}"):
        shell = shlex.quote(f"{key}={bare}")
        return f"{text}: on the command line the keys of a mapping stand without quotes: {shell}"
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    shell = "'" + f"{key}={quoted}".replace("'", "'\\''") + "'"
    return f"{text}: the value cannot be read. If it is a text, quote it twice, for the shell and for Hydra: {shell}"


def _unclosed(value: str) -> str:
    """The bracket or quote that `value` opens and never closes; "" if there is none."""
    opened: list[str] = []
    quote = ""
    for letter in value:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in CLOSING:
            opened.append(letter)
        elif opened and letter == CLOSING[opened[-1]]:
            opened.pop()
    return quote or (opened[-1] if opened else "")


def _sweep_without_flag(override: Override, is_group: bool) -> str:
    line = str(override.input_line)
    if override.value_type != ValueType.SIMPLE_CHOICE_SWEEP:
        return f"{line} asks for several runs: add -m."
    text = f"{line} gives several values: add -m to run each of them"
    if override.key_or_group == SEVERAL:
        return f"{text}, or write '{SEVERAL}=[{line.partition('=')[2]}]' to have them in one run."
    if is_group:
        return f"{text}."
    key, _, value = line.partition("=")
    return f"{text}, or write '{key}=[{value}]' for one list."


def _broken_file(error: yaml.YAMLError | UnicodeDecodeError, folders: Iterable[Path]) -> str:
    """Which file is no YAML or no UTF-8, where in it, and what the parser met."""
    if isinstance(error, UnicodeDecodeError):
        for file in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
            content = file.read_bytes()
            if content == error.object or error.object in content:
                line = content[: content.find(error.object) + error.start].count(b"\n") + 1
                return f"{file}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}). Save it as UTF-8."
        return f"a file of the configuration is not UTF-8: {error}."
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return f"a file of the configuration is no YAML: {' '.join(str(error).split())}."
    what = ": ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
    return f"{mark.name}, line {mark.line + 1}: no YAML that can be read: {what}."


def _general(error: Exception) -> str:
    """An error that no single override explains."""
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} has no value: give {error.full_key}=VALUE."
    choice = re.match(r"You must specify '([^']+)'", str(error))
    if choice and isinstance(error, ConfigCompositionException):
        options = str(error).partition("Available options:")[2].split()
        return f"{choice[1]} must be chosen: give {choice[1]}=OPTION. {listed(options)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = _words(error)
    key = getattr(cause or error, "full_key", None)
    where = f" (at {key})" if key and str(key) not in text else ""
    return f"{text}{where}. HYDRA_FULL_ERROR=1 shows where this comes from."


def _words(error: BaseException) -> str:
    """The first line of an error, and the second where the first names nothing but a type of error."""
    lines = [line.rstrip(" .:") for line in map(str.strip, str(error).splitlines()) if line]
    said = ": ".join(lines[: 2 if lines and re.search(r"\w+Error raised while", lines[0]) else 1])
    return said or (_words(error.__cause__) if error.__cause__ else type(error).__name__)
