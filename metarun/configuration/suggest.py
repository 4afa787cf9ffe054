"""What to say when the command line does not compose: what is wrong, in plain words, and the closest thing that exists.

Hydra's messages name its own machinery ("No match in the defaults list", "Key not in struct"). Here the overrides are
composed again, one more at a time, until one fails; that one is then explained against what exists beside it.
"""

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from metarun.configuration.config_folder import config_folder, groups
from metarun.configuration.defaults import default_choices
from metarun.configuration.hydra_private import flags_parser
from metarun.errors import ConfigurationError

CLOSING = {"[": "]", "{": "}", "(": ")"}
SWEEP_VALUES_TRIED = 32  # of one sweep; a range of thousands differs in its numbers only
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)
"""What composing raises: Hydra's and OmegaConf's own, and those of a file that is no YAML or no UTF-8."""
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
    available = groups(*_folders(parsed, conf))
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
                raise ConfigurationError(f"{name}= names no option. {_options(available[name])}")
            raise ConfigurationError(f"{name}= has no value: write {name}=VALUE, or {name}=null for none.")
        if name in HYDRA_FOLDERS:
            raise ConfigurationError(f"{name} has no effect here: {HYDRA_FOLDERS[name]}.")
        _check_sweep(override)
        group = name.partition("@")[0]
        if group in available or group.partition("/")[0] == "hydra":
            _check_choice(override, group, available.get(group, ()), is_required=defaults.get(group, "null") != "null")
        group = name.replace(".", "/")
        if "." in name and value in available.get(group, ()):
            raise ConfigurationError(f"{name} is a group, chosen with a slash: write {group}={value}.")


def _check_sweep(text: str) -> None:
    """Refuse a sweep that gives no value: `seed=range(0,0)`."""
    override = OverridesParser.create().parse_override(text) if "range" in text and _can_be_read(text) else None
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
    if not _can_be_read(text):
        return  # `explain` says what is wrong
    override = OverridesParser.create().parse_override(text)
    if override.is_delete() and is_required:
        raise ConfigurationError(f"{text}: {group} must be chosen. {_options(options)}")
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP or (override.is_delete() and override.value() is None):
        return
    is_list = override.is_sweep_override() and override.is_discrete_sweep()
    given = text.partition("=")[2]
    for value in islice(override.sweep_iterator(), SWEEP_VALUES_TRIED) if is_list else [override.value()]:
        names = value if isinstance(value, list) else [value]
        if value is None and options and not is_required:
            raise ConfigurationError(f"{group}={given}: none is chosen unless you name one, so leave {group} out.")
        if isinstance(value, list) and is_required:
            raise ConfigurationError(f"{group} takes one option, got {given}. {_options(options)}")
        if not isinstance(value, dict) and not all(isinstance(name, str) for name in names):
            wrong = str(value) if is_list and value is not None else "null" if value is None else given
            raise ConfigurationError(_no_option(group, wrong, options))


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
    folders = _folders(parsed, conf)
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


def unknown_word(word: str, subcommands: Iterable[str], available: Mapping[str, Iterable[str]]) -> str:
    """What to say of a first word that is no subcommand and has no `=`: `metarun evalute`, `metarun maml`.

    Args:
        word: the word.
        subcommands: the names that could stand there.
        available: options of each config group.
    """
    choices = [f"{group}={word}" for group, options in available.items() if word in options]
    if choices:
        return f"{word!r} is no subcommand; did you mean {_either(choices)}?"
    if word in available:
        return f"{word!r} is a group: write {word}=OPTION. {_options(available[word])}"
    names = {name: name for name in subcommands} | {"help": "--help"}
    names |= {option: f"{group}={option}" for group, options in available.items() for option in options}
    match = closest(word, names)
    if match:
        return f"{word!r} is no subcommand; did you mean {names[match]}?"
    return f"{word!r} is no subcommand, and settings are KEY=VALUE. See metarun --help."


