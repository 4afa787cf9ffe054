"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from metarun.console.terminal import say
from metarun.maths.stats import Summary, count_words, has_score
from metarun.run_folder.folder import RunFolder

_LINE_EVERY_S = 10.0


def header(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """What will run, as a panel of name and value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, value)
    console.print(Panel(table, title=Text("metarun", "bold"), title_align="left", border_style="cyan"))


def waiting(console: Console, words: str) -> AbstractContextManager[object]:
    """A spinner with `words` on a terminal, nothing elsewhere."""
    return console.status(Text(words)) if console.is_terminal else nullcontext()


class _Remaining(ProgressColumn):
    """Time to go at the mean speed of this attempt: outer steps are alike, so the mean is steadier than a window."""

    def render(self, task: Task) -> Text:
        seconds = _remaining(task.fields["clock"], int(task.completed), int(task.total or 0))
        return Text(f"{clock_words(seconds)} to go" if seconds is not None else "-:--", style="cyan")


class RunConsole:
    """Implements the trainer's `Observer`; use it as a context around training."""

    def __init__(self, console: Console, *, score: str, total: int, done: int) -> None:
        self._console = console
        self._score, self._total = score, total
        self._loss: float | None = None
        self._validation = ""
        self._tasks = 0
        self._clock = _Clock(done)
        self._last_line = time.perf_counter()
        self._progress = Progress(
            TextColumn("[bold]meta-train"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            _Remaining(),
            console=console,
            disable=not console.is_terminal,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=total, completed=done, words="", clock=self._clock)

    def __enter__(self) -> "RunConsole":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def stepped(self, step: int, loss: float, tasks: int) -> None:
        """Show the step; off a terminal, a line every ten seconds."""
        # A running mean over about fifty steps: one step's loss jumps about too much to be read.
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        self._tasks += tasks
        if self._console.is_terminal:
            self._progress.update(self._task, completed=step, words=self._words())
        elif time.perf_counter() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.perf_counter()
            left = _remaining(self._clock, step, self._total)
            percent = 100 * step // self._total
            ending = f"  {clock_words(left)} to go" if left is not None else ""
            self._console.print(f"step {step}/{self._total} ({percent} %)  {self._words()}{ending}", soft_wrap=True)

    def validated(self, step: int, score: Summary, is_best: bool) -> None:
        """Remember the validation for the bar; off a terminal, print it."""
        self._validation = f"val {summary_words(self._score, vars(score))}"
        if not self._console.is_terminal:
            self._console.print(
                f"step {step}/{self._total}  {self._validation}{'  best' if is_best else ''}", soft_wrap=True
            )

    def _words(self) -> str:
        speed = self._tasks / max(time.perf_counter() - self._clock.started, 1e-9)
        return "  ".join(filter(None, [f"{speed:.0f} tasks/s", f"loss {self._loss:.3f}", self._validation]))


class _Clock:
    """When this attempt began, and at which step."""

    def __init__(self, first: int) -> None:
        self.started, self.first = time.perf_counter(), first


def _remaining(clock: _Clock, step: int, total: int) -> float | None:
    done = step - clock.first
    return (time.perf_counter() - clock.started) * (total - step) / done if done > 0 else None


def clock_words(seconds: float) -> str:
    """`3:07` or `1:02:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def interval(mean: float | None, half: float | None, is_percent: bool) -> str:
    """`93.4 ± 0.5 %` or `0.352 ± 0.021`; null in a file is what was not finite."""
    if mean is None or not math.isfinite(mean):
        return "not finite"
    return f"{amount(mean, is_percent)} ± {amount(half, is_percent)}{' %' if is_percent else ''}"


def summary_words(score: str, summary: Mapping[str, Any]) -> str:
    """`accuracy 93.4 ± 0.5 %`, and how many tasks diverged if any did, from a summary as result.json has it."""
    words = f"{score} {interval(summary['mean'], summary['ci95'], score == 'accuracy')}"
    count = summary.get("num_diverged", 0)  # absent from those of earlier versions
    return f"{words}, {count} of {summary['num_tasks']} tasks diverged" if count else words


def amount(value: float | None, is_percent: bool, sign: str = "") -> str:
    """`93.4` or `0.352`; very large ones by their first digits, `1.67e+10`."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{100 * value:{sign}.1f}" if is_percent else f"{value:{sign}{'.3f' if abs(value) < 1e6 else '.3g'}}"


def results(console: Console, result: dict[str, Any]) -> None:
    """Print the measured scores after each number of inner steps, under one line that says how they were measured."""
    protocol = result["protocol"]
    ways = f"{protocol['ways']}-way " if protocol["ways"] else ""
    per_class = " per class" if ways else ""
    say(
        console,
        (f"\n{protocol['dataset']} {protocol['split']}", "bold"),
        f"  {ways}{protocol['shots']}-shot, {protocol['tasks']} tasks, {protocol['queries']} queries{per_class}, "
        f"batch norm: {protocol['batch_norm']}",
    )
    console.print(results_table(result))
    for row in result["results"]:
        if row.get("diverged"):
            counted = count_words(row["diverged"], row[result["score"]]["num_tasks"])
            so = "they count as wrong" if result["score"] == "accuracy" else "the median says more than the mean"
            say(console, (f"diverged after {row['inner_steps']} inner steps: {counted}; {so}", "yellow"))
    if result["reference"]:
        console.print(
            f"published: {result['reference']['source']}. {result['reference']['differences']}", soft_wrap=True
        )
    if protocol["batch_norm"] == "transductive":
        console.print(
            "transductive: query examples share batch statistics, as in most papers; batch_norm=support does without",
            soft_wrap=True,
        )


def results_table(result: dict[str, Any]) -> Table:
    """The scores, beside published ones where the run has any; the number of steps that counts is set in bold.

    Where tasks diverged, the median stands beside the mean.
    """
    protocol, score = result["protocol"], result["score"]
    is_percent = score == "accuracy"
    published = (result["reference"] or {}).get("values", {})
    table = Table()
    table.add_column("inner steps", justify="right")
    table.add_column(f"{score} (95 % interval)", justify="right")
    table.add_column("std over tasks", justify="right")
    has_diverged = any(row.get("diverged") for row in result["results"])
    if has_diverged:
        table.add_column("median", justify="right")
        table.add_column("diverged", justify="right")
    if published:
        table.add_column("published", justify="right")
        table.add_column("difference", justify="right")
    for row in result["results"]:
        summary, steps = row[score], row["inner_steps"]
        is_headline = steps == protocol["headline_inner_steps"]
        cells = [
            str(steps),
            interval(summary["mean"], summary["ci95"], is_percent),
            f"{amount(summary['std'], is_percent)}{' %' if is_percent else ''}",
        ]
        if has_diverged:
            count = len(row["diverged"])
            median = f"{amount(summary['median'], is_percent)}{' %' if is_percent else ''}"
            cells += [median, f"{count} of {summary['num_tasks']}" if count else "-"]
        if published:
            reference = published.get(str(steps))
            cells.append("-" if reference is None else f"{amount(reference, is_percent)}{' %' if is_percent else ''}")
            has_both = reference is not None and has_score(summary)
            cells.append(amount(summary["mean"] - reference, is_percent, "+") if has_both else "-")
        table.add_row(*cells, style="bold" if is_headline else None)
    return table


def report(
    console: Console, folder: RunFolder, result: dict[str, Any], other: str, classes: Sequence[str] = ()
) -> None:
    """The table at the end, and what to do next: evaluate this run again, or `other`, a command line.

    Args:
        classes: those of the user's, which `evaluate` must be told to trust.
    """
    results(console, result)
    protocol, added = result["protocol"], result.get("training_memory_mib")
    added = "" if added is None else f", of which training added {added:.0f}"
    console.print(
        f"selected after step {protocol['selected_step']} by {protocol['selected_by']}; trained "
        f"{clock_words(result['train_s'])} ({1000 * result['step_s']:.1f} ms a step), tested {result['test_s']:.1f} s, "
        f"peak memory {result['peak_memory_mib']:.0f} MiB{added}",
        soft_wrap=True,
    )
    for words in result.get("lost", ()):  # absent from results of earlier versions
        say(console, ("lost:", "yellow"), f" {words}")
    for program in result["environment"].get("sources", [])[1:]:
        say(console, ("note", "bold"), f": the classes of your own changed after step {program['step']}")
    figures = sorted(path.name for path in folder.figures.glob("*.png"))
    say(console, ("run folder", "bold"), f"  {folder.path}")
    say(console, ("figures", "bold"), f"     {', '.join(f'figures/{figure}' for figure in figures)}")
    words = shlex.join([str(folder.path), *(word for name in classes for word in ("--allow", name))])
    more = protocol["headline_inner_steps"] * 2
    say(console, ("next", "bold"), f"        metarun evaluate {words} evaluation.inner_steps=[0,{more}]")
    say(console, f"            {other}")
