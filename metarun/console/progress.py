"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import time
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from metarun.console.words import clock_words, summary_words
from metarun.maths.stats import Summary

_LINE_EVERY_S = 10.0


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

    def __init__(
        self,
        console: Console,
        *,
        score: str,
        total: int,
        done: int,
        watched: str = "loss",
        counted: str = "tasks",
    ) -> None:
        self._console = console
        self._score, self._total = score, total
        self._watched, self._counted = watched, counted
        self._value: float | None = None
        self._validation = ""
        self._amount = 0.0
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

    def stepped(self, step: int, value: float, amount: float) -> None:
        """Show the step, and how much was worked on since the last; off a terminal, a line every ten seconds."""
        # A running mean over about fifty steps, fewer in a short run: one step's loss jumps about too much to be read.
        new = max(0.02, min(1.0, 10 / self._total))
        self._value = value if self._value is None else (1 - new) * self._value + new * value
        self._amount += amount
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

    def doing(self, words: str) -> None:
        """Say what is done meanwhile, until the next step."""
        if self._console.is_terminal:
            self._progress.update(self._task, words=words)
        else:
            self._console.print(f"{words} ...", soft_wrap=True)

    def _words(self) -> str:
        speed = self._amount / max(time.perf_counter() - self._clock.started, 1e-9)
        return "  ".join(
            filter(None, [f"{speed:.0f} {self._counted}/s", f"{self._watched} {self._value:.3f}", self._validation])
        )


class _Clock:
    """When this attempt began, and at which step."""

    def __init__(self, first: int) -> None:
        self.started, self.first = time.perf_counter(), first


def _remaining(clock: _Clock, step: int, total: int) -> float | None:
    done = step - clock.first
    return (time.perf_counter() - clock.started) * (total - step) / done if done > 0 else None
