"""Every command of the README is accepted as it is printed."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from metarun.command_line.main import main
from metarun.configuration.config_folder import config_folder
from metarun.configuration.instantiate import make
from metarun.configuration.overrides import check, parse
from metarun.configuration.resolve import resolved
from metarun.models.learner import Learner

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The lines of shell blocks that begin with `metarun`, and what stands between backticks elsewhere, without repetitions."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("metarun")]
    inline = [" ".join(found.split()) for found in re.findall(r"(?<!`)`(metarun [^`]+)`(?!`)", README)]
    words = [shlex.split(line.partition(" > ")[0], comments=True) for line in lines + inline]
    return list(dict.fromkeys(shlex.join(word for word in line if word != "...") for line in words))


def file_of_the_readme(comment: str) -> str:
    """The block of code that begins with this comment, which names its file."""
    (text,) = re.findall(rf"```\w+\n({re.escape(comment)}\n.*?)```", README, re.DOTALL)
    return text


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


@pytest.fixture
def users_folder(tmp_path, monkeypatch) -> Path:
    """A current folder with the files that the README shows."""
    for name in ("my_conf/model/mine.yaml", "my_package.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(file_of_the_readme(f"# {name}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_package", None)


@pytest.mark.parametrize("command", [c for c in commands() if "=" in c and " report " not in c])
def test_a_command_that_trains(command, users_folder):
    """It composes, has the shape of its choices, and its algorithm fits its model."""
    words = [word for word in shlex.split(command)[1:] if word not in ("submit", "gradients", "evaluate", "RUN_DIR")]
    parsed = parse(words)
    check(parsed, config_folder())
    for overrides in single_runs(parsed.overrides):
        if parsed.config_dir:
            overrides = [f"hydra.searchpath=[file://{Path(parsed.config_dir).absolute()}]", *overrides]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("config", overrides, return_hydra_config=True)
        hydra = composed.hydra
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        config = resolved(composed, hydra)
        learner = Learner(make(config, "model"), config["batch_norm"], config["head"])
        inputs = torch.rand(2, *config["dataset"]["input_shape"])
        learner.check(inputs, config["dataset"]["output_size"])
        theta = learner.init()
        algorithm, problem = make(config, "algorithm"), make(config, "dataset.problem", learner=learner)
        algorithm.check(problem, theta)
        make(config, "schedule"), make(config, "evaluation"), make(config, "gradients")
        make(config, "optimizer")(
            [leaf.requires_grad_() for leaf in algorithm.meta_parameters(problem, theta).values()]
        )
        outputs = learner(theta, inputs)
        assert outputs.shape == (2, config["dataset"]["output_size"])


CALLED = {
    "evaluate": "metarun.commands.evaluate.evaluate_run",
    "status": "metarun.commands.status.show_status",
    "report": "metarun.commands.report.report",
    "ls": "metarun.commands.report.ls",
    "list": "metarun.commands.data.list_sets",
    "check": "metarun.commands.data.check_set",
    "prepare": "metarun.commands.data.prepare_set",
}


@pytest.mark.parametrize("command", [c for c in commands() if c.split()[1] in {*CALLED, "data"}])
def test_a_command_that_does_not(command, monkeypatch, tmp_path):
    """Its arguments are understood."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN_DIR").mkdir()
    (called,) = [place for word, place in CALLED.items() if word in shlex.split(command)[1:3]]
    calls = []
    monkeypatch.setattr(called, lambda *arguments, **named: calls.append((arguments, named)))
    assert main(shlex.split(command)[1:]) == 0
    assert len(calls) == 1


def test_the_commands_are_found():
    """So that the tests above are of something."""
    found = commands()
    assert len(found) > 40
    assert "metarun --config-dir my_conf dataset=omniglot model=mine" in found
    trained = [command for command in found if "=" in command and " report " not in command]
    others = [command for command in found if command.split()[1] in {*CALLED, "data"}]
    assert {*found} - {*trained, *others} == {"metarun --help", "metarun submit"}
