"""What pages name between backticks is there: keys and options of the configuration, files of the repository, extras."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from metarun.command_line.subcommands import SUBCOMMANDS
from metarun.configuration.config_folder import config_folder, groups

from .pages import ROOT, Page, pages

CONF = config_folder()
OPTIONS = groups(CONF) | {
    group: {file.stem: "" for file in (CONF / group).glob("*.yaml")} for group in ("hydra/launcher", "hydra/sweeper")
}
SUFFIXES = {"py", "yaml", "json", "jsonl", "csv", "pt"}
PAGES = [pytest.param(page, id=page.path.stem) for page in pages()]


def keys_of(values: Any, prefix: str) -> Iterator[str]:
    """Every key of a mapping with its dots, mappings themselves too."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"{prefix}{name}"
            yield from keys_of(value, f"{prefix}{name}.")


def keys_of_conf() -> set[str]:
    """The keys that some choice of options has, read from the files."""
    found = set()
    for file in CONF.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        group = file.relative_to(CONF).parent.as_posix().replace("/", ".")
        package = re.match(r"# @package (\S+)", text)
        place = package[1] if package else group
        prefix = "" if place in (".", "_global_") else f"{place}."
        values = yaml.safe_load(text) or {}
        values.pop("defaults", None)
        found |= {*keys_of(values, prefix)}
        parts = place.split(".") if prefix else []
        found |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return found


KEYS = keys_of_conf()
FIRST = {key.split(".")[0] for key in KEYS} | {group.split("/")[0] for group in OPTIONS}


def ours(page: Page) -> str:
    """The page's text; of the tables in coming_from.md without the first column, which has other tools' words."""
    if page.path.stem != "coming_from":
        return page.prose
    return re.sub(r"^\|[^|]*\|", "|", page.prose, flags=re.MULTILINE)


def words_of(page: Page) -> list[str]:
    """What stands between backticks and is no command, split at blanks outside of brackets and quotes."""
    found = [" ".join(word.split()) for word in re.findall(r"(?<!`)`([^`]+)`(?!`)", ours(page))]
    return [part for word in found for part in re.findall(r"(?:'[^']*'|\[[^\]]*\]|\{[^}]*\}|[^\s'\[{])+", word)]


@pytest.mark.parametrize("page", PAGES)
def test_keys_and_options(page):
    """`KEY=VALUE`, `GROUP=OPTION` and `dotted.keys` of the configuration."""
    missing = []
    for word in words_of(page):
        key, equals, value = word.partition("=")
        if not re.fullmatch(r"[a-z_0-9]+(?:[./][a-z_0-9]+)*", key) or re.split("[./]", key)[0] not in FIRST:
            continue  # another tool's, an addition with +, a placeholder
        if equals and key in OPTIONS:
            values = re.sub(r"^(?:choice)?[(\[](.*)[)\]]$", r"\1", value).split(",")
            missing += [f"{key}={v}" for v in values if not re.fullmatch("[A-Z]*", v) and v not in OPTIONS[key]]
        elif equals or ("." in key and "/" not in key and key.rpartition(".")[2] not in SUFFIXES):
            missing += [key] if key not in KEYS else []
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_files(page):
    """A path of Python or YAML is one from the top of the repository, or from `metarun/`, or one that the page shows."""
    named = {
        word.rstrip(",;:")
        for word in words_of(page)
        if re.fullmatch(r"[\w.*-]+(?:/[\w.*-]+)+\.(?:py|yaml)[,;:]?", word)
        or re.fullmatch(r"(?:metarun|conf|docs|scripts|tests|hydra_plugins)/[\w./*-]*", word)
    }
    missing = [
        path
        for path in named
        if not any(list(folder.glob(path.rstrip("/"))) for folder in (ROOT, ROOT / "metarun"))
        and path not in page.files
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_extras(page):
    """`metarun[NAME]` is an extra."""
    named = {name for names in re.findall(r"metarun\[([a-z,]+)\]", page.text) for name in names.split(",")}
    assert named <= extras()


def extras() -> set[str]:
    """The extras of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    return {*re.findall(r"^([a-z]+) = \[", section, re.MULTILINE)}


def page_of(name: str) -> Page:
    (found,) = [page for page in pages() if page.name == name]
    return found


def test_the_page_of_installation_has_every_extra():
    table = re.findall(r"^\| (`[^|]*`) \|", page_of("docs/install.md").text, re.MULTILINE)
    assert {name for cell in table for name in re.findall(r"`([a-z]+)`", cell)} == extras()


def test_the_page_of_algorithms_has_every_algorithm():
    table = re.findall(r"^\| (`[a-z_0-9`, ()]*) \|", page_of("docs/algorithms.md").text, re.MULTILINE)
    assert {name for cell in table for name in re.findall(r"`([a-z_0-9]+)`", cell)} == {*OPTIONS["algorithm"]}


def test_the_page_of_configuration_has_every_experiment():
    table = re.findall(r"^\| (`[a-z_0-9`, ]*) \|", page_of("docs/configuration.md").text, re.MULTILINE)
    assert {name for cell in table for name in re.findall(r"`([a-z_0-9]+)`", cell)} == {*OPTIONS["experiment"]}


def test_the_page_of_data_sets_has_every_data_set():
    words = re.findall(r"`([a-z_0-9]+)`", page_of("docs/datasets.md").text)
    words += [f"{word}_finn" for word in words]
    assert {*OPTIONS["dataset"]} <= {*words}


def test_the_page_of_sweeps_has_every_setting_of_slurm():
    text = page_of("docs/sweeps.md").text
    settings = yaml.safe_load((Path(CONF) / "hydra/launcher/slurm_cpu.yaml").read_text(encoding="utf-8"))
    left = {"_target_", "wait", "dry_run"}  # `metarun submit` sets them
    assert {name for name in settings if name not in left and f"`{name}`" not in text} == set()


def test_every_subcommand_is_on_some_page():
    """In a command or in a sentence."""
    text = "\n".join(page.text for page in pages())
    assert [name for name in SUBCOMMANDS if f"metarun {name}" not in text] == []
