"""What the last word of a half-typed line may become, for the scripts of `metarun completion` and for Hydra's own.

A shell asks each time that Tab is pressed, so nothing is imported before it is needed: subcommands, groups and options are
read without Hydra, keys are composed by it. A line that makes no sense offers nothing and says nothing.
"""

import argparse
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from metarun.command_line.subcommands import SUBCOMMANDS, parser_of
from metarun.configuration.config_folder import config_folder, groups

_FLAGS = {
    "--multirun": "run every combination of comma-separated values",
    "--config-dir": "a folder of your own groups and options beside ours",
    "--cfg": "print the composed configuration and stop",
    "--package": "of --cfg: one part of it",
    "--resolve": "of --cfg: with references resolved",
    "--help": "what there is, and the keys of what is chosen",
    "--version": "print the version",
}
"""Of a run and a sweep; a subcommand's own are asked of its parser."""
_VALUES = {"--cfg": ("job", "hydra", "all"), "--package": ()}
_FOLDERS = {"DIR", "FOLDER", "RUN_DIR"}
_FILES = {"FILE", "FILES", "PATH"}
_END = "\0"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a word may become.

    Attributes:
        word: whole, from its first letter.
        description: what it is, for shells that show it.
        is_whole: nothing of this word comes after it.
    """

    word: str
    description: str = ""
    is_whole: bool = True


def print_candidates(arguments: Sequence[str]) -> None:
    """Answer a script: one candidate a line.

    Args:
        arguments: the shell, the line up to the cursor and, for bash, the letters at which it breaks words (COMP_WORDBREAKS).
    """
    shell, line, *breaks = arguments
    typed = _escaped(_split(line)[-1])
    # Bash replaces what follows the last of its breaking letters that no backslash precedes.
    ends = [at + 1 for at, letter in enumerate(typed) if letter in "".join(breaks) and typed[at - 1 : at] != "\\"]
    for candidate in candidates(line):
        if shell == "bash":
            print(_escaped(candidate.word)[max(ends, default=0) :] + (" " if candidate.is_whole else ""))
        else:
            word = candidate.word if shell == "fish" else _escaped(candidate.word)
            print(word, candidate.description, "" if candidate.is_whole else "+", sep="\t")


def candidates(line: str) -> list[Candidate]:
    """What the last word of `line` may become; the line ends at the cursor."""
    words = _split(line)
    while len(words) > 1 and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)  # variables ahead of the command
    *before, word = words[1:] or [""]
    is_subcommand = bool(before) and before[0] in SUBCOMMANDS
    offered = _of_subcommand(before[0], before[1:], word) if is_subcommand else _of_run(before, word)
    found: list[Candidate] = []
    # What comes before the first thing that makes no sense; a message would land in the middle of what is being typed.
    with suppress(Exception):
        for candidate in offered:
            if candidate.word.startswith(word):
                found.append(candidate)
    return found


def _of_run(before: Sequence[str], word: str) -> Iterator[Candidate]:
    if before and before[-1] in _VALUES:
        yield from (Candidate(word=value) for value in _VALUES[before[-1]])
    elif before and before[-1] == "--config-dir":
        yield from _paths(word, folders_only=True)
    elif word.startswith("-"):
        yield from (Candidate(word=flag, description=text) for flag, text in _FLAGS.items())
    else:
        if not before:
            yield from (Candidate(word=name, description=text) for name, (_, text, _) in SUBCOMMANDS.items())
        if {"--help", "-h"} & {*before}:
            yield from (Candidate(word=group) for group in _groups(before))
        yield from _settings(before, word)


def _of_subcommand(name: str, before: Sequence[str], word: str) -> Iterator[Candidate]:
    parser = parser_of(name)
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    flags = {flag: action for action in actions for flag in action.option_strings}
    given, pending = _positionals(flags, before)
    if pending is not None:
        yield from _of_action(pending, name, given, before, word)
    if pending is not None and pending.nargs not in ("+", "*"):
        return
    if word.startswith("-"):
        yield from (
            Candidate(word=flag, description=action.help or "")
            for flag, action in flags.items()
            if flag.startswith("--")
        )
    elif pending is None:
        for number, action in enumerate(action for action in actions if not action.option_strings):
            if number == len(given) or (number < len(given) and action.nargs in ("*", "+")):
                yield from _of_action(action, name, given, before, word)


def _positionals(flags: dict[str, argparse.Action], before: Sequence[str]) -> tuple[list[str], argparse.Action | None]:
    """The words that belong to no flag, and the flag that takes the next word."""
    given: list[str] = []
    pending, left = None, 0.0
    for word in before:
        if word in flags:
            pending = flags[word]
            left = {0: 0, "+": math.inf, "*": math.inf}.get(pending.nargs, 1)
        elif left > 0:
            left -= 1
        elif not word.startswith("-"):
            given.append(word)
    return given, pending if left > 0 else None


def _of_action(
    action: argparse.Action, name: str, given: Sequence[str], before: Sequence[str], word: str
) -> Iterator[Candidate]:
    """What an argument of a subcommand may be, by its choices or by the words of what it is called."""
    called = action.metavar if isinstance(action.metavar, str) else ""
    words = {*re.findall(r"\w+", called)}
    if action.choices is not None:
        yield from (Candidate(word=str(choice)) for choice in action.choices)
    elif "NAME" in words and len(given) < 2:
        yield from _data_sets() if given != ["list"] else ()
    elif "KEY" in words and "VALUE" not in words:
        done = word[: len(word) - len(word.rpartition(",")[2])]  # of a list of them
        names = [*(f"{group}=" for group in _groups(before)), *(c.word for c in _keys(before, word[len(done) :], ""))]
        yield from (Candidate(word=f"{done}{name.rstrip('=')}", is_whole=False) for name in names)
    elif "KEY" in words:
        yield from _settings(before, word, Path(given[0]) if given else None)
    elif "RUN_DIR" in words or (name == "report" and not action.option_strings):
        yield from _run_folders(word, with_root=name == "report")
    elif called.lower() in _groups(before):  # --to TRACKER
        options = _groups(before)[called.lower()]
        yield from (Candidate(word=option, description=text) for option, text in options.items() if option != "none")
    elif words & (_FOLDERS | _FILES):
        yield from _paths(word, folders_only=not words & _FILES)


def _settings(before: Sequence[str], word: str, run: Path | None = None) -> Iterator[Candidate]:
    """GROUP=OPTION and KEY=VALUE; of a trained run its own keys."""
    sign = word[: len(word) - len(word.lstrip("+~"))]
    name, equals, value = word[len(sign) :].partition("=")
    available = _groups(before)
    if equals and name in available:
        done = word[: len(word) - len(re.split(r"[\[,]", value)[-1])]  # of several
        yield from (Candidate(word=f"{done}{option}", description=text) for option, text in available[name].items())
    elif equals and value[:1] in ("/", ".", "~"):
        yield from (
            Candidate(word=f"{sign}{name}={path.word}", is_whole=path.is_whole)
            for path in _paths(value, folders_only=False)
        )
    else:
        if not equals:
            yield from _next_parts([f"{sign}{group}=" for group in available], word, "/")
        yield from _keys(before, word, sign, run)


def _keys(before: Sequence[str], word: str, sign: str, run: Path | None = None) -> Iterator[Candidate]:
    """Keys of what the line has chosen until now, and behind an equals sign the value that one has."""
    from metarun.configuration.chosen_keys import chosen_keys

    is_run = run is not None and (run / "config.json").is_file()
    composed = [*(_choices(run) if run is not None and is_run else []), *_composable(before)]
    keys = {key.name: key for key in chosen_keys(composed, config_folder()).keys}
    name, equals, _ = word[len(sign) :].partition("=")
    if equals and name in keys:
        value = keys[name].value
        values = ("true", "false") if value in ("true", "false") else (value,)
        yield from (Candidate(word=f"{sign}{name}={value}", description=keys[name].comment) for value in values)
    elif not equals:
        for part in _next_parts([f"{sign}{key}=" for key in keys], word, "."):
            key = keys.get(part.word[len(sign) :].rstrip("="))
            yield Candidate(word=part.word, description=key.comment if key else "", is_whole=False)


def _composable(before: Sequence[str]) -> list[str]:
    """What of a line can be composed: of several values the first, and the last --config-dir."""
    words = []
    for word in before:
        name, equals, value = word.partition("=")
        if equals and not name.startswith("-") and not re.search(r"[(\[{'\"]", value):
            words.append(f"{name}={value.partition(',')[0]}")
    return [*words, *(f"--config-dir={folder}" for folder in _folders(before)[1:][-1:])]


def _choices(run: Path) -> list[str]:
    """The groups' options that a run chose, as words."""
    from metarun.configuration.chosen_keys import options_of
    from metarun.files import read_json

    known, words = groups(config_folder()), []
    for group, choice in read_json(run / "config.json")["choices"].items():
        options = options_of(choice)
        if options and {*options} <= {*known.get(group, ())}:
            words.append(f"{group}={options[0]}" if len(options) == 1 else f"{group}=[{','.join(options)}]")
    return words


