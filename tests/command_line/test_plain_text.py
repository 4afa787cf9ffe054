"""Where standard output cannot take every character, each that is missing has an ASCII form."""

import io
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from metarun.command_line.plain_text import write_every_character
from metarun.console.progress import RunConsole, waiting
from metarun.maths.stats import Summary

from ..training.small import QUICK, run_here


def stdout_of(encoding, monkeypatch) -> Callable[[], str]:
    """Make standard output one of this encoding, as `PYTHONIOENCODING` does; gives what was written to it."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    return lambda: out.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("92.6 ± 0.5 %", "92.6 +-0.5 %"),
        ("±", "+-"),
        ("± ±", "+-+-"),
        ("a…", "a..."),
        ("– − · ✓ ‖x‖", "- - . v ||x||"),
        ("⠋ waiting", "* waiting"),
        ("naïve/名", r"na\xefve/\u540d"),
        ("na\udceeve", r"na\udceeve"),
    ],
)
def test_each_character_has_a_form(text, written, monkeypatch):
    ascii_output = stdout_of("ascii", monkeypatch)
    write_every_character()
    print(text, end="")
    assert ascii_output() == written


def test_a_stream_of_unicode_keeps_its_characters_and_takes_file_names_that_are_none(monkeypatch):
    output = stdout_of("utf-8", monkeypatch)
    write_every_character()
    print("± 名 na\udceeve", end="")
    assert output() == r"± 名 na\udceeve"


def test_a_run_its_list_and_its_report(tmp_path, monkeypatch):
    ascii_output = stdout_of("ascii", monkeypatch)
    monkeypatch.setenv("COLUMNS", "100")
    assert run_here(*QUICK, "schedule.steps=2", "schedule.eval_every=1", f"run.root={tmp_path}") == 0
    assert run_here("ls", str(tmp_path)) == 0
    assert run_here("report", str(tmp_path)) == 0
    text = ascii_output()
    assert text.count("val mse ") == 2
    assert "finished  mse " in text and "+-over seeds" in text
    table = text[text.index("| inner steps") :].splitlines()[:6]
    assert {len(line) for line in table} == {len(table[0])}, "columns stay where they are"


def test_progress_on_a_terminal(monkeypatch):
    ascii_output = stdout_of("ascii", monkeypatch)
    write_every_character()
    console = Console(force_terminal=True, width=120)
    with waiting(console, "looking"):
        pass
    watcher = RunConsole(console, score="accuracy", total=2, done=0)
    with watcher:
        watcher.stepped(1, 0.5, 4)
        watcher.validated(1, Summary(mean=0.5, ci95=0.1, std=0.2, num_tasks=4, median=0.5), True)
        watcher.stepped(2, 0.5, 4)
    assert "val accuracy 50.0 +-10.0 %" in ascii_output()
