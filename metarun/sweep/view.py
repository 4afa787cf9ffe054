"""What a person sees of a sweep: a live table on a terminal, plain lines elsewhere, and the same table at the end."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from metarun.console.columns import Column, is_fitting, table
from metarun.console.terminal import say, tell
from metarun.console.words import clock_words
from metarun.run_folder.status import FAILED, PREEMPTED, RUNNING
from metarun.sweep.manifest import Job
from metarun.sweep.state import DONE, LOST, PENDING, JobState

_STYLES = {PENDING: "dim", RUNNING: "cyan", DONE: "green", FAILED: "bold red", LOST: "bold red", PREEMPTED: "yellow"}
_LINE_EVERY_S = 30.0
_HEAD, _AROUND = 4, 6  # lines of a table that are no rows; and with the counts below it and the line of the cursor
_WHOLE_RUN, _LEAST_RUN, _LEAST_ERROR = 24, 14, 16


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
        if before.state != state.state or (state.start_step and not before.start_step and state.state == RUNNING):
            self._say(job, state)
        elif not self._console.is_terminal and time.perf_counter() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.perf_counter()
            running = [(j, s) for j, s in self._states.values() if s.state == RUNNING]
            words = ", ".join(f"#{j.index} {_percent(s)}" for j, s in running)
            self.note(f"{counts([s for _, s in self._states.values()])}" + (f" ({words})" if words else ""))

    def know(self, job: Job, state: JobState) -> None:
        """A job has stood so all along: it is in the table, and not told."""
        self._states[job.index] = (job, state)

    def note(self, words: str, indent: int = 0) -> None:
        """Sentences that stay; `indent` is that of lines after the first."""
        tell(self._console, words, indent=indent)

    def copied(self, command: str, label: str = "") -> None:
        """A command, or a path, to be copied."""
        say(self._console, (f"{label}  " if label else "", "bold"), command)

    def table(self) -> Table:
        """Every job, one a row."""
        return sweep_table([self._states[index] for index in sorted(self._states)], self._console.width)

    def _say(self, job: Job, state: JobState) -> None:
        if state.state == RUNNING and self._console.is_terminal:
            return  # the table shows it
        if state.state == RUNNING and state.start_step:
            self.note(f"resumed   {job.label}  at step {state.start_step} of {state.steps}")
            return
        ending = ""
        if state.state == DONE:
            ending = f"  {state.score}{'' if state.seconds is None else f'  in {clock_words(state.seconds)}'}"
        elif state.state in (FAILED, LOST, PREEMPTED):
            ending = f"  {_where(state)}{state.error}  log: {job.log}"
        tell(self._console, (f"{_word(state):<9}", _STYLES[state.state]), f" {job.label}{ending}", indent=10)

    def _shown(self) -> Table:
        """As many rows as the terminal holds: what is running first, then what failed, what is next, what is done."""
        limit = max(4, self._console.height - _AROUND)
        room = min(limit, len(self._states))
        shown = self._first(room)
        while room > 1 and (lines := len(self._console.render_lines(shown)) - _HEAD) > limit:  # rows of several lines
            room = min(room - 1, room * limit // lines)
            shown = self._first(room)
        shown.caption = counts([state for _, state in self._states.values()])
        return shown

    def _first(self, room: int) -> Table:
        """The table of so many jobs, in their order."""
        rows = [self._states[index] for index in sorted(self._states)]
        if len(rows) > room:
            order = (RUNNING, PREEMPTED, FAILED, LOST, PENDING, DONE)
            first = sorted(rows, key=lambda row: order.index(row[1].state))[:room]
            kept = {job.index for job, _ in first}
            rows = [row for row in rows if row[0].index in kept]
        return sweep_table(rows, self._console.width)


def sweep_table(rows: Sequence[tuple[Job, JobState]], width: int) -> Table:
    """One row for each job, of at most `width` characters: a narrow one names keys by their ends and counts in percent."""
    columns = _columns(rows)
    if not is_fitting(columns, width, box.HEAVY_HEAD):
        columns = _columns(rows, least=_WHOLE_RUN)
    if not is_fitting([column for column in columns if not column.left_out], width, box.SIMPLE_HEAD):
        columns = _columns(rows, least=_LEAST_RUN)
    drawn = table(columns, width)
    drawn.caption_justify = "left"
    return drawn


def _columns(rows: Sequence[tuple[Job, JobState]], *, least: int | None = None) -> list[Column]:
    """Those of a narrow table where what a job varies may be made as narrow as `least`, its longer words cut."""
    is_narrow = least is not None
    jobs, states = [job for job, _ in rows], [state for _, state in rows]
    runs = _short_words(jobs) if is_narrow else [list(job.varied or job.overrides) for job in jobs]
    longest = max((cell_len(word) for words in runs for word in words), default=1)
    has_error = [state.state in (FAILED, LOST) for state in states]
    scores = [_short_score(state.score) if is_narrow else state.score for state in states]
    score_width = max((cell_len(score) for score, error in zip(scores, has_error, strict=True) if not error), default=0)
    words = [_percent(s) if is_narrow and s.state == RUNNING else _word(s) for s in states]
    steps = ["" if s.state in (DONE, PENDING) else _steps(s) for s in states]
    return [
        Column(heading="#", cells=[str(job.index) for job in jobs], justify="right", style="dim"),
        Column(
            heading="run",
            cells=[Text(" ".join(words)) for words in runs],
            least=longest if least is None else min(longest, least),
            wraps=True,
        ),
        Column(heading="state", cells=[Text(w, _STYLES[s.state]) for w, s in zip(words, states, strict=True)]),
        *([] if is_narrow else [Column(heading="steps", cells=steps, justify="right")]),
        Column(
            heading="score",
            cells=[
                Text(state.error, "red") if error else Text(score)
                for state, score, error in zip(states, scores, has_error, strict=True)
            ],
            least=max(score_width, _LEAST_ERROR if any(has_error) else 0),
        ),
        Column(
            heading="time",
            cells=["" if state.seconds is None else clock_words(state.seconds) for state in states],
            justify="right",
            left_out=1,
        ),
    ]


def _short_words(jobs: Sequence[Job]) -> list[list[str]]:
    """What each job varies, its keys by their last parts where those are of one key alone."""
    given = [[word.partition("=") for word in job.varied or job.overrides] for job in jobs]
    ends = {key: re.split(r"[./]", key)[-1] for words in given for key, _, _ in words}
    shared = Counter(ends.values())
    return [
        [f"{ends[key] if shared[ends[key]] == 1 else key}{eq}{value}" for key, eq, value in words] for words in given
    ]


def _short_score(score: str) -> str:
    """Without its name: `val 93.4 ± 0.5 %`."""
    return re.sub(r"^(val )?\S+ (?=\S+ ±|not finite)", r"\1", score).partition(",")[0]


def jobs_words(number: int) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} job{'' if number == 1 else 's'}"


def counts(states: Sequence[JobState]) -> str:
    """`2 running, 1 failed, 3 pending of 6`."""
    found = Counter(state.state for state in states)
    words = [f"{found[state]} {state}" for state in (RUNNING, PREEMPTED, DONE, FAILED, LOST, PENDING) if found[state]]
    return f"{', '.join(words) or 'no jobs'} of {len(states)}"


def _word(state: JobState) -> str:
    """The state in a word: before its first step a job is only starting."""
    if state.state != RUNNING:
        return state.state
    return "starting" if not state.step else "running" if state.tested is None else "testing"


def _steps(state: JobState) -> str:
    """`12/40 (30 %)`, from which step a resumed job goes on, how far a test is; "" where nothing is known."""
    if state.state == RUNNING and state.tested is not None:
        return f"test {100 * state.tested:.0f} %"
    if not state.step:
        return ""
    return f"{state.step}/{state.steps} ({100 * state.step // state.steps} %){_from(state)}"


def _percent(state: JobState) -> str:
    """`30 %, from 10`: the same for a narrow table, of what is running."""
    if not state.step or state.tested is not None:
        return _steps(state) or _word(state)
    return f"{100 * state.step // state.steps} %{_from(state)}"


def _from(state: JobState) -> str:
    return f", from {state.start_step}" if state.start_step and state.state == RUNNING else ""


def _where(state: JobState) -> str:
    return f"at step {state.step}: " if state.step else ""
