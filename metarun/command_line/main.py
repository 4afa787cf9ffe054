"""The command `metarun` begins here: help, a subcommand, or a run.

Nothing here imports torch: help, `--cfg job` and tab completion answer at once. This is also the one place where an
exception becomes words and an exit status:

| status | what happened |
|---|---|
| 0 | done |
| 1 | a bug (full traceback), or, in one line, the machine refused (disk full, permission, a missing file), training
      diverged, or jobs of a sweep failed |
| 2 | the user asked for what cannot be: `ConfigurationError`, or Hydra could not compose (one line) |
| 130 | interrupted by Ctrl-C |
| 128 + n | stopped by signal n: after its step and with a checkpoint, where it was training |

`HYDRA_FULL_ERROR=1` shows the traceback in every case.
"""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from metarun.command_line.hydra_main import wants_traceback
from metarun.command_line.plain_text import write_every_character
from metarun.command_line.subcommands import SUBCOMMANDS, train
from metarun.configuration.config_folder import config_folder, groups
from metarun.configuration.importing import look_in_current_folder
from metarun.device.compiler_on_demand import import_compiler_on_demand
from metarun.errors import ConfigurationError, SweepError, TrainingError
from metarun.training.stopping import StoppedOutsideTraining, answering_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.
    Returns:
        The exit status (table above). Hydra's own `--hydra-help` leaves through `SystemExit(0)`.
    Raises:
        Exception: a bug, as it came; the interpreter prints the traceback and exits with status 1.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    full_error = wants_traceback()
    look_in_current_folder()
    import_compiler_on_demand()
    write_every_character()
    try:
        with answering_signals():
            _dispatch(arguments)
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except StoppedOutsideTraining as stopped:
        return _report(stopped.words, int(stopped.code or 1))
    except ConfigurationError as error:
        if full_error:
            traceback.print_exc()
        # Mostly every rank finds the same, but what only one of them lacks is told by nobody else.
        rank = os.environ.get("RANK", "0")
        return _report(str(error) if rank == "0" else f"rank {rank}: {error}", 2)
    except (TrainingError, SweepError) as error:
        if full_error:
            traceback.print_exc()
        return _report(str(error), 1)
    except OSError as error:
        if full_error:
            traceback.print_exc()
        named = error.strerror is not None and error.filename is not None
        return _report(f"{error.strerror}: {error.filename}" if named else str(error) or repr(error), 1)
    return 0


def _dispatch(arguments: list[str]) -> None:
    first = arguments[0] if arguments else ""
    if first == "_complete":  # what a half-typed line may become, as the scripts of `metarun completion` ask
        from metarun.command_line.completion import print_candidates

        print_candidates(arguments[1:])
    elif first == "_job":  # one job of a sweep, as a launcher starts it
        from metarun.commands.job import run_job

        run_job(Path(arguments[1]), int(arguments[2]))
    elif first == "_track":  # one tracker of a run, as the run starts it
        from metarun.tracking.follow import follow

        raise SystemExit(follow())
    elif first in SUBCOMMANDS:
        SUBCOMMANDS[first][2](arguments[1:])
    elif "--version" in arguments:
        SUBCOMMANDS["version"][2]([])
    elif "--help" in arguments or "-h" in arguments:
        _help([word for word in arguments if word not in ("--help", "-h")])
    elif re.fullmatch(r"[A-Za-z][\w-]*", first):
        from metarun.configuration.did_you_mean import unknown_word

        raise ConfigurationError(unknown_word(first, list(SUBCOMMANDS), groups(config_folder())))
    else:
        train(arguments)


def _help(words: list[str]) -> None:
    """`--help`, and what stands beside it: nothing, a folder of the user's, a subcommand, or what is chosen."""
    if words and words[0] in SUBCOMMANDS:
        SUBCOMMANDS[words[0]][2](["--help"])
    elif not words or (words[0].startswith("--config-dir") and len(words) + words[0].count("=") == 2):
        from metarun.command_line.help import print_help

        own = [Path("=".join(words).partition("=")[2])] if words else []
        if not all(folder.is_dir() for folder in own):
            raise ConfigurationError(f"--config-dir must name a folder, and {own[0]} is not one.")
        print_help([config_folder(), *own], {name: line for name, (_, line, _) in SUBCOMMANDS.items()})
    else:
        from metarun.command_line.help_keys import print_keys

        print_keys(words, config_folder(), list(SUBCOMMANDS))


def _report(message: str, status: int) -> int:
    from metarun.console.terminal import tell, terminal

    tell(terminal(stderr=True), ("metarun: error: " if status < 128 else "metarun: ", "bold red"), message)
    return status
