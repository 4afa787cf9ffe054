"""`metarun status DIR`: how a sweep stands, from files alone."""

import time
from pathlib import Path

from rich.console import Console

from metarun.configuration.command_text import command_line, path_word
from metarun.console.terminal import say, tell, terminal
from metarun.console.words import clock_words
from metarun.errors import ConfigurationError
from metarun.run_folder.status import FAILED
from metarun.sweep.manifest import NAME, Manifest, read
from metarun.sweep.slurm import submitted
from metarun.sweep.state import DONE, LOST, job_state
from metarun.sweep.view import counts, sweep_table


def show_status(folder: Path) -> None:
    """Print the jobs of a sweep, or one line for each sweep in a folder of sweeps.

    Raises:
        ConfigurationError: neither.
    """
    console = terminal()
    if not (folder / NAME).exists():
        sweeps = sorted(path.parent for path in folder.glob(f"*/{NAME}")) if folder.is_dir() else []
        if not sweeps:
            raise ConfigurationError(
                f"metarun status needs the folder of a sweep, and {folder} has no {NAME}. Sweeps lie in outputs/sweeps/."
            )
        for sweep in sweeps:
            states = [job_state(job) for job in read(sweep).jobs]
            console.print(f"{sweep}  {counts(states)}", soft_wrap=True, markup=False)
        return
    _show(console, read(folder))


def _show(console: Console, manifest: Manifest) -> None:
    rows = [(job, job_state(job)) for job in manifest.jobs]
    console.print(manifest.command, soft_wrap=True, markup=False, style="cyan")
    console.print(sweep_table(rows, console.width))
    tell(console, counts([state for _, state in rows]))
    for job, state in rows:
        if state.state in (FAILED, LOST):
            tell(console, f"  {job.label}: {state.error or 'no sign of life'}", indent=5)
            say(console, f"     {job.log}")
    array = submitted(manifest.folder)
    if array is not None:
        age = clock_words(time.time() - array.time)
        tell(console, f"Slurm array {array.id}, submitted {age} ago")
    if any(state.state in (FAILED, LOST) for _, state in rows):
        tell(console, "The same command runs what is missing, from its checkpoints.")
    elif all(state.state == DONE for _, state in rows):
        say(console, f"run folders: {manifest.jobs[0].folder.parent}")
    if any(state.state == DONE for _, state in rows):
        say(console, ("next", "bold"), f"  {command_line([], [], 'report', path_word(manifest.folder))}")
