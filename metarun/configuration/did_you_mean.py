"""Words for a name that is not there: the closest that is, and where it belongs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from metarun.configuration.config_folder import SEVERAL, config_folder
from metarun.configuration.habits import habitual_key, habitual_option, habitual_subcommand


def unknown_word(word: str, subcommands: Iterable[str], available: Mapping[str, Iterable[str]]) -> str:
    """What to say of a first word that is no subcommand and has no `=`: `metarun evalute`, `metarun maml`.

    Args:
        word: the word.
        subcommands: the names that could stand there.
        available: options of each config group.
    """
    habit = habitual_subcommand(word)
    if habit:
        return habit
    choices = [f"{group}={word}" for group, options in available.items() if word in options]
    if choices:
        return f"{word!r} is no subcommand; did you mean {either(choices)}?"
    if word in available:
        return f"{word!r} is a group: write {word}=OPTION. {listed(available[word])}"
    names = {name: name for name in subcommands} | {"help": "--help"}
    names |= {option: f"{group}={option}" for group, options in available.items() for option in options}
    match = closest(word, names)
    if match:
        return f"{word!r} is no subcommand; did you mean {names[match]}?"
    return f"{word!r} is no subcommand, and settings are KEY=VALUE. See metarun --help."


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
    keys = set(key_names(known))
    return no_such_key(key, "", keys, available, [config_folder(), *map(Path, folders)])


def no_such_key(
    key: str, value: str, keys: set[str], available: Mapping[str, Iterable[str]], folders: Iterable[Path]
) -> str:
    """`unknown_key`, among all `keys` by their dotted names, for a key that was given a `value`."""
    folders = list(folders)
    options = {group: list(names) for group, names in available.items()}
    habit = habitual_key(key, value, keys, options, lambda name: bool(_choices_that_bring(name, available, folders)))
    if habit:
        return habit
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
    owners, below = _choices_that_bring(key, available, folders), _deeper(key, keys, available, folders)
    if owners:
        other = f" Or did you mean {below}?" if below else ""
        return f"there is no key {key} with the parts chosen; it comes with {either(owners)}.{other}"
    if below:
        return f"there is no key {key}; did you mean {below}?"
    near = _near_keys(key, {name for name in keys if name.replace(".", "/") not in available})
    if near:
        return f"there is no key {key}; did you mean {either(near)}?"
    if group and "." not in key:
        return f"there is no key {key}; did you mean {group}=OPTION? {listed(available[group])}"
    if parent:
        return f"there is no key {key}; {parent} has {', '.join(name[len(parent) + 1 :] for name in inside)}."
    return f"there is no key {key}. metarun --cfg job shows every key."


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


def _near_group(key: str, available: Iterable[str]) -> str | None:
    """The group spelled most like `key`, by its whole path or by its last part (`inner` finds `algorithm/inner`)."""
    last_parts = {group.rpartition("/")[2]: group for group in available}
    match = closest(key, last_parts, 0.75) if "." not in key and "/" not in key else None
    return last_parts[match] if match else closest(key.replace(".", "/"), available, 0.75)


def _choices_that_bring(key: str, available: Mapping[str, Iterable[str]], folders: Iterable[Path]) -> list[str]:
    """The choices that would bring `key`: for `algorithm.inner.cg_steps`, `algorithm/inner=newton_cg`."""
    parent, _, leaf = key.rpartition(".")
    group = next((name for name in available if name.replace("/", ".") == parent), SEVERAL)
    files = [(folder / group / f"{option}.yaml", option) for folder in folders for option in available.get(group, ())]
    holds_leaf = re.compile(rf"^{re.escape(leaf)}:", re.MULTILINE)
    texts = [(file.read_text(encoding="utf-8"), option) for file, option in files if file.is_file()]
    return [
        f"{group}={option}"
        for text, option in texts
        if holds_leaf.search(text) and _package(text, group.replace("/", ".")) == parent
    ]


def _package(text: str, usual: str) -> str:
    """Where in the configuration the keys of a file lie, which its first line may say."""
    said = re.match(r"#\s*@package\s+(\S+)", text)
    return said[1] if said else usual


def _deeper(key: str, keys: set[str], available: Mapping[str, Iterable[str]], folders: Iterable[Path]) -> str | None:
    """The key of this name one group further down (`direction.point` finds `direction.metric.point`), and what brings it."""
    parent, _, leaf = key.rpartition(".")
    # Of a group of which several may be chosen each option lies one further down, as a group does elsewhere.
    inner = [f"{SEVERAL}/{option}" for option in available.get(SEVERAL, ())] if parent == SEVERAL else []
    for group in sorted([*available, *inner], key=lambda name: f"{name.replace('/', '.')}.{leaf}" not in keys):
        if parent and group.startswith(f"{parent.replace('.', '/')}/"):
            deeper = f"{group.replace('/', '.')}.{leaf}"
            owners = _choices_that_bring(deeper, available, folders)
            if owners:
                return deeper if deeper in keys else f"{deeper}, which comes with {either(owners)}"
    return None


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


def key_names(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys in nested mappings, the mappings included."""
    for name, child in node.items() if isinstance(node, Mapping) else ():
        yield f"{prefix}{name}"
        yield from key_names(child, f"{prefix}{name}.")


def no_option(group: str, option: str, options: Iterable[str]) -> str:
    """What to say of an option that a group does not have."""
    options = list(options)
    if not options:
        return f"{group} must name an option, got {option}."
    match = habitual_option(option, options) or closest(option, options)
    guess = f"; did you mean {match}?" if match else "."
    return f"{group} has no option {option!r}{guess} {listed(options)}"


def listed(options: Iterable[str]) -> str:
    """`Options: maml, imaml.`"""
    return f"Options: {', '.join(options)}."


def either(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
