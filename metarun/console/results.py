"""What a run prints before it begins and at its end: what will run, its results as a table, and what to do next."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from metarun.configuration.command_text import evaluation
from metarun.console.columns import Column, table
from metarun.console.terminal import say, tell
from metarun.console.words import amount, clock_words, collected_words, interval
from metarun.maths.stats import count_words, has_score
from metarun.run_folder.folder import RunFolder


def header(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """What will run, as a panel of name and value; under it what holds a word too long for that, such as a path to be copied."""
    grid = Table.grid(padding=(0, 2))
    width = max(cell_len(label) for label, _ in rows)
    room = console.width - width - 6  # of the frame and the blanks
    grid.add_column(style="bold cyan", no_wrap=True, width=width)
    grid.add_column()
    below = [(label, value) for label, value in rows if max(map(cell_len, value.split()), default=0) > room]
    for label, value in rows:
        if (label, value) not in below:
            grid.add_row(label, value)
    console.print(Panel(grid, title=Text("metarun", "bold"), title_align="left", border_style="cyan"))
    for label, value in below:
        say(console, (f"  {label:<{width}}", "bold cyan"), f"  {value}")


def results(console: Console, result: dict[str, Any]) -> None:
    """Print the measured scores after each number of inner steps, under one line that says how they were measured."""
    protocol = result["protocol"]
    ways = f"{protocol['ways']}-way " if protocol["ways"] else ""
    per_class = " per class" if ways else ""
    sizes = f"{ways}{protocol['shots']}-shot, {protocol['tasks']} tasks, {protocol['queries']} queries{per_class}"
    examples = protocol.get("examples", "examples")  # absent from results of earlier versions
    if examples != "examples":
        sizes = f"{protocol['tasks']} tasks, {collected_words(protocol['shots'], protocol['queries'], examples)}"
    tell(
        console,
        (f"\n{protocol['dataset']} {protocol['split']}", "bold"),
        f"  {sizes}, batch norm: {protocol['batch_norm']}",
    )
    console.print(results_table(result, console.width))
    for row in result["results"]:
        if row.get("diverged"):
            counted = count_words(row["diverged"], row[result["score"]]["num_tasks"])
            so = "they count as wrong" if result["score"] == "accuracy" else "the median says more than the mean"
            tell(console, (f"diverged after {row['inner_steps']} inner steps: {counted}; {so}", "yellow"))
    if result["reference"]:
        tell(console, f"published: {result['reference']['source']}. {result['reference']['differences']}")
    if protocol["batch_norm"] == "transductive":
        tell(
            console,
            "transductive: query examples share batch statistics, as in most papers; batch_norm=support does without",
        )


def results_table(result: dict[str, Any], width: int) -> Table:
    """The scores, beside published ones where the run has any; the number of steps that counts is set in bold.

    Where tasks diverged, the median stands beside the mean. Where all that does not fit into `width`, the deviation over
    tasks is left out first.
    """
    protocol, score = result["protocol"], result["score"]
    is_percent = score == "accuracy"
    unit = " %" if is_percent else ""
    rows = [row[score] for row in result["results"]]
    steps = [row["inner_steps"] for row in result["results"]]
    columns = [
        _numbers("inner steps", map(str, steps)),
        _numbers(
            f"{score} (95\u00a0%\u00a0interval)", [interval(row["mean"], row["ci95"], is_percent) for row in rows]
        ),
        _numbers("std over tasks", [f"{amount(row['std'], is_percent)}{unit}" for row in rows], left_out=3),
    ]
    if any(row.get("diverged") for row in result["results"]):
        counts = [(len(row["diverged"]), row[score]["num_tasks"]) for row in result["results"]]
        columns += [
            _numbers("median", [f"{amount(row['median'], is_percent)}{unit}" for row in rows], left_out=1),
            _numbers("diverged", [f"{count} of {whole}" if count else "-" for count, whole in counts]),
        ]
    published = (result["reference"] or {}).get("values", {})
    if published:
        known = [published.get(str(number)) for number in steps]
        both = list(zip(rows, known, strict=True))
        columns += [
            _numbers("published", ["-" if k is None else f"{amount(k, is_percent)}{unit}" for k in known]),
            _numbers(
                "difference",
                [
                    amount(row["mean"] - k, is_percent, "+") if k is not None and has_score(row) else "-"
                    for row, k in both
                ],
                left_out=2,
            ),
        ]
    styles = ["bold" if number == protocol["headline_inner_steps"] else "" for number in steps]
    return table(columns, width, row_styles=styles)


def _numbers(heading: str, cells: Iterable[str], left_out: int = 0) -> Column:
    return Column(heading=heading, cells=list(cells), justify="right", left_out=left_out)


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
    tell(
        console,
        f"selected after step {protocol['selected_step']} by {protocol['selected_by']}; trained "
        f"{clock_words(result['train_s'])} ({1000 * result['step_s']:.1f} ms a step{_program(result)}), "
        f"tested {result['test_s']:.1f} s, "
        f"peak memory {result['peak_memory_mib']:.0f} MiB{added}",
    )
    for words in result.get("lost", ()):  # absent from results of earlier versions
        tell(console, ("lost:", "yellow"), f" {words}")
    for program in result["environment"].get("sources", [])[1:]:
        tell(console, ("note", "bold"), f": the classes of your own changed after step {program['step']}")
    figures = sorted(path.name for path in folder.figures.iterdir() if path.suffix in (".png", ".gif"))
    say(console, ("run folder", "bold"), f"  {folder.path}")
    tell(console, ("figures", "bold"), f"     {', '.join(f'figures/{figure}' for figure in figures)}", indent=12)
    say(console, ("next", "bold"), f"        {evaluation(folder.path, protocol, classes)}")
    say(console, f"            {other}")


def _program(result: Mapping[str, Any]) -> str:
    """How steps were taken, where it was not one operation after the other."""
    kind = result["environment"].get("program", "eager")  # absent from results of earlier versions
    return f", {kind}" if kind != "eager" else ""
