"""What metarun needs of Hydra and Hydra does not offer publicly; tests/test_private_interfaces.py says when it breaks."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig


def flags_parser() -> argparse.ArgumentParser:
    """Hydra's own parser of its flags (`-m`, `--cfg`, ...) and of the overrides between them."""
    return get_args_parser()


def run_composed_once(task: Callable[[DictConfig], Any], conf: Path, overrides: Sequence[str]) -> None:
    """What `hydra.main` does for a single run without flags, which composes one time more to see whether this is a sweep.

    Args:
        conf: folder holding config.yaml.
    Raises:
        Exception: it is one, as a file says so (`hydra.mode`), or does not compose; `task` has not been called then.
    """
    with initialize_config_dir(str(conf), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None, "initialized in the line above"
        hydra.run(config_name="config", task_function=task, overrides=list(overrides))


def files_of(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """The files that these overrides compose, in the order in which they are merged: ("algorithm/maml", "algorithm").

    Hydra must be initialized. A package is where the content of a file goes, "" for the top.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "the caller has initialized it"
    made = hydra.config_loader.compute_defaults_list("config", list(overrides), RunMode.RUN)
    return [(str(entry.config_path), entry.package or "") for entry in made.defaults if entry.config_path]
