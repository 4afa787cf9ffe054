"""metarun.report.run_list: what `metarun ls` shows at any width."""

import io
import os
import shlex
import time
from pathlib import Path

import pytest
from rich.console import Console

from metarun.report.run_list import print_runs
from metarun.report.runs import read_runs

from .made import SCORES, write_run

SCREENS = Path(__file__).parent / "screens"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Three finished runs, of which one's command is long, and a failed one with much to say; shown at a width."""
    monkeypatch.chdir(tmp_path)
    words = ["dataset=omniglot", "optimizer.lr=0.00025", "schedule.steps=60000", "data.root=/mnt/data/few shot"]
    for number, (algorithm, seed) in enumerate((("maml", 0), ("maml", 1), ("fomaml", 0))):
        folder = write_run(Path("outputs"), SCORES, algorithm=algorithm, seed=seed, overrides=words if seed else ())
        command = shlex.join(["metarun", f"algorithm={algorithm}", f"seed={seed}", *(words if seed else ())])
        (folder / "overrides.json").write_text(f'{{"overrides": [], "command": "{command}"}}')
        os.utime(folder / "result.json", (time.time() - 3600 * 3 * (number + 1),) * 2)
    failed = write_run(Path("outputs"), {}, seed=7)
    words = "CUDA out of memory: tried to allocate 1.5 GiB, and 1.2 GiB of 139 GiB are free"
    (failed / "log.txt").write_text(f"x ERROR the run ended by MemoryError: {words}\n")
    for path in failed.iterdir():
        os.utime(path, (time.time() - 1200,) * 2)
    runs = read_runs([Path("outputs")])

    def shown(width: int) -> str:
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, record=True)
        print_runs(console, runs, Path("outputs"), runs)
        return console.export_text()

    return shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_screens(listed, width):
    """As text, to be looked at."""
    assert listed(width) == (SCREENS / f"ls-{width}.txt").read_text()


def test_nothing_is_broken_inside_of_a_word_or_a_number(listed):
    """Every word of the widest screen is on every other, and no line but of one word is wider than the screen."""
    words = {*listed(1000).split()} - {"'data.root=/mnt/data/few", "shot'"}
    for width in range(40, 161):
        lines = listed(width).splitlines()
        assert words <= {word for line in lines for word in line.split()}, width
        # a quoted argument is one word of a shell
        assert all(len(line) <= width or " " not in line.replace("few shot", "").strip() for line in lines), width


def test_a_command_of_several_lines_is_one_command(listed):
    lines = listed(60).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("  metarun") and line.endswith("\\"))
    command = [lines[start]]
    while command[-1].endswith("\\"):
        command.append(lines[start + len(command)])
    assert len(command) == 3
    joined = " ".join(line.removesuffix("\\") for line in command)
    assert shlex.split(joined)[1:] == [
        "algorithm=maml", "seed=1", "dataset=omniglot", "optimizer.lr=0.00025", "schedule.steps=60000",
        "data.root=/mnt/data/few shot",
    ]  # fmt: skip
