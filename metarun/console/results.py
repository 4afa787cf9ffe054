"""What a run prints before it begins and at its end: what will run, its results as a table, and what to do next."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from metarun.console.terminal import say
from metarun.console.words import amount, clock_words, collected_words, interval
from metarun.maths.stats import count_words, has_score
from metarun.run_folder.folder import RunFolder


def header(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """What will run, as a panel of name and value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, value)
    console.print(Panel(table, title=Text("metarun", "bold"), title_align="left", border_style="cyan"))


def results(console: Console, result: dict[str, Any]) -> None:
    """Print the measured scores after each number of inner steps, under one line that says how they were measured."""
    protocol = result["protocol"]
    ways = f"{protocol['ways']}-way " if protocol["ways"] else ""
    per_class = " per class" if ways else ""
    sizes = f"{ways}{protocol['shots']}-shot, {protocol['tasks']} tasks, {protocol['queries']} queries{per_class}"
    examples = protocol.get("examples", "examples")  # absent from results of earlier versions
    if examples != "examples":
        sizes = f"{protocol['tasks']} tasks, {collected_words(protocol['shots'], protocol['queries'], examples)}"
    say(
        console,
        (f"\n{protocol['dataset']} {protocol['split']}", "bold"),
        f"  {sizes}, batch norm: {protocol['batch_norm']}",
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
        f"{clock_words(result['train_s'])} ({1000 * result['step_s']:.1f} ms a step{_program(result)}), "
        f"tested {result['test_s']:.1f} s, "
        f"peak memory {result['peak_memory_mib']:.0f} MiB{added}",
        soft_wrap=True,
    )
    for words in result.get("lost", ()):  # absent from results of earlier versions
        say(console, ("lost:", "yellow"), f" {words}")
    for program in result["environment"].get("sources", [])[1:]:
        say(console, ("note", "bold"), f": the classes of your own changed after step {program['step']}")
    figures = sorted(path.name for path in folder.figures.iterdir() if path.suffix in (".png", ".gif"))
    say(console, ("run folder", "bold"), f"  {folder.path}")
    say(console, ("figures", "bold"), f"     {', '.join(f'figures/{figure}' for figure in figures)}")
    words = shlex.join([str(folder.path), *(word for name in classes for word in ("--allow", name))])
    more = protocol["headline_inner_steps"] * 2
    say(console, ("next", "bold"), f"        metarun evaluate {words} evaluation.inner_steps=[0,{more}]")
    say(console, f"            {other}")


def _program(result: Mapping[str, Any]) -> str:
    """How steps were taken, where it was not one operation after the other."""
    kind = result["environment"].get("program", "eager")  # absent from results of earlier versions
    return f", {kind}" if kind != "eager" else ""
