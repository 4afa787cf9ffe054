"""What the defaults lists of the YAML files choose, read as text: help and checks need no Hydra for it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path


def default_choices(conf: Path) -> dict[str, str]:
    """The option that each group has when the user names none, from the defaults lists alone.

    Follows config.yaml into the chosen files, their own defaults lists included (`inner: newton_cg` in
    algorithm/imaml_hf.yaml is the group `algorithm/inner`); an `override` entry wins over what it overrides, wherever
    it stands, as in Hydra. Understands the forms used in this repository: one entry to a line, no interpolation.

    Returns:
        Group path -> option, in the order of the lists; "null" where a list chooses nothing and "???" where the user
        must choose. A group in no list is absent.
    """
    chosen: dict[str, str] = {}
    overrides: dict[str, str] = {}
    _follow(conf, "config", chosen, overrides)
    return chosen | overrides


def owners(conf: Path, group: str, options: Mapping[str, str]) -> list[str]:
    """The options of the group around `group` that bring it along."""
    parent = group.rpartition("/")[0]
    owners = []
    for option in options:
        chosen: dict[str, str] = {}
        _follow(conf, f"{parent}/{option}", chosen, {})
        if group in chosen:
            owners.append(option)
    return owners


def _follow(conf: Path, config: str, chosen: dict[str, str], overrides: dict[str, str]) -> None:
    """Add to `chosen` and `overrides` what the defaults list of `config` ("algorithm/maml") and its files say."""
    file = conf / f"{config}.yaml"
    if not file.is_file():
        return  # null, ???, or an option that Hydra or a plugin provides
    folder = config.rpartition("/")[0]
    additions: list[tuple[str, str]] = []
    for group, option in _defaults_list(file.read_text(encoding="utf-8")):
        is_override = group.startswith("override ")
        group = group.removeprefix("override ").removeprefix("optional ").partition("@")[0].strip()
        group = group[1:] if group.startswith("/") else "/".join(part for part in (folder, group) if part)
        if group.split("/")[0] == "hydra":
            continue
        if is_override:
            overrides.setdefault(group, option)  # the outermost list has the last word
        else:
            additions.append((group, option))
    for group, option in additions:
        if group != folder:  # a bare name in a list extends a file beside this one and chooses nothing
            option = overrides.get(group, option)
            chosen[group] = option
        _follow(conf, "/".join(part for part in (group, option) if part), chosen, overrides)


def _defaults_list(text: str) -> Iterator[tuple[str, str]]:
    """The entries of the `defaults:` block as (group, option); a bare name has the group ""."""
    block = re.search(r"^defaults:[^\n]*\n((?:[ \t]*(?:-|#)[^\n]*\n|[ \t]*\n)*)", text + "\n", re.MULTILINE)
    for entry in re.findall(r"^[ \t]*-[ \t]*([^#\n]+)", block[1] if block else "", re.MULTILINE):
        group, colon, option = entry.partition(":")
        if not colon:
            group, option = "", entry
        if option.strip() != "_self_":
            yield group.strip(), option.strip().strip("'\"")
