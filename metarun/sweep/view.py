"""What a person sees of a sweep: a live table on a terminal, plain lines elsewhere, and the same table at the end."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from metarun.console.words import clock_words
from metarun.run_folder.status import FAILED, PREEMPTED, RUNNING
from metarun.sweep.manifest import Job
from metarun.sweep.state import DONE, LOST, PENDING, JobState

_STYLES = {PENDING: "dim", RUNNING: "cyan", DONE: "green", FAILED: "bold red", LOST: "bold red", PREEMPTED: "yellow"}
_LINE_EVERY_S = 30.0


class SweepView:
    """Shows how jobs stand; use it as a context while they run.

    A job that ends is told at once, on a line that stays; on a terminal the rest is a table that renews itself.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[int, tuple[Job, JobState]] = {}
        self._last_line = time.perf_counter()
        self._live: Live | None = None

    def __enter__(self) -> "SweepView":
        self._live = Live(get_renderable=self._shown, console=self._console, refresh_per_second=4, transient=True)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None and self._live.is_started:
            self._live.stop()

    def show(self, job: Job, state: JobState) -> None:
        """A job stands so now; say so when its state has changed."""
        before = self._states.get(job.index, (job, JobState(state=PENDING)))[1]
        self._states[job.index] = (job, state)
        if before.state != state.state:
            self._say(job, state)
        elif not self._console.is_terminal and time.perf_counter() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.perf_counter()
            running = [(j, s) for j, s in self._states.values() if s.state == RUNNING]
            words = ", ".join(f"#{j.index} {_percent(s)}" for j, s in running)
            self.note(f"{counts([s for _, s in self._states.values()])}" + (f" ({words})" if words else ""))

    def know(self, job: Job, state: JobState) -> None:
        """A job has stood so all along: it is in the table, and not told."""
        self._states[job.index] = (job, state)

    def note(self, words: str) -> None:
        """A line that stays."""
        self._console.print(Text(words), soft_wrap=True)

    def table(self) -> Table:
        """Every job, one a row."""
        return sweep_table([self._states[index] for index in sorted(self._states)])

    def _say(self, job: Job, state: JobState) -> None:
        if state.state == RUNNING and self._console.is_terminal:
            return  # the table shows it
        words = Text.assemble((f"{state.state:<9}", _STYLES[state.state]), f" {job.label}")
        if state.state == DONE:
            words.append(f"  {state.score}{'' if state.seconds is None else f'  in {clock_words(state.seconds)}'}")
        elif state.state in (FAILED, LOST, PREEMPTED):
            words.append(f"  {_where(state)}{state.error}  log: {job.log}")
        self._console.print(words, soft_wrap=True)

    def _shown(self) -> Table:
        """As many rows as the terminal holds: what is running first, then what failed, what is next, what is done."""
        rows = [self._states[index] for index in sorted(self._states)]
        room = max(4, self._console.height - 6)
        if len(rows) > room:
            order = (RUNNING, PREEMPTED, FAILED, LOST, PENDING, DONE)
            first = sorted(rows, key=lambda row: order.index(row[1].state))[:room]
            kept = {job.index for job, _ in first}
            rows = [row for row in rows if row[0].index in kept]
        table = sweep_table(rows)
        table.caption = counts([state for _, state in self._states.values()])
        return table


def sweep_table(rows: Sequence[tuple[Job, JobState]]) -> Table:
    """One row for each job."""
    table = Table(caption_justify="left")
    table.add_column("#", justify="right", style="dim")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("steps", justify="right")
    table.add_column("score", overflow="fold")
    table.add_column("time", justify="right")
    for job, state in rows:
        table.add_row(
            str(job.index),
            Text(" ".join(job.varied or job.overrides)),
            Text(state.state, _STYLES[state.state]),
            "" if state.state in (DONE, PENDING) else _percent(state),
            Text(state.error, "red") if state.state in (FAILED, LOST) else Text(state.score),
            "" if state.seconds is None else clock_words(state.seconds),
        )
    return table


def jobs_words(number: int) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} job{'' if number == 1 else 's'}"


def counts(states: Sequence[JobState]) -> str:
    """`2 running, 1 failed, 3 pending of 6`."""
    found = Counter(state.state for state in states)
    words = [f"{found[state]} {state}" for state in (RUNNING, PREEMPTED, DONE, FAILED, LOST, PENDING) if found[state]]
    return f"{', '.join(words) or 'no jobs'} of {len(states)}"


def _percent(state: JobState) -> str:
    return f"{state.step}/{state.steps} ({100 * state.step // state.steps} %)" if state.steps else "starting"


def _where(state: JobState) -> str:
    return f"at step {state.step}: " if state.step else ""
