"""`metarun report` and `metarun ls`: what they read, what they print, what they write."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from metarun.console.terminal import terminal
from metarun.errors import ConfigurationError
from metarun.files import write_atomically
from metarun.report import formats, latex
from metarun.report.comparison import compare
from metarun.report.evaluations import evaluations_of
from metarun.report.run_list import STATES, print_runs
from metarun.report.runs import read_runs, selected
from metarun.report.terminal_tables import print_tables

FORMATS = ("terminal", "markdown", "latex", "csv")
INTERVALS = latex.INTERVALS
__all__ = ["FORMATS", "INTERVALS", "STATES", "ls", "report"]


def report(
    roots: Sequence[Path],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    where: Sequence[str],
    baseline: str | None,
    inner_steps: int | None,
    sort: str | None,
    evaluations: bool,
    interval: str | None,
    form: str,
    html: Path | None,
    figures: Path | None,
    command: str,
) -> None:
    """Compare the runs in or below `roots`: print in `form`, and write the page and the figures that are asked for.

    Args:
        rows, columns, where, baseline, inner_steps, sort: see `compare` and `selected`.
        evaluations: whether to show what `metarun evaluate` has stored, too.
        interval: see `latex`.
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
    if interval is not None and form != "latex":
        raise ConfigurationError("--interval chooses the one of LaTeX's cells: add --format latex.")
    if evaluations:
        found = [evaluation for run in runs for evaluation in evaluations_of(run)]
        if not found:
            raise ConfigurationError("--evaluations: none is stored; metarun evaluate RUN_DIR dataset=NAME makes one.")
        runs += found
    comparison = compare(
        selected(runs, where), rows=rows, columns=columns, baseline=baseline, inner_steps=inner_steps, sort=sort
    )
    console = _console()
    if form == "terminal":
        print_tables(console, comparison)
    elif form == "latex":
        sys.stdout.write(latex.latex(comparison, interval))
    else:
        sys.stdout.write({"markdown": formats.markdown, "csv": formats.comma_separated}[form](comparison))
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
    for stem, paths in itertools.groupby(written, lambda path: path.with_suffix("")):
        first, *others = (path.suffix for path in paths)
        said.print(", ".join([f"wrote {stem}{first}", *others]), soft_wrap=True, markup=False)


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
    print_runs(console, runs, place, [run for run in runs if not states or run.state in states])


def _console() -> Console:
    """Standard output; a pipe is as wide as its lines, so that no table is folded to a terminal that is not there."""
    console = terminal()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = terminal(width=2000)
    return console
