"""`metarun report` and `metarun ls`: what they read, what they print, what they write."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from metarun.console.terminal import terminal
from metarun.console.words import summary_words
from metarun.errors import ConfigurationError
from metarun.files import write_atomically
from metarun.report import formats
from metarun.report.comparison import compare
from metarun.report.runs import NOT_STARTED, Run, duration, read_runs, selected
from metarun.report.tables import short

FORMATS = ("terminal", "markdown", "latex", "csv")
STATES = ("finished", "running", "preempted", "failed", "killed", "unfinished", NOT_STARTED, "damaged")
_STYLES = {
    "finished": "green",
    "running": "bold blue",
    "preempted": "yellow",
    "unfinished": "yellow",
    NOT_STARTED: "dim",
}


def report(
    roots: Sequence[Path],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    where: Sequence[str],
    baseline: str | None,
    inner_steps: int | None,
    form: str,
    html: Path | None,
    figures: Path | None,
    command: str,
) -> None:
    """Compare the runs in or below `roots`: print in `form`, and write the page and the figures that are asked for.

    Args:
        rows, columns, where, baseline, inner_steps: see `compare` and `selected`.
        form: one of FORMATS.
        html, figures: a file and a folder to write, or None.
        command: the line that asks for this, for the page.
    Raises:
        ConfigurationError: no runs, or a request that no run can answer.
        OSError: a file cannot be written.
    """
    for path, flag in ((html, "--html"), (figures, "--figures")):
        if path is not None and path.is_dir() == (flag == "--html") and path.exists():
            raise ConfigurationError(
                f"{flag} takes a {'file' if flag == '--html' else 'folder'}, and {path} is not one."
            )
    runs = read_runs(roots)
    if not runs:
        places = ", ".join(map(str, roots))
        raise ConfigurationError(f"no runs in {places}: a run's folder holds a config.json. metarun ls shows the runs.")
    comparison = compare(selected(runs, where), rows=rows, columns=columns, baseline=baseline, inner_steps=inner_steps)
    console = _console()
    if form == "terminal":
        formats.terminal(console, comparison)
    else:
        text = {"markdown": formats.markdown, "latex": formats.latex, "csv": formats.comma_separated}[form](comparison)
        sys.stdout.write(text)
    written: list[Path] = []
    if figures is not None:
        from metarun.report.plots import draw

        written += draw(comparison, figures)
    if html is not None:
        from metarun.report.page import page

        html.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(html, page(comparison, html.parent, command).encode(errors="backslashreplace"))
        written.append(html)
    # What is redirected into a file stays what that file is to hold.
    said = console if form == "terminal" else terminal(stderr=True)
    for path in written:
        said.print(f"wrote {path}", soft_wrap=True, markup=False)


def ls(root: Path | None, *, states: Sequence[str]) -> None:
    """List the runs in or below `root`, newest first: state, score, age, folder, and the command that made each.

    Raises:
        ConfigurationError: `root` is given and no folder.
    """
    place = Path(os.environ.get("METARUN_OUTPUTS", "outputs")) if root is None else root
    runs = [] if root is None and not place.exists() else read_runs([place])
    console = _console()
    if not runs:
        console.print(f"no runs in {place}", soft_wrap=True, markup=False)
        return
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(Text.assemble((f"{len(runs)} run{'s' if len(runs) > 1 else ''}", "bold"), f" in {place}: {summary}"))
    now = time.time()
    scores = {id(run): _score(run) for run in runs}
    width = max(len(score) for score in scores.values())
    state_width = max(10, *(len(run.state) + 1 for run in runs))
    for run in runs:
        if states and run.state not in states:
            continue
        line = Text.assemble(
            (f"{run.state:<{state_width}}", _STYLES.get(run.state, "bold red")),
            f"{scores[id(run)]:<{width}}  ",
            (f"{duration(now - run.changed):>7} ago  ", "dim"),
            (str(run.path), "bold"),
            (
                f"  {short(run.detail)}" if run.detail else "",
                "red" if run.state in ("failed", "damaged", "killed") else "",
            ),
        )
        console.print(line, soft_wrap=True)
        console.print(Text(f"  {run.command or '(command not recorded)'}", "dim"), soft_wrap=True)


def _score(run: Run) -> str:
    """`accuracy 92.0 ± 0.6 % after 3`, over test tasks."""
    if run.result is None:
        return ""
    name, steps = run.result["score"], run.result["protocol"]["headline_inner_steps"]
    return f"{summary_words(name, run.scores()[steps])} after {steps}"


def _console() -> Console:
    """Standard output; a pipe is as wide as its lines, so that no table is folded to a terminal that is not there."""
    console = terminal()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = terminal(width=400)
    return console
