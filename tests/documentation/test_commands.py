"""Every command of the README and of docs/ is accepted as it is printed: composed, parsed, or run where it answers at once."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from metarun.build import example_inputs, make_learner
from metarun.command_line import subcommands
from metarun.command_line.main import main
from metarun.command_line.subcommands import SUBCOMMANDS
from metarun.configuration.config_folder import config_folder
from metarun.configuration.instantiate import make
from metarun.configuration.overrides import check, parse
from metarun.configuration.resolve import resolved

from .pages import Page, pages

COMPOSED = {"submit", "gradients"}
"""Subcommands that take what a run takes."""

RUN_DIR = "RUN_DIR"
"""The one folder that commands name and that must be there."""


def each_once() -> dict[str, Page]:
    """Every command, with the first page that has it."""
    found: dict[str, Page] = {}
    for page in pages():
        for command in page.commands:
            found.setdefault(command, page)
    return found


COMMANDS = each_once()


def kind(command: str) -> str:
    """What a test does with it: "answers" (it is run), "parsed" or "composed"."""
    words = shlex.split(command)[1:]
    if {"--help", "-h", "--version", "--cfg", "--info", "-sc"} & {*words}:
        return "answers"
    is_word = bool(words) and words[0][0].isalpha() and "=" not in words[0]
    return "parsed" if is_word and words[0] not in COMPOSED else "composed"


def chosen(which: str) -> list:
    return [
        pytest.param(command, page, id=f"{page.path.stem}: {command}")
        for command, page in COMMANDS.items()
        if kind(command) == which
    ]


@pytest.fixture
def users_folder(tmp_path, monkeypatch, request) -> Iterator[Path]:
    """A current folder with the files that the command's page shows."""
    files = request.getfixturevalue("page").files
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / RUN_DIR / "checkpoints").mkdir(parents=True)
    (tmp_path / RUN_DIR / "checkpoints" / "best.pt").write_bytes(b"parameters to start from")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in files:
        sys.modules.pop(Path(name).stem, None)


def write_data(words: list[str]) -> None:
    """The file that a command names as its data: twelve classes (or tasks) of twenty examples of four numbers."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    path, kind_of_data = given.get("dataset.path", ""), given.get("dataset", "")
    numbers = np.random.default_rng(0).normal(size=(240, 4))
    groups = np.repeat(np.arange(12), 20)
    is_regression = kind_of_data.endswith("_regression")
    if kind_of_data.startswith("arrays"):
        np.savez(
            path, X=numbers, y=numbers[:, 0] if is_regression else groups, **({"task": groups} if is_regression else {})
        )
    elif kind_of_data.startswith("table"):
        target, task = given["dataset.target"], given.get("dataset.task", "task")
        lines = [f"a,b,c,d,{target}" + (f",{task}" if is_regression else "")]
        for row, group in zip(numbers, groups, strict=True):
            lines.append(
                ",".join([*map(str, row), *([str(row.sum()), f"t{group}"] if is_regression else [f"k{group}"])])
            )
        Path(path).write_text("\n".join(lines), encoding="utf-8")


def single_runs(overrides: list[str]) -> Iterator[list[str]]:
    """The first run of a sweep, and for each further value of a key the run that differs in it alone."""
    values = []
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.get_key_element()
        if override.is_interval_sweep():
            values.append([f"{key}={override.value().start}"])
        elif override.is_sweep_override():
            each = [f"{key}={value}" for value in override.sweep_string_iterator()]
            values.append(each[:1] if key == "seed" else each)
        else:
            values.append([override.input_line])
    yield [first for first, *_ in values]
    for index, (_, *others) in enumerate(values):
        for other in others:
            yield [other if i == index else first for i, (first, *_) in enumerate(values)]


def make_of(overrides: list[str], config_dir: str | None) -> None:
    """Compose one run; it has the shape of its choices, and its algorithm fits its model."""
    if config_dir:
        overrides = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]", *overrides]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", overrides, return_hydra_config=True)
    hydra = composed.hydra
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    config = resolved(composed, hydra)
    dataset, size = config["dataset"], config["dataset"]["output_size"]
    if dataset["input_shape"] is None:  # found in the data
        source = make(config, "dataset.source")
        inputs, size = example_inputs(source, 2), source.output_size
    else:
        inputs = torch.rand(2, *dataset["input_shape"])
    learner = make_learner(config, torch.float32, lambda: inputs, size)
    theta = learner.init()
    algorithm, problem = make(config, "algorithm"), make(config, "dataset.problem", learner=learner)
    algorithm.check(problem, theta)
    make(config, "schedule"), make(config, "evaluation"), make(config, "gradients")
    make(config, "optimizer")([leaf.requires_grad_() for leaf in algorithm.meta_parameters(problem, theta).values()])
    outputs = learner(theta, inputs)
    assert outputs.shape == (len(inputs), size)


@pytest.mark.parametrize(("command", "page"), chosen("composed"))
def test_a_command_that_trains(command, page, users_folder, monkeypatch):
    """Each of its runs is made, up to the data."""
    given: list[list[str]] = []
    monkeypatch.setattr(subcommands, "run_hydra", lambda words, *_: given.append(words))
    words = shlex.split(command)[1:]
    begin = SUBCOMMANDS[words.pop(0)][2] if words and words[0] in COMPOSED else subcommands.train
    begin(words)
    parsed = parse(*given)
    check(parsed, config_folder())
    write_data(parsed.overrides)
    for overrides in single_runs(parsed.overrides):
        make_of(overrides, parsed.config_dir)


class Understood(Exception):
    """Raised in place of what a subcommand does, once its words have been parsed."""


@pytest.mark.parametrize(("command", "page"), chosen("parsed"))
def test_a_command_with_a_parser_of_its_own(command, page, users_folder, monkeypatch):
    """Its words are understood, and what they say of the configuration composes."""

    def then_stop(name: str):
        def parse_and_stop(parser, *arguments, **named):
            raise Understood(getattr(argparse.ArgumentParser, name)(parser, *arguments, **named))

        return parse_and_stop

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(subcommands._Parser, name, then_stop(name))
    name, *words = shlex.split(command)[1:]
    assert name in SUBCOMMANDS
    try:
        SUBCOMMANDS[name][2](words)
    except Understood as understood:
        (parsed,) = understood.args
        if name == "evaluate":
            make_of(parsed.overrides, None)


@pytest.mark.parametrize(("command", "page"), chosen("answers"))
def test_a_command_that_answers_at_once(command, page, users_folder, capfd):
    """It is run, and says something."""
    assert main(shlex.split(command)[1:]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) > 1


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.path.stem)
def test_subcommands_that_sentences_name(page):
    assert page.subcommands <= {*SUBCOMMANDS}


def test_the_commands_are_found():
    """So that the tests above are of something."""
    kinds = [kind(command) for command in COMMANDS]
    assert kinds.count("composed") > 60
    assert kinds.count("parsed") > 15
    assert kinds.count("answers") > 3
    assert COMMANDS["metarun --config-dir my_conf dataset=omniglot model=mine"].name == "README.md"
    assert "metarun algorithm=imaml dataset=omniglot" in COMMANDS  # after torchrun's -m, too
    assert "metarun completion bash" in COMMANDS  # in $(...)
    assert "metarun report outputs --format latex" in COMMANDS  # before a redirection
