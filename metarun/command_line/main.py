"""The command `metarun`: help, subcommands, and otherwise Hydra's main around `metarun.commands.run.run`.

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

import argparse
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from metarun import __version__
from metarun.command_line.plain_text import write_every_character
from metarun.configuration.config_folder import config_folder, groups
from metarun.configuration.importing import look_in_current_folder
from metarun.errors import ConfigurationError, SweepError, TrainingError
from metarun.train.stopping import StoppedOutsideTraining, answering_signals

if TYPE_CHECKING:
    from omegaconf import DictConfig


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
    full_error = _wants_traceback()
    look_in_current_folder()
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


def evaluate(arguments: list[str]) -> None:
    """`metarun evaluate RUN_DIR [KEY=VALUE ...] [--allow CLASS]`.

    Raises:
        ConfigurationError: RUN_DIR is no folder, or a word after it is not KEY=VALUE.
    """
    parser = _parser("evaluate")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a finished run")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="change what the run's configuration says"
    )
    parser.add_argument(
        "--allow",
        metavar="CLASS",
        action="append",
        default=[],
        help="a class of yours that RUN_DIR may name; repeatable",
    )
    parsed = parser.parse_intermixed_args(arguments)
    if not parsed.run_dir.is_dir():
        raise ConfigurationError(f"metarun evaluate needs the folder of a run, and {parsed.run_dir} is not a folder.")
    for override in parsed.overrides:
        if "=" not in override:
            raise ConfigurationError(f"after RUN_DIR come KEY=VALUE pairs, and {override!r} has no '='.")
    from metarun.commands.evaluate import evaluate_run

    evaluate_run(parsed.run_dir, parsed.overrides, parsed.allow)


def submit(arguments: list[str]) -> None:
    """`metarun submit [--dry-run] [KEY=VALUE ...]`: a sweep whose launcher is Slurm, and does not wait.

    Raises:
        ConfigurationError: as for a sweep; a launcher that is not one of Slurm's.
    """
    words = [word for word in arguments if word not in ("--dry-run", "-m", "--multirun")]
    chosen = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
    if chosen and not chosen[-1].startswith("slurm"):
        raise ConfigurationError(f"metarun submit needs a launcher of Slurm's, got hydra/launcher={chosen[-1]}.")
    launcher = [] if chosen else ["hydra/launcher=slurm_cpu"]
    how = ["hydra.launcher.wait=false", *(["hydra.launcher.dry_run=true"] if "--dry-run" in arguments else [])]
    if {"-h", "--help"} & {*words}:
        _parser("submit").parse_args(["--help"])
    _hydra(["-m", *launcher, *words, *how], _run)


def status(arguments: list[str]) -> None:
    """`metarun status DIR`.

    Raises:
        ConfigurationError: DIR holds no sweep.
    """
    parser = _parser("status")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of a sweep, or of several")
    parsed = parser.parse_args(arguments)
    from metarun.commands.status import show_status

    show_status(parsed.folder)


def report(arguments: list[str]) -> None:
    """`metarun report DIR ... [--rows KEY,...] [--cols KEY,...] [...]`.

    Raises:
        ConfigurationError: a folder that is none or holds no runs, or a key that no run has.
    """
    from metarun.commands import report as command

    parser = _parser("report")
    parser.add_argument("dirs", metavar="DIR", type=Path, nargs="+", help="folders with runs in them, at any depth")
    keys = {"metavar": "KEY,...", "action": "append", "default": []}
    parser.add_argument(
        "--rows", **keys, help="what a row is: groups or keys; by default whatever tells the runs apart"
    )
    parser.add_argument("--cols", **keys, help="what a column is; inner_steps makes one for each measured number")
    parser.add_argument("--where", metavar="KEY=VALUE", action="append", default=[], help="only these runs; repeatable")
    parser.add_argument("--baseline", metavar="ROW", help="the row to take paired differences to; by default the first")
    parser.add_argument(
        "--steps", metavar="N", type=int, help="score after N inner steps, instead of each run's own number"
    )
    parser.add_argument("--format", choices=command.FORMATS, default="terminal", help="of what is printed")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="draw PNG files into this folder")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained page")
    parsed = parser.parse_args(arguments)
    command.report(
        parsed.dirs,
        rows=[key for keys in parsed.rows for key in keys.split(",") if key],
        columns=[key for keys in parsed.cols for key in keys.split(",") if key],
        where=parsed.where,
        baseline=parsed.baseline,
        inner_steps=parsed.steps,
        form=parsed.format,
        html=parsed.html,
        figures=parsed.figures,
        command=shlex.join(["metarun", "report", *arguments]),
    )


def ls(arguments: list[str]) -> None:
    """`metarun ls [DIR] [--state STATE]`.

    Raises:
        ConfigurationError: DIR is no folder.
    """
    from metarun.commands import report as command

    parser = _parser("ls")
    parser.add_argument("dir", metavar="DIR", type=Path, nargs="?", help="by default outputs/, or METARUN_OUTPUTS")
    parser.add_argument(
        "--state", choices=command.STATES, action="append", default=[], help="only runs of this state; repeatable"
    )
    parsed = parser.parse_args(arguments)
    command.ls(parsed.dir, states=parsed.state)


def data(arguments: list[str]) -> None:
    """`metarun data list | check NAME | prepare NAME [KEY=VALUE ...]`.

    Raises:
        ConfigurationError: another verb, no name, or what the verb found.
    """
    parser = _parser("data")
    parser.add_argument("verb", choices=("list", "check", "prepare"), help="what to do")
    parser.add_argument("words", metavar="NAME [KEY=VALUE ...]", nargs="*", default=[], help="a data set, and settings")
    parsed = parser.parse_args(arguments)
    name = parsed.words.pop(0) if parsed.words and "=" not in parsed.words[0] else None
    for override in parsed.words:
        if "=" not in override:
            raise ConfigurationError(f"metarun data takes one name and KEY=VALUE pairs, and {override!r} is neither.")
    if (name is None) != (parsed.verb == "list"):
        needs = "takes no name" if parsed.verb == "list" else "needs the name of a data set (metarun data list)"
        raise ConfigurationError(f"metarun data {parsed.verb} {needs}.")
    from metarun.commands.data import check_set, list_sets, prepare_set

    if name is None:
        list_sets(parsed.words)
    else:
        {"check": check_set, "prepare": prepare_set}[parsed.verb](name, parsed.words)


def gradients(arguments: list[str]) -> None:
    """`metarun gradients [KEY=VALUE ...]`.

    Raises:
        ConfigurationError: several configurations at once, or whatever a run would refuse.
    """
    if "--help" in arguments or "-h" in arguments:
        _parser("gradients").print_help()
        return
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigurationError("metarun gradients takes one configuration at a time: leave out -m.")
    _hydra(arguments, _gradients)


# name -> (usage after the name, one line for --help, function of the arguments after the name)
SUBCOMMANDS: dict[str, tuple[str, str, Callable[[list[str]], None]]] = {
    "evaluate": (
        "RUN_DIR [KEY=VALUE ...] [--allow CLASS]",
        "judge a trained run again, on other tasks if you like",
        evaluate,
    ),
    "submit": ("[--dry-run] [KEY=VALUE ...]", "put a sweep into Slurm's queue and return", submit),
    "status": ("DIR", "how a sweep stands, from its files alone", status),
    "report": (
        "DIR ... [--rows KEY] [--cols KEY] [--html FILE] [...]",
        "compare runs: tables, figures, a page",
        report,
    ),
    "ls": ("[DIR] [--state STATE]", "list runs: state, score, age, command", ls),
    "data": ("list | check NAME | prepare NAME", "which data sets are here; get, check and pack one", data),
    "gradients": (
        "[KEY=VALUE ...]",
        "hold the meta-gradient's estimators against the exact one: how many CG steps?",
        gradients,
    ),
}


def _dispatch(arguments: list[str]) -> None:
    first = arguments[0] if arguments else ""
    if first == "_job":  # one job of a sweep, as a launcher starts it
        from metarun.commands.job import run_job

        run_job(Path(arguments[1]), int(arguments[2]))
    elif first in SUBCOMMANDS:
        SUBCOMMANDS[first][2](arguments[1:])
    elif re.fullmatch(r"[A-Za-z][\w-]*", first):
        from metarun.configuration.suggest import unknown_word

        raise ConfigurationError(unknown_word(first, list(SUBCOMMANDS), groups(config_folder())))
    elif "--version" in arguments:
        print(f"metarun {__version__}")
    elif "--help" in arguments or "-h" in arguments:
        from metarun.command_line.help import print_help

        print_help(config_folder(), {f"{name} {usage}": line for name, (usage, line, _) in SUBCOMMANDS.items()})
    else:
        _hydra(arguments, _run)


def _hydra(arguments: list[str], task: Callable[["DictConfig"], Any]) -> None:
    """Hydra's main around `task`, its errors turned into `ConfigurationError`."""
    import hydra
    from hydra.errors import InstantiationException

    from metarun.configuration.suggest import COMPOSITION_ERRORS, check, explain, parse

    conf = config_folder()
    parsed = parse(arguments)
    is_query = parsed.shell_completion and any(word.startswith("query=") for word in parsed.overrides)
    if is_query and _completes_subcommand(os.environ.get("COMP_LINE", "")):
        return
    if not parsed.shell_completion:
        check(parsed, conf)
    flags = list(arguments)
    for override in parsed.overrides:
        flags.remove(override)
    composed = False

    def task_once_composed(cfg: "DictConfig") -> Any:
        nonlocal composed
        composed = True
        return task(cfg)

    try:
        # Overrides first: Hydra's parser rejects those that follow a flag that follows an override.
        with _process([*parsed.overrides, *flags]):
            hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(task_once_composed)()
    except _Stopped as stopped:
        if not isinstance(stopped.error, COMPOSITION_ERRORS):
            raise stopped.error from stopped.error.__cause__
        raise ConfigurationError(explain(stopped.error, arguments, conf)) from stopped.error
    except InstantiationException:
        raise  # build.py explains those that are the user's; any other is a bug and keeps its traceback
    except (ConfigurationError, TrainingError, SweepError):
        raise
    except Exception as error:
        if is_query:
            return  # half a word need not compose, and a message would land in the middle of what is being typed
        # Composing reads nothing but the user's words and files, and Hydra lets through whatever they make Python raise.
        of_machine = isinstance(error, OSError) and error.errno is not None
        if isinstance(error, COMPOSITION_ERRORS) or not (composed or parsed.multirun or of_machine):
            raise ConfigurationError(explain(error, arguments, conf)) from error
        raise


