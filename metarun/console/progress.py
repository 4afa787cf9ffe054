"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType

from rich.console import Console
from rich.text import Text

from metarun.console.bar import LINE_EVERY_S, BarLine, Clock, advancing, live
from metarun.console.terminal import is_live
from metarun.console.words import clock_words, interval, summary_words
from metarun.maths.stats import Summary


def waiting(console: Console, words: str) -> AbstractContextManager[object]:
    """A spinner with `words` on a terminal, nothing elsewhere."""
    return console.status(Text(words)) if console.is_terminal else nullcontext()


@contextmanager
def testing(console: Console, num_tasks: int) -> Iterator[Callable[[float], None]]:
    """A bar while a trained state is tested; gives a function to tell the share that is done, from 0 to 1."""

    def amount(done: float, total: float) -> str:
        return f"{100 * done / total:.0f} % of {num_tasks:,} tasks"

    with advancing(console, "testing", amount) as advanced:
        advanced(0.0, 1.0)

        def told(share: float) -> None:
            with contextlib.suppress(OSError):  # a terminal that is gone costs no result
                advanced(share, 1.0)

        yield told


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
        self._score, self._total, self._step = score, total, done
        self._watched, self._counted = watched, counted
        self._value: float | None = None
        self._validation: Summary | None = None
        self._meanwhile = ""
        self._amount = 0.0
        self._clock = Clock(done)
        self._last_line = time.perf_counter()
        self._live = live(console, self._line)

    def __enter__(self) -> "RunConsole":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def stepped(self, step: int, value: float, amount: float) -> None:
        """Show the step, and how much was worked on since the last; off a terminal, a line every ten seconds."""
        # A running mean over about fifty steps, fewer in a short run: one step's loss jumps about too much to be read.
        new = max(0.02, min(1.0, 10 / self._total))
        self._value = value if self._value is None else (1 - new) * self._value + new * value
        self._amount += amount
        self._step, self._meanwhile = step, ""
        self._say_now_and_then("  ".join(filter(None, [self._speed, self._watched_words, self._validation_words])))

    def evaluating(self, split: str, share: float) -> None:
        """Show how far a validation is."""
        self._meanwhile = f"validating {100 * share:.0f} %"
        if share < 1:  # else its score comes in the next line
            self._say_now_and_then(self._meanwhile)

    def validated(self, step: int, score: Summary, is_best: bool) -> None:
        """Remember the validation for the bar; off a terminal, print it."""
        self._validation, self._meanwhile = score, ""
        if not is_live(self._console):
            self._console.print(
                f"step {step}/{self._total}  {self._validation_words}{'  best' if is_best else ''}", soft_wrap=True
            )

    def doing(self, words: str) -> None:
        """Say what is done meanwhile, until the next step."""
        self._meanwhile = words
        if not is_live(self._console):
            self._console.print(f"{words} ...", soft_wrap=True)

    def _say_now_and_then(self, words: str) -> None:
        if is_live(self._console) or time.perf_counter() - self._last_line <= LINE_EVERY_S:
            return
        self._last_line = time.perf_counter()
        percent = 100 * self._step // self._total
        line = [f"step {self._step}/{self._total} ({percent} %)", words, self._clock.to_go(self._step, self._total)]
        self._console.print("  ".join(filter(None, line)), soft_wrap=True)

    def _line(self) -> BarLine:
        """The bar and as much beside it as there is room for; the time to go is the last to be left out."""
        count, left = f"{self._step}/{self._total}", self._clock.to_go(self._step, self._total)
        if self._meanwhile:
            forms = [[count, self._meanwhile, left], [count, self._meanwhile], [count, left], [count]]
        else:
            short = self._short_validation
            forms = [
                [
                    count,
                    self._speed,
                    self._watched_words,
                    self._validation_words,
                    clock_words(self._clock.elapsed),
                    left,
                ],
                [count, self._watched_words, self._validation_words, left],
                [count, self._watched_words, short, left],
                [count, short or self._watched_words, left],
                [count, left],
                [count],
            ]
        return BarLine("meta-train", self._step / self._total, forms)

    @property
    def _speed(self) -> str:
        return f"{self._amount / max(self._clock.elapsed, 1e-9):.0f} {self._counted}/s" if self._amount else ""

    @property
    def _watched_words(self) -> str:
        return "" if self._value is None else f"{self._watched} {self._value:.3f}"

    @property
    def _validation_words(self) -> str:
        return "" if self._validation is None else f"val {summary_words(self._score, vars(self._validation))}"

    @property
    def _short_validation(self) -> str:
        if self._validation is None:
            return ""
        return f"val {interval(self._validation.mean, self._validation.ci95, self._score == 'accuracy')}"
