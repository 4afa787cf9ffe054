"""Command lines to copy: the one that made a run, and the ones to give next."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarun.configuration.config_folder import config_folder

_OF_THE_ALGORITHM = ("algorithm", "optimizer", "lr_schedule", "gradients", "reference", "experiment")
_OF_THE_RUN = ("run.folder", "run.overwrite", "profile", "figures.video")


def config_dirs(hydra: Any) -> list[str]:
    """The folders that `--config-dir` added to the configuration's, whole, from Hydra's own configuration."""
    sources = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return [path.removeprefix("file://") for path in sources]


def command_line(overrides: Sequence[str], config_dirs: Sequence[str], *words: str) -> str:
    """The line to copy: `metarun`, then `words`, where else configuration comes from, and what was overridden."""
    folders = [word for path in config_dirs for word in ("--config-dir", path)]
    return shlex.join(["metarun", *words, *folders, *overrides])


def path_word(path: Path) -> str:
    """A path as a command line takes it: one that begins with a dash would be an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def evaluation(folder: Path, protocol: Mapping[str, Any], classes: Sequence[str] = ()) -> str:
    """The line that tests a run again: after more inner steps or, where one step is all there is, on more tasks.

    Args:
        protocol: of its result.
        classes: those of the user's that the run's configuration names.
    """
    steps = protocol["headline_inner_steps"]
    change = f"evaluation.inner_steps=[0,{2 * steps}]" if steps > 1 else f"evaluation.tasks={2 * protocol['tasks']}"
    allowed = [word for name in classes for word in ("--allow", name)]
    return shlex.join(["metarun", "evaluate", path_word(folder), *allowed, change])


def other_algorithm(config: Mapping[str, Any], overrides: Sequence[str], config_dirs: Sequence[str]) -> str:
    """The line that trains another algorithm on the same data with the same model, and otherwise as this run.

    What was said of this run's algorithm, its optimizer and its folder is left out. So is an experiment, which is made for its
    algorithm: the data set and model that it chose are named instead, with what its file says of them.

    Args:
        config: the run's resolved configuration.
        overrides: its words on the command line.
        config_dirs: folders of configuration beside ours.
    """
    keys = {word: word.partition("=")[0].lstrip("+~").partition("@")[0] for word in overrides}
    kept = [
        w for w, key in keys.items() if re.split(r"[./]", key)[0] not in _OF_THE_ALGORITHM and key not in _OF_THE_RUN
    ]
    choices, path = config["choices"], config["dataset"].get("path")
    named = {"dataset": choices["dataset"]}
    if "experiment" in keys.values():
        said = {"dataset.path": path} if isinstance(path, str) else {}
        said |= _said_of_data_and_model(choices.get("experiment"), config_dirs)
        named |= {"model": choices["model"]} | {key: _written(value) for key, value in said.items()}
    words = [f"{key}={value}" for key, value in named.items() if key not in keys.values()]
    algorithm = "imaml" if choices["algorithm"] != "imaml" else "maml"
    return command_line([f"algorithm={algorithm}", *words, *kept], config_dirs)


def _said_of_data_and_model(experiment: Any, config_dirs: Sequence[str]) -> dict[str, Any]:
    """The keys of `dataset` and `model` that an experiment's own file sets, dotted; none where it cannot be read."""
    for folder in (*map(Path, config_dirs), config_folder()):
        try:
            content = yaml.safe_load((folder / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        groups = {key: content.get(key) for key in ("dataset", "model")} if isinstance(content, dict) else {}
        return {key: value for group in groups.items() for key, value in _leaves(*group)}
    return {}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    elif value is not None or "." in key:
        yield key, value


def _written(value: Any) -> str:
    """A value as Hydra's grammar reads it back."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A text as Hydra's grammar reads it back."""
    if re.fullmatch(r"[\w./~-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