def closest(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate most like `word`, upper and lower case alike; None if none is.

    Likeness is difflib's ratio, at least `cutoff`; failing that, the shortest candidate that contains the word
    ("natural" finds "natural_gradient") if the word has three letters or more.
    """
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    if not matches and len(word) >= 3:
        matches = sorted((name for name in by_lower if word.lower() in name), key=lambda name: (len(name), name))
    return by_lower[matches[0]] if matches else None


def _folders(parsed: argparse.Namespace, conf: Path) -> list[Path]:
    return [conf, *([Path(parsed.config_dir)] if parsed.config_dir else [])]


def _unknown_flag(flag: str, flags: Iterable[str]) -> str:
    name = flag.partition("=")[0]
    match = closest(f"--{name.lstrip('-')}", flags, 0.75)
    if match:
        return f"there is no flag {name}; did you mean {match}?"
    setting = f"{name.lstrip('-').replace('-', '_')}={flag.partition('=')[2] or 'VALUE'}"
    return f"there is no flag {name}. Settings take no dashes ({setting}); flags are listed by metarun --help."


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
            return _no_option(group, option, error.options or available.get(group, ()))
        return f"with {line}: {_general(error)}"
    if key in available:
        option = str(override.value())
        if option not in available[key] and re.fullmatch(r"[\w.-]+", option):
            return _no_option(key, option, available[key])
        if "No match in the defaults list" in str(error):
            return f"nothing is chosen for {key} by default: write +{line}."
        if override.is_add() or override.is_force_add():
            return f"{key} is already chosen by default: write {str(line).lstrip('+')}, without the +."
        return f"{line} cannot be: {_words(error)}"
    keys = set(_key_names(OmegaConf.to_container(base, resolve=False)))
    if key in keys and override.is_add():
        return f"{key} exists already: write {str(line)[1:]}, without the +."
    if key in keys:
        return f"{line} cannot be: {_words(error.__cause__ or error)}"
    if not key.startswith("hydra"):
        keys = {name for name in keys if name.partition(".")[0] != "hydra"}
    return _unknown_key(key, str(line).partition("=")[2], keys, available, folders)


def unknown_key(
    key: str, known: Mapping[str, Any], available: Mapping[str, Iterable[str]], folders: Iterable[str | Path]
) -> str:
    """What to say of a dotted key that is not in the nested mappings `known`.

    Args:
        key: the key.
        known: the configuration as it should be.
        available: options of each config group.
        folders: folders of configuration beside ours.
    """
    keys = set(_key_names(known))
    return _unknown_key(key, "", keys, available, [config_folder(), *map(Path, folders)])


def _unknown_key(
    key: str, value: str, keys: set[str], available: Mapping[str, Iterable[str]], folders: Iterable[Path]
) -> str:
    group = _near_group(key, available)
    option = closest(value, available[group]) if group else None
    if group and (option or "/" in key):
        return f"there is no group {key}; did you mean {group}={option or 'OPTION'}?"
    if "/" in key:
        return f"there is no group {key}. Groups: {', '.join(available)}."

    parent = key.rpartition(".")[0]
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    inside = sorted(name for name in keys if name.startswith(f"{parent}.") and "." not in name[len(parent) + 1 :])
    if parent and not inside:
        return f"there is no key {key}: {parent} has no keys inside it."
    owners = _owners(key, available, folders)
    if owners:
        return f"there is no key {key} with the parts chosen; it comes with {_either(owners)}."
    near = _near_keys(key, {name for name in keys if name.replace(".", "/") not in available})
    if near:
        return f"there is no key {key}; did you mean {_either(near)}?"
    if group and "." not in key:
        return f"there is no key {key}; did you mean {group}=OPTION? {_options(available[group])}"
    if parent:
        return f"there is no key {key}; {parent} has {', '.join(name[len(parent) + 1 :] for name in inside)}."
    return f"there is no key {key}. metarun --cfg job shows every key."


def _near_group(key: str, available: Iterable[str]) -> str | None:
    """The group spelled most like `key`, by its whole path or by its last part (`inner` finds `algorithm/inner`)."""
    last_parts = {group.rpartition("/")[2]: group for group in available}
    match = closest(key, last_parts, 0.75) if "." not in key and "/" not in key else None
    return last_parts[match] if match else closest(key.replace(".", "/"), available, 0.75)


def _owners(key: str, available: Mapping[str, Iterable[str]], folders: Iterable[Path]) -> list[str]:
    """The choices that would bring `key`: for `algorithm.inner.cg_steps`, `algorithm/inner=newton_cg`."""
    parent, _, leaf = key.rpartition(".")
    group = parent.replace(".", "/")
    files = [(folder / group / f"{option}.yaml", option) for folder in folders for option in available.get(group, ())]
    holds_leaf = re.compile(rf"^{re.escape(leaf)}:", re.MULTILINE)
    return [
        f"{group}={option}"
        for file, option in files
        if file.is_file() and holds_leaf.search(file.read_text(encoding="utf-8"))
    ]


def _near_keys(key: str, keys: set[str]) -> list[str]:
    """Up to three keys that may be meant: spelled alike as a whole, else ending alike (`lr` finds `optimizer.lr`)."""
    parent, _, leaf = key.rpartition(".")
    candidates = sorted((name for name in keys if not key.startswith(f"{name}.")), key=lambda n: (n.count("."), n))
    whole = closest(key, candidates, 0.85)
    if whole and whole.count(".") == key.count("."):
        return [whole]
    leaves: dict[str, list[str]] = {}
    for name in candidates:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    same = closest(leaf, leaves, 0.75)
    if same:
        return [name for name in leaves[same] if name.rpartition(".")[0] == parent] or leaves[same][:3]
    return [whole] if whole else []


def _key_names(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys in nested mappings, the mappings included."""
    for name, child in node.items() if isinstance(node, Mapping) else ():
        yield f"{prefix}{name}"
        yield from _key_names(child, f"{prefix}{name}.")


def _unreadable(error: OverrideParseException, available: Mapping[str, Iterable[str]]) -> str:
    """What is wrong with an override that Hydra's grammar rejects."""
    text = error.override
    key, equals, value = text.partition("=")
    if not equals:
        group = closest(text, available)
        if text in available:
            return f"{text!r} is no KEY=VALUE: write {text}=OPTION. {_options(available[text])}"
        choices = [f"{name}={text}" for name, options in available.items() if text in options]
        if choices or group:
            return f"{text!r} is no KEY=VALUE; did you mean {_either(choices or [f'{group}=OPTION'])}?"
        return f"{text!r} is no KEY=VALUE: write {text}=VALUE."
    if not re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key):
        return f"{text!r} does not begin with a key: write KEY=VALUE, without blanks around the '='."
    if value.startswith("="):
        return f"{text} has one '=' too many: write {key}={value.lstrip('=')}."
    unclosed = _unclosed(value)
    if unclosed:
        return f"{text}: the {unclosed} is never closed."
    bare = re.sub(r"""([{,]\s*)(["'])([^"']*)\2(\s*:)""", r"\1\3\4", value)
    if bare != value and _can_be_read(f"{key}={bare}"):
        shell = shlex.quote(f"{key}={bare}")
        return f"{text}: on the command line the keys of a mapping stand without quotes: {shell}"
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    shell = "'" + f"{key}={quoted}".replace("'", "'\\''") + "'"
    return f"{text}: the value cannot be read. If it is a text, quote it twice, for the shell and for Hydra: {shell}"


def _can_be_read(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


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
    if is_group:
        return f"{text}."
    key, _, value = line.partition("=")
    return f"{text}, or write '{key}=[{value}]' for one list."


def _no_option(group: str, option: str, options: Iterable[str]) -> str:
    options = list(options)
    if not options:
        return f"{group} must name an option, got {option}."
    match = "none" if option == "null" and "none" in options else closest(option, options)
    guess = f"; did you mean {match}?" if match else "."
    return f"{group} has no option {option!r}{guess} {_options(options)}"


def _options(options: Iterable[str]) -> str:
    return f"Options: {', '.join(options)}."


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


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _general(error: Exception) -> str:
    """An error that no single override explains."""
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} has no value: give {error.full_key}=VALUE."
    choice = re.match(r"You must specify '([^']+)'", str(error))
    if choice and isinstance(error, ConfigCompositionException):
        options = str(error).partition("Available options:")[2].split()
        return f"{choice[1]} must be chosen: give {choice[1]}=OPTION. {_options(options)}"
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
