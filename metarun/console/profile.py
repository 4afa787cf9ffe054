"""Where the time of a step goes, as a table."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from metarun.console.terminal import say
from metarun.training.profile import Profile


def show_profile(console: Console, profile: Profile, trace: Path) -> None:
    """The stages of the mean step, and where its trace lies."""
    say(console, ("\na step of training", "bold"), f"  {1000 * profile.step_s:.2f} ms, the mean of {profile.steps}")
    console.print(profile_table(profile))
    say(console, ("trace", "bold"), f"  {trace} (open it at https://ui.perfetto.dev)")


def profile_table(profile: Profile) -> Table:
    """One row for each stage, and their sum."""
    table = Table(show_footer=True)
    table.add_column("stage", "step")
    table.add_column("ms", f"{1000 * profile.step_s:.2f}", justify="right")
    table.add_column("share", "100.0 %", justify="right")
    table.add_column(profile.unit, f"{sum(row.operations for row in profile.stages):.0f}", justify="right")
    for row in profile.stages:
        table.add_row(row.stage, f"{1000 * row.seconds:.2f}", f"{100 * row.share:.1f} %", f"{row.operations:.0f}")
    return table