def _next_parts(names: Iterable[str], word: str, separator: str) -> Iterator[Candidate]:
    """What `word` may become up to the next separator: `alg` gives `algorithm.`, which gives `algorithm.inner.`."""
    parts = {}
    for name in names:
        if name.startswith(word):
            end = name.find(separator, len(word))
            parts[name if end < 0 else name[: end + 1]] = None
    yield from (Candidate(word=part, is_whole=False) for part in parts)


def _folders(before: Sequence[str]) -> list[Path]:
    """Where options lie: in ours, and in a --config-dir earlier on the line."""
    found = [config_folder()]
    for last, word in pairwise(["", *before]):
        if last == "--config-dir":
            found.append(Path(word).expanduser())
        elif word.startswith("--config-dir="):
            found.append(Path(word.partition("=")[2]).expanduser())
    return found


def _groups(before: Sequence[str]) -> dict[str, dict[str, str]]:
    """Every group with its options, Hydra's own that have files of ours among them."""
    folders = _folders(before)
    of_hydra = groups(*(folder / "hydra" for folder in folders))
    return groups(*folders) | {f"hydra/{group}": options for group, options in of_hydra.items()}


def _data_sets() -> Iterator[Candidate]:
    from metarun.tasks.sources.catalogue import CATALOGUE

    yield from (Candidate(word=entry.name, description=entry.title) for entry in CATALOGUE.values())
    yield Candidate(word="folder", description="your own images")


