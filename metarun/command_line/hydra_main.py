"""Hydra's main around a function of ours: Hydra composes, and says nothing of its own when something cannot be."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metarun.configuration.config_folder import config_folder
from metarun.errors import ConfigurationError, SweepError, TrainingError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_hydra(
    arguments: list[str],
    task: Callable[["DictConfig"], Any],
    completes: Callable[[str], bool] = lambda line: False,
) -> None:
    """Hydra's main around `task`, its errors turned into `ConfigurationError`.

    Args:
        completes: for tab completion, told the half-typed line: prints what it may become, and says whether that is all.
    """
    import hydra
    from hydra.errors import InstantiationException

    from metarun.configuration.explain import COMPOSITION_ERRORS, explain
    from metarun.configuration.hydra_private import run_composed_once
    from metarun.configuration.overrides import check, parse

    conf = config_folder()
    parsed = parse(arguments)
    is_query = parsed.shell_completion and any(word.startswith("query=") for word in parsed.overrides)
    if is_query and completes(os.environ.get("COMP_LINE", "")):
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
        return _guarded(task, cfg)

    try:
        # Overrides first: Hydra's parser rejects those that follow a flag that follows an override.
        with _as_hydra_needs_it([*parsed.overrides, *flags]):
            if not flags and not any(word.lstrip("+~").startswith("hydra") for word in parsed.overrides):
                try:
                    return run_composed_once(task_once_composed, conf, parsed.overrides)
                except Exception:
                    if composed:
                        raise
                    # It does not compose, or a file makes it a sweep (`hydra.mode`): Hydra's own way tells which.
            hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(task_once_composed)()
    except _Stopped as stopped:
        if not isinstance(stopped.error, COMPOSITION_ERRORS):
            raise stopped.error from stopped.error.__cause__
        raise ConfigurationError(explain(stopped.error, arguments, conf)) from stopped.error
    except InstantiationException:
        raise  # `make` explains those that are the user's; any other is a bug and keeps its traceback
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


def _guarded(task: Callable[["DictConfig"], Any], cfg: "DictConfig") -> Any:
    """`task(cfg)`; what it raises for a person to read passes Hydra by."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from metarun.configuration.explain import COMPOSITION_ERRORS

    try:
        return task(cfg)
    except (ConfigurationError, TrainingError, OSError, *COMPOSITION_ERRORS) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra names the job, and the other jobs go on
        raise _Stopped(error) from error


def wants_traceback() -> bool:
    """Whether the user set HYDRA_FULL_ERROR=1, here or where the process that started this one was started."""
    return os.environ.get("METARUN_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR")) == "1"


class _Stopped(BaseException):
    """Carries an error past Hydra, which would otherwise write a line of its own ahead of our one line."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _as_hydra_needs_it(arguments: list[str]) -> Iterator[None]:
    """The process as Hydra's main needs it: it reads `sys.argv`, and raises only when HYDRA_FULL_ERROR is 1.

    Runs that this process starts inherit HYDRA_FULL_ERROR, so what the user had asked for is passed on beside it.
    """
    before = sys.argv, {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", "METARUN_FULL_ERROR")}
    # Under `python -m metarun` the installed completion would otherwise be one for "python".
    program = "metarun" if os.path.basename(sys.argv[0]) == "__main__.py" else sys.argv[0]
    sys.argv = [program, *arguments]
    os.environ |= {"METARUN_FULL_ERROR": str(int(wants_traceback())), "HYDRA_FULL_ERROR": "1"}
    try:
        yield
    finally:
        sys.argv = before[0]
        for name, value in before[1].items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
