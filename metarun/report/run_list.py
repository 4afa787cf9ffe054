"""Runs as `metarun ls` lists them, on a terminal of any width."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from metarun.console.words import summary_words
from metarun.report.runs import NOT_STARTED, Run, duration
from metarun.report.tables import short
from metarun.report.terminal_tables import wrapped

STATES = ("finished", "running", "preempted", "failed", "killed", "unfinished", NOT_STARTED, "damaged")
_STYLES = {
    "finished": "green",
    "running": "bold blue",
    "preempted": "yellow",
    "unfinished": "yellow",
    NOT_STARTED: "dim",
}


def print_runs(console: Console, runs: Sequence[Run], place: Path, shown: Sequence[Run]) -> None:
    """How many runs there are, and of each that is `shown` two lines; more of them where they would be too long.

    A path stays whole whatever the width: a terminal breaks it where it must, and it can still be copied. A command goes on
    in the next line after a backslash, so that it can be copied too.
    """
    width = console.width if console.is_terminal else sys.maxsize
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    number = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    first, *others = wrapped(f"{number} in {place}: {summary}", width)
    console.print(Text.assemble((number, "bold"), first.removeprefix(number)), soft_wrap=True)
    for line in others:
        console.print(line, soft_wrap=True)
    now = time.time()
    scores = {id(run): _score(run) for run in runs}
    score_width = max(len(score) for score in scores.values())
    state_width = max(10, *(len(run.state) + 1 for run in runs))
    lines = []
    for run in shown:
        state = (f"{run.state:<{state_width}}", _STYLES.get(run.state, "bold red"))
        age = (f"{duration(now - run.changed):>7} ago  ", "dim")
        lines.append(Text.assemble(state, f"{scores[id(run)]:<{score_width}}  ", age, (str(run.path), "bold")))
    is_narrow = any(line.cell_len > width for line in lines)
    for run, line in zip(shown, lines, strict=True):
        detail = Text(short(run.detail), "red" if run.state in ("failed", "damaged", "killed") else "")
        if is_narrow:
            state = Text.assemble((run.state, _STYLES.get(run.state, "bold red")))
            score, age = scores[id(run)], Text(f"  {duration(now - run.changed)} ago", "dim")
            has_room = len(run.state) + len(score) + 2 + age.cell_len <= width
            if has_room and score:
                state.append(f"  {score}")
            console.print(state.append(age), soft_wrap=True)
            if score and not has_room:
                console.print(f"  {score}", soft_wrap=True)
            line = Text(f"  {run.path}", "bold")
        if detail and line.cell_len + 2 + detail.cell_len <= width:
            line.append("  ").append(detail)
            detail = Text()
        console.print(line, soft_wrap=True)
        for part in wrapped(detail.plain, width - 2):
            console.print(Text(f"  {part}", detail.style), soft_wrap=True)
        for part in _command_lines(run.command or "(command not recorded)", width):
            console.print(Text(part, "dim"), soft_wrap=True)


def _command_lines(command: str, width: int) -> list[str]:
    """The command after two spaces; where it is too long, as lines of whole arguments that a shell reads as one."""
    if len(command) + 2 <= width:
        return [f"  {command}"]
    try:
        words = [shlex.quote(word) for word in shlex.split(command)]
    except ValueError:  # no line of a shell
        return [f"  {command}"]
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def _score(run: Run) -> str:
    """`accuracy 92.0 ± 0.6 % after 3`, over test tasks."""
    if run.result is None:
        return ""
    name, steps = run.result["score"], run.result["protocol"]["headline_inner_steps"]
    return f"{summary_words(name, run.scores()[steps])} after {steps}"