def _run_folders(word: str, *, with_root: bool) -> Iterator[Candidate]:
    """Runs in the folder of runs, or `with_root` all of them; where the word says another place, folders."""
    root = os.environ.get("METARUN_OUTPUTS", "outputs")
    runs = sorted(str(path.parent) for path in Path(root).expanduser().glob("*/config.json"))
    found = [run for run in ([root, *runs] if with_root and runs else runs) if run.startswith(word)]
    yield from (Candidate(word=run) for run in found)
    if not found:
        for path in _paths(word, folders_only=True):
            is_run = (Path(path.word).expanduser() / "config.json").is_file()
            yield Candidate(word=path.word.rstrip("/") if is_run else path.word, is_whole=is_run)


def _paths(word: str, *, folders_only: bool) -> Iterator[Candidate]:
    """Files and folders that begin so; hidden ones where a dot is typed."""
    folder, _, start = word.rpartition("/")
    typed = f"{folder}/" if "/" in word else ""
    place = Path(typed or ".").expanduser()
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name.startswith(start) and (start or not path.name.startswith(".")):
            if path.is_dir():
                yield Candidate(word=f"{typed}{path.name}/", is_whole=False)
            elif not folders_only:
                yield Candidate(word=f"{typed}{path.name}")


def _split(line: str) -> list[str]:
    """The words of a line as a shell reads them, the last perhaps empty; an open quote is closed."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(f"{line}{_END}{closing}")
        except ValueError:
            continue
        return [*words[:-1], words[-1].removesuffix(_END)]
    return [""]


def _escaped(word: str) -> str:
    """A word as bash and zsh read it back; a tilde at its beginning stays one."""
    return re.sub(r"(?<!^)~|[\s\\'\"$&|;<>()*?\[\]{}!#`]", lambda match: f"\\{match[0]}", word)
