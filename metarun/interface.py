"""metarun from Python: what the command line does, as functions. `import metarun` gives them."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarun.command_line.hydra_main import run_hydra
from metarun.commands.run import run_resolved
from metarun.configuration.importing import look_in_current_folder
from metarun.configuration.resolve import resolved
from metarun.configuration.trusted import untrusted_classes
from metarun.console.terminal import terminal
from metarun.errors import ConfigurationError
from metarun.json_text import json_text
from metarun.run_folder.folder import flatten, folder_of
from metarun.trained.run import TrainedRun, load

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from pandas import DataFrame

_WORD = re.compile(r"[A-Za-z_/~][\w./~-]*")
_NOT_TEXTS = {"null", "true", "false", "nan", "inf", "none", "yes", "no", "on", "off"}


def compose(overrides: str | Sequence[str] = (), *, config_dir: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The whole configuration that a command line would run, with every value in place.

    >>> config = compose(["algorithm=imaml", "dataset.shots=5"])
    >>> config["algorithm"]["inner"]["steps"], config["schedule"]["shots"]
    (16, 5)

    Args:
        overrides: KEY=VALUE and GROUP=OPTION, as on the command line; one text, or several.
        config_dir: a folder of your own groups and options beside ours.
    Raises:
        ConfigurationError: they do not compose.
    """
    words = [overrides] if isinstance(overrides, str) else list(overrides)
    for word in words:
        if word.startswith("-") or "=" not in word:
            raise ConfigurationError(f"overrides are KEY=VALUE or GROUP=OPTION, got {word!r}.")
    found: list[dict[str, Any]] = []

    def keep(cfg: "DictConfig") -> None:
        from hydra.core.hydra_config import HydraConfig

        found.append(resolved(cfg, HydraConfig.get()))

    look_in_current_folder()
    run_hydra([*words, *_flags(config_dir)], keep)
    return found[0]


def train(
    configuration: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    config_dir: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train, test, and return the trained run; what has been run already is not run again, as on the command line.

    >>> few = ["schedule.steps=20", "schedule.eval_every=10", "evaluation.tasks=10", "tracker=none"]
    >>> run = train(few, quiet=True)
    >>> [row["inner_steps"] for row in run.result["results"]]
    [0, 1, 5, 10]

    Args:
        configuration: overrides as `compose` takes them, or a configuration that it gave, changed or not. What you change is
            taken as an override: what follows from it in the files (`schedule.shots` from `dataset.shots`) follows.
        config_dir: a folder of your own groups and options beside ours.
        quiet: print nothing; else there is a bar, on a terminal and in a notebook, and a table.
    Returns:
        The run, as `load` gives it; `run.result` holds its numbers, `run.path` is its folder.
    Raises:
        ConfigurationError: what was asked for cannot be; nothing was trained.
        TrainingError: training diverged.
    """
    if isinstance(configuration, Mapping):
        overrides = _overrides_of(configuration, config_dir)
    else:
        overrides = [configuration] if isinstance(configuration, str) else list(configuration)
    config = compose(overrides, config_dir=config_dir)
    dirs = [] if config_dir is None else [os.fspath(config_dir)]
    run_resolved(config, overrides, config_dirs=dirs, console=terminal(quiet=quiet))
    return load(folder_of(config).path, allow=untrusted_classes(config))


def results(folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "outputs") -> "DataFrame":
    """The runs in one or several folders as a table of pandas: a row for each run and measured number of inner steps.

    Args:
        folder: where runs or sweeps lie, at any depth.
    Returns:
        Columns `run`, `state`, `dataset`, `algorithm`, `seed`, `inner_steps`, `counts` (whether it is the number that the
        result counts), `score` (its name), `mean`, `ci95`, `std`, `num_tasks`, `train_s`, then as few groups and keys as tell the
        runs apart, and `path`. A run without a result has one row, without numbers.
    Raises:
        ConfigurationError: no such folder, or pandas (the extra `pandas`) is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ConfigurationError("metarun.results needs pandas, which is not installed: pip install pandas.") from error
    from metarun.report.comparison import telling_apart
    from metarun.report.runs import read_runs

    folders = [folder] if isinstance(folder, str | os.PathLike) else list(folder)
    runs = read_runs([Path(each) for each in folders])
    there = [run for run in runs if run.config]
    named = ("dataset", "algorithm")
    keys = [key for key in (telling_apart(there, []) if there else []) if key not in named]
    rows = []
    for run in runs:
        about = {"run": run.path.name, "state": run.state}
        about |= {name: run.choices.get(name) for name in named} | {"seed": run.config.get("seed")}
        settings = {key: run.value(key) for key in keys} | {"path": str(run.path)}
        if run.result is None:
            rows.append(about | settings)
            continue
        scores = run.scores()
        for steps, summary in scores.items():
            numbers = {"inner_steps": steps, "counts": steps == max(scores), "score": run.result["score"]}
            numbers |= {name: summary[name] for name in ("mean", "ci95", "std", "num_tasks")}
            rows.append(about | numbers | {"train_s": run.result.get("train_s")} | settings)
    first = ["run", "state", "dataset", "algorithm", "seed", "inner_steps", "counts", "score"]
    first += ["mean", "ci95", "std", "num_tasks", "train_s"]
    return pandas.DataFrame(rows, columns=[*first, *keys, "path"])


def _flags(config_dir: str | os.PathLike[str] | None) -> list[str]:
    return [] if config_dir is None else ["--config-dir", os.fspath(config_dir)]


def _overrides_of(config: Mapping[str, Any], config_dir: str | os.PathLike[str] | None) -> list[str]:
    """The command line's words that compose a configuration with what was changed in it.

    Raises:
        ConfigurationError: it has no `choices`, so that nothing says which options its parts are, or keys that are not there.
    """
    if not isinstance(config.get("choices"), Mapping):
        raise ConfigurationError(
            "a configuration must be one that metarun.compose gave, with its `choices`, changed as you like."
        )
    choices: list[str] = []
    plain = compose(choices, config_dir=config_dir)
    # From what decides most to what decides least: an option that another one brings along is not named.
    for groups in (("experiment",), ("algorithm", "dataset"), tuple(config["choices"])):
        wanted = [(group, config["choices"].get(group)) for group in groups]
        differing = [
            f"{group}={_word(option)}" for group, option in wanted if option not in (None, plain["choices"].get(group))
        ]
        if differing:
            choices += differing
            plain = compose(choices, config_dir=config_dir)
    plain = flatten(plain)
    given = flatten(config)
    changed = {key: value for key, value in given.items() if not key.startswith("choices.")}
    changed = {key: value for key, value in changed.items() if key not in plain or plain[key] != value}
    return [*choices, *(f"{key}={_word(value)}" for key, value in changed.items())]


def _word(value: Any) -> str:
    """A value as Hydra reads it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_word(item)}' for key, item in value.items())}}}"
    if not isinstance(value, str) or (_WORD.fullmatch(value) and value.lower() not in _NOT_TEXTS):
        return value if isinstance(value, str) else json_text(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
