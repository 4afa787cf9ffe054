"""docs/own_tasks.md: its example of thirty lines, its functions and its commands are run as they are printed."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.small import QUICK, only_folder, run_here

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "own_tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
FILES = {text.splitlines()[0].removeprefix("# "): text for kind, text in BLOCKS if kind != "bash"}
SHORT = (*QUICK, "device.program=eager", "schedule.steps=4", "schedule.eval_every=4", "schedule.checkpoint_every=4")


@pytest.fixture
def users_folder(tmp_path, monkeypatch) -> Path:
    """A current folder with the files that the page shows, and with tables of the columns that its commands name."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    flowers = [(c + k, c - k, f"species {c}") for c in range(15) for k in range(12)]
    patients = [(f"p{c}", k, c * k) for c in range(15) for k in range(12)]
    for name, columns, rows in (
        ("flowers.csv", ("width", "length", "species"), flowers),
        ("patients.csv", ("patient", "dose", "effect"), patients),
    ):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    subprocess.run([sys.executable, "make_arrays.py"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_tasks", "my_texts"):
        sys.modules.pop(name, None)


def test_the_example_has_thirty_lines():
    example = [FILES["my_tasks.py"], FILES["my_conf/dataset/waves.yaml"], COMMANDS[0]]
    lines = [line for text in example for line in text.splitlines() if line.strip() and not line.startswith("# my_")]
    assert len(lines) <= 30
    assert "dataset=waves" in COMMANDS[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_run_as_it_is_printed(command, users_folder):
    """With fewer steps: it trains, is tested, and can be evaluated."""
    words = [word for word in shlex.split(command)[1:] if not word.startswith("schedule.steps=")]
    runs = users_folder / "runs"
    assert run_here(*words, *SHORT, f"run.root={runs}") == 0
    result = json.loads((only_folder(runs) / "result.json").read_text())
    regression = "regression" in command or "waves" in command
    assert result["score"] == ("mse" if regression else "accuracy")
    assert result["results"][-1][result["score"]]["num_tasks"] == 20
    functions = [
        f"{file.removesuffix('.py')}.{name}" for file in FILES for name in re.findall(r"^def (\w+)", FILES[file], re.M)
    ]
    allowed = [word for name in functions for word in ("--allow", name)]
    assert run_here("evaluate", str(only_folder(runs)), *allowed) == 0


def test_settings_of_the_function_are_the_files_and_the_command_lines(users_folder):
    """Twelve values in the file, sixteen on the command line: so many inputs has the first layer of forty."""
    words = [word for word in shlex.split(COMMANDS[0])[1:] if not word.startswith("schedule.steps=")]
    for window, more in ((12, ()), (16, ("dataset.source.function.window=16",))):
        folder = users_folder / f"run {window}"
        assert run_here(*words, *more, *SHORT, f"run.folder={folder}") == 0
        result = json.loads((folder / "result.json").read_text())
        assert result["num_parameters"] == 40 * window + 40 + 40 * 40 + 40 + 40 + 1