def _run(cfg: "DictConfig") -> Any:
    from metarun.commands.run import run

    return _guarded(run, cfg)


def _gradients(cfg: "DictConfig") -> None:
    from metarun.commands.gradients import compare

    _guarded(compare, cfg)


def _guarded(task: Callable[["DictConfig"], Any], cfg: "DictConfig") -> Any:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from metarun.configuration.suggest import COMPOSITION_ERRORS

    try:
        return task(cfg)
    except (ConfigurationError, TrainingError, OSError, *COMPOSITION_ERRORS) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra names the job, and the other jobs go on
        raise _Stopped(error) from error


class _Stopped(BaseException):
    """Carries an error past Hydra, which would otherwise write a line of its own ahead of our one line."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _process(arguments: list[str]) -> Iterator[None]:
    """The process as Hydra's main needs it: it reads `sys.argv`, and raises only when HYDRA_FULL_ERROR is 1.

    Runs that this process starts inherit HYDRA_FULL_ERROR, so what the user had asked for is passed on beside it.
    """
    before = sys.argv, {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", "METARUN_FULL_ERROR")}
    # Under `python -m metarun` the installed completion would otherwise be one for "python".
    program = "metarun" if os.path.basename(sys.argv[0]) == "__main__.py" else sys.argv[0]
    sys.argv = [program, *arguments]
    os.environ |= {"METARUN_FULL_ERROR": str(int(_wants_traceback())), "HYDRA_FULL_ERROR": "1"}
    try:
        yield
    finally:
        sys.argv = before[0]
        for name, value in before[1].items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wants_traceback() -> bool:
    """Whether the user set HYDRA_FULL_ERROR=1, here or where the process that started this one was started."""
    return os.environ.get("METARUN_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR")) == "1"


def _completes_subcommand(line: str) -> bool:
    """Print the subcommands that the first word of a half-typed `line` may become; True if Hydra has no more to say.

    After `gradients` come Hydra's own words, and it is told a line without it; after any other subcommand come files, which
    the shell completes itself.
    """
    words = line.split()[1:]
    if words[:1] == ["gradients"] and (len(words) > 1 or line.endswith(" ")):
        os.environ["COMP_LINE"] = line.replace(" gradients", "", 1)
        return False
    if words and words[0] in SUBCOMMANDS and (len(words) > 1 or line.endswith(" ")):
        return True
    if not words or (len(words) == 1 and not line.endswith(" ")):
        prefix = words[0] if words else ""
        print(*(name for name in SUBCOMMANDS if name.startswith(prefix)))
    return False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{self.prog}: {message}. {self.format_usage().strip()}")


def _parser(name: str) -> _Parser:
    usage, line, _ = SUBCOMMANDS[name]
    sentence = f"{line[0].upper()}{line[1:]}" + ("" if line.endswith("?") else ".")
    return _Parser(prog=f"metarun {name}", usage=f"metarun {name} {usage}", description=sentence)


def _report(message: str, status: int) -> int:
    from metarun.console.terminal import say, terminal

    say(terminal(stderr=True), ("metarun: error: " if status < 128 else "metarun: ", "bold red"), message)
    return status
