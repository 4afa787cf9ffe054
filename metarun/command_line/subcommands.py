"""The subcommands of `metarun` and the words that each takes; what does the work is imported when it is called for."""

import argparse
import shlex
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from metarun import __version__
from metarun.command_line.hydra_main import run_hydra
from metarun.errors import ConfigurationError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_ASK = "--ask-parser"


def train(arguments: list[str]) -> None:
    """`metarun [KEY=VALUE ...]`: no subcommand but what the command is for; a sweep with -m.

    Raises:
        ConfigurationError: what was asked for cannot be.
    """
    run_hydra(arguments, _run, _completes)


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


def predict(arguments: list[str]) -> None:
    """`metarun predict RUN_DIR --support FOLDER --query FOLDER|FILE ...`.

    Raises:
        ConfigurationError: no such run, or files that make no task for it.
    """
    parser = _parser("predict")
    _add_task_of_ones_own(parser)
    parser.add_argument(
        "--query", metavar="PATH", type=Path, nargs="+", required=True, help="images, folders of images, or a CSV"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of what is printed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parsed = parser.parse_args(arguments)
    from metarun.trained.predict import predict as run

    run(
        parsed.run_dir,
        parsed.support,
        parsed.query,
        steps=parsed.steps,
        form=parsed.format,
        batch_norm=parsed.batch_norm,
        device=parsed.device,
        allowed=parsed.allow,
    )


def export(arguments: list[str]) -> None:
    """`metarun export RUN_DIR --support FOLDER --to FILE`.

    Raises:
        ConfigurationError: no such run, files that make no task for it, or a file of another ending.
    """
    parser = _parser("export")
    _add_task_of_ones_own(parser)
    parser.add_argument("--to", metavar="FILE", type=Path, required=True, help="model.pt2 or model.onnx")
    parsed = parser.parse_args(arguments)
    from metarun.trained.export import export_run

    export_run(
        parsed.run_dir,
        parsed.support,
        parsed.to,
        steps=parsed.steps,
        batch_norm=parsed.batch_norm,
        allowed=parsed.allow,
    )


def _add_task_of_ones_own(parser: argparse.ArgumentParser) -> None:
    """What `predict` and `export` have in common: a run, and what it is adapted to."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a trained run")
    parser.add_argument(
        "--support", metavar="FOLDER", type=Path, required=True, help="a folder of images for each class, or a CSV"
    )
    parser.add_argument("--steps", metavar="N", type=int, help="inner steps; by default those of the run's result")
    parser.add_argument(
        "--batch-norm",
        choices=("support", "transductive"),
        default="support",
        help="whose statistics normalise a prediction: the support set's, or those of all that are predicted at once",
    )
    parser.add_argument(
        "--allow",
        metavar="CLASS",
        action="append",
        default=[],
        help="a class of yours that RUN_DIR may name; repeatable",
    )


def submit(arguments: list[str]) -> None:
    """`metarun submit [--dry-run] [KEY=VALUE ...]`: a sweep whose launcher is Slurm, and does not wait.

    Raises:
        ConfigurationError: as for a sweep; a launcher that is not one of Slurm's.
    """
    if {"-h", "--help", _ASK} & {*arguments}:
        parser = _parser("submit")
        parser.add_argument(
            "--dry-run", action="store_true", help="print the script; neither write nor submit anything"
        )
        _add_settings(parser)
        parser.parse_args([_ASK if _ASK in arguments else "--help"])
    words = [word for word in arguments if word not in ("--dry-run", "-m", "--multirun")]
    chosen = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
    if chosen and not chosen[-1].startswith("slurm"):
        raise ConfigurationError(f"metarun submit needs a launcher of Slurm's, got hydra/launcher={chosen[-1]}.")
    launcher = [] if chosen else ["hydra/launcher=slurm_cpu"]
    how = ["hydra.launcher.wait=false", *(["hydra.launcher.dry_run=true"] if "--dry-run" in arguments else [])]
    run_hydra(["-m", *launcher, *words, *how], _run)


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
    parser.add_argument("--baseline", metavar="ROW", help="the row to take paired differences to; none without")
    parser.add_argument(
        "--sort",
        metavar="NAME",
        help="order of the rows: score, a key of the rows, a column or train_s; with :asc or :desc",
    )
    parser.add_argument(
        "--evaluations",
        action="store_true",
        help="show what metarun evaluate has stored, too; trained_on and tested_on may then be rows or columns",
    )
    parser.add_argument(
        "--interval",
        choices=command.INTERVALS,
        help="which one stands in LaTeX's cells; seeds where there are two or more",
    )
    parser.add_argument(
        "--steps", metavar="N", type=int, help="score after N inner steps, instead of each run's own number"
    )
    parser.add_argument("--format", choices=command.FORMATS, default="terminal", help="of what is printed")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="draw into this folder, as PNG, PDF and SVG files")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained page")
    parsed = parser.parse_args(arguments)
    command.report(
        parsed.dirs,
        rows=[key for keys in parsed.rows for key in keys.split(",") if key],
        columns=[key for keys in parsed.cols for key in keys.split(",") if key],
        where=parsed.where,
        baseline=parsed.baseline,
        sort=parsed.sort,
        evaluations=parsed.evaluations,
        interval=parsed.interval,
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
    states = {"metavar": "STATE", "choices": command.STATES, "action": "append", "default": []}
    parser.add_argument("--state", **states, help=f"only runs of this state; repeatable: {', '.join(command.STATES)}")
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


def doctor(arguments: list[str]) -> None:
    """`metarun doctor`.

    Raises:
        OSError: something that every run needs is missing or broken.
    """
    _parser("doctor").parse_args(arguments)
    from metarun.commands.doctor import examine

    examine()


def completion(arguments: list[str]) -> None:
    """`metarun completion bash|zsh|fish`.

    Raises:
        ConfigurationError: another shell, or none.
    """
    from metarun.command_line.completion_scripts import SCRIPTS

    parser = _parser("completion")
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="the shell that is to read the script")
    print(SCRIPTS[parser.parse_args(arguments).shell], end="")


def version(arguments: list[str]) -> None:
    """`metarun version`."""
    _parser("version").parse_args(arguments)
    print(f"metarun {__version__}")


def gradients(arguments: list[str]) -> None:
    """`metarun gradients [KEY=VALUE ...]`.

    Raises:
        ConfigurationError: several configurations at once, or whatever a run would refuse.
    """
    if {"-h", "--help", _ASK} & {*arguments}:
        parser = _parser("gradients")
        _add_settings(parser)
        parser.parse_args([_ASK if _ASK in arguments else "--help"])
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigurationError("metarun gradients takes one configuration at a time: leave out -m.")
    run_hydra(arguments, _gradients)


def sync(arguments: list[str]) -> None:
    """`metarun sync RUN_DIR ... --to TRACKER [KEY=VALUE ...] [--allow CLASS]`.

    Raises:
        ConfigurationError: no folder of a run, or no such tracker.
    """
    parser = _parser("sync")
    parser.add_argument(
        "words", metavar="RUN_DIR", nargs="+", help="folders of runs; KEY=VALUE: the tracker's settings"
    )
    parser.add_argument("--to", metavar="TRACKER", required=True, help="wandb, tensorboard or mlflow")
    parser.add_argument(
        "--allow",
        metavar="CLASS",
        action="append",
        default=[],
        help="a tracker of yours that RUN_DIR may name; repeatable",
    )
    parsed = parser.parse_intermixed_args(arguments)
    overrides = [word for word in parsed.words if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in parsed.words if word not in overrides]
    for path in folders:
        if not path.is_dir():
            raise ConfigurationError(f"metarun sync needs folders of runs, and {path} is not a folder.")
    if not folders:
        raise ConfigurationError("metarun sync needs the folder of a run.")
    from metarun.commands.sync import sync as send

    send(folders, parsed.to, overrides, parsed.allow)


# name -> (usage after the name, one line for --help, function of the arguments after the name)
SUBCOMMANDS: dict[str, tuple[str, str, Callable[[list[str]], None]]] = {
    "evaluate": (
        "RUN_DIR [KEY=VALUE ...] [--allow CLASS]",
        "test a trained run again, on other tasks if you like",
        evaluate,
    ),
    "predict": (
        "RUN_DIR --support FOLDER --query PATH ...",
        "adapt a trained model to images or numbers of your own",
        predict,
    ),
    "export": ("RUN_DIR --support FOLDER --to FILE", "the adapted model as model.pt2 or model.onnx", export),
    "submit": ("[--dry-run] [KEY=VALUE ...]", "put a sweep into Slurm's queue and return", submit),
    "status": ("DIR", "how a sweep stands, from its files alone", status),
    "report": (
        "DIR ... [--rows KEY] [--cols KEY] [--html FILE] [...]",
        "compare runs: tables, figures, a page",
        report,
    ),
    "ls": ("[DIR] [--state STATE]", "list runs: state, score, age, command", ls),
    "sync": ("RUN_DIR ... --to TRACKER [KEY=VALUE ...]", "send a run's record to a tracker later", sync),
    "data": ("list | check NAME | prepare NAME", "which data sets are here; get, check and pack one", data),
    "gradients": (
        "[KEY=VALUE ...]",
        "hold the meta-gradient's estimators against the exact one: how many CG steps?",
        gradients,
    ),
    "doctor": ("", "what is here: Python, PyTorch, GPU, compiler, extras, data sets, folders, W&B, Slurm", doctor),
    "completion": (
        "bash | zsh | fish",
        'print the script of tab completion: eval "$(metarun completion bash)"',
        completion,
    ),
    "version": ("", "print the version", version),
}


def _run(cfg: "DictConfig") -> Any:
    from metarun.commands.run import run

    return run(cfg)


def _gradients(cfg: "DictConfig") -> None:
    from metarun.commands.gradients import compare

    compare(cfg)


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a subcommand's words: the subcommand makes it, and is asked for it, so that each is written once."""
    try:
        SUBCOMMANDS[name][2]([_ASK])
    except _Asked as asked:
        return asked.parser
    raise TypeError(f"metarun {name} parses its words without `_parser`")


def _completes(line: str) -> bool:
    """Print what the last word of a half-typed `line` may become, as `-sc query=bash` does; there is nothing more to say."""
    from metarun.command_line.completion import candidates

    print(*(candidate.word for candidate in candidates(line)), sep="\n")
    return True


class _Asked(Exception):
    """Carries the parser to whoever asked for it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


class _Ask(argparse.Action):
    """What `--help` is to a person, for `parser_of`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise _Asked(parser)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{self.prog}: {message}. {' '.join(self.format_usage().split())}")


def _parser(name: str) -> _Parser:
    usage, line, _ = SUBCOMMANDS[name]
    sentence = f"{line[0].upper()}{line[1:]}" + ("" if line.endswith("?") else ".")
    width = shutil.get_terminal_size().columns - 2  # as argparse has it, which does not wrap a usage that it is given
    form = textwrap.fill(f"usage: metarun {name} {usage}", width, subsequent_indent=" " * 9, break_on_hyphens=False)
    parser = _Parser(prog=f"metarun {name}", usage=form.removeprefix("usage: "), description=sentence)
    parser.add_argument(_ASK, action=_Ask, nargs=0, help=argparse.SUPPRESS)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The words that Hydra reads, for help and completion."""
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", help="as for a run: metarun --help")
    parser.add_argument("--config-dir", metavar="DIR", help="your own groups and options beside ours")
