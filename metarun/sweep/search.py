"""Random and TPE search: Optuna through Hydra's plugin for it, with the validation score as the objective."""

import contextlib
import logging
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun import checks
from metarun.command_line import command_line, config_dirs
from metarun.errors import ConfigurationError
from metarun.sweep.launch import Launch
from metarun.sweep.plan import compose, direction
from metarun.sweep.state import DONE


def search(
    sweep: Launch,
    master: DictConfig,
    context: HydraContext,
    arguments: Sequence[str],
    params: Any,
    *,
    sampler: str,
    n_trials: int,
    n_jobs: int,
    seed: int,
    startup: int,
    direction: str,
) -> None:
    """Search the ranges in `arguments` and `params`, and say which run was best as a command to copy.

    The study is kept in no file of its own: its proposals follow from the seed and from the scores before them, so that
    the same command proposes the same again, and finished runs answer from their folders.

    Raises:
        ConfigurationError: Optuna is missing, or a setting cannot be.
        SweepError: a trial gave no result; the others went on.
    """
    goal = _checked(sweep, master, context, arguments, sampler, n_trials, n_jobs, seed, startup, direction)
    try:
        import optuna
        from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
    except ImportError as error:
        raise ConfigurationError(
            "a search needs Optuna, and it is not installed: pip install -c constraints.txt -e '.[optuna]'"
        ) from error
    samplers = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    study = OptunaSweeperImpl(samplers[sampler](), goal, None, None, n_trials, n_jobs, 1.0, None, None, params)
    config = OmegaConf.create(OmegaConf.to_container(master))
    with open_dict(config):
        config.hydra.sweep.dir = str(sweep.folder)
    study.config, study.hydra_context, study.launcher = config, context, _Trials(sweep)
    with _quiet(), contextlib.suppress(_NoTrial):
        try:
            study.sweep(list(arguments))
        except ValueError as error:
            if "No trials are completed" in str(error):
                raise _NoTrial from error
            raise
    sweep.close(_best(sweep, goal, config_dirs(master.hydra)))


class _NoTrial(Exception):
    """Every trial failed: there is no best one, and `close` says the rest."""


class _Trials:
    """The launcher that Optuna's sweeper talks to: a trial that cannot be, or fails, is told to the study as failed."""

    def __init__(self, sweep: Launch) -> None:
        self._sweep = sweep

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        returns = self._sweep.batch(job_overrides, initial_job_idx, all_or_none=False)
        for done in returns:
            if done.status == JobStatus.FAILED:
                # What is no number is a failed trial. An exception would be one too, and be written to the terminal.
                done.status, done.return_value = JobStatus.COMPLETED, None
        return returns


def _checked(
    sweep: Launch,
    master: DictConfig,
    context: HydraContext,
    arguments: Sequence[str],
    sampler: str,
    n_trials: int,
    n_jobs: int,
    seed: int,
    startup: int,
    goal: str,
) -> str:
    try:
        checks.one_of("sampler", sampler, ("tpe", "random"))
        checks.one_of("direction", goal, ("auto", "minimize", "maximize"))
        for name, value, minimum in (("n_trials", n_trials, 1), ("n_jobs", n_jobs, 1), ("startup", startup, 0)):
            checks.integer(name, value, minimum=minimum)
        checks.integer("seed", seed, minimum=0)
    except ValueError as error:
        raise ConfigurationError(f"hydra.sweeper: {error}") from error
    if not sweep.waits:
        raise ConfigurationError(
            "a search must see each score before it goes on: with hydra/sweeper=tpe or random use metarun -m, "
            "not metarun submit (hydra.launcher.wait must be true)."
        )
    fixed = [word for word in arguments if word in _fixed_words(arguments)]
    return direction(compose(context.config_loader, master, fixed)[0]) if goal == "auto" else goal


def _fixed_words(arguments: Sequence[str]) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(arguments))
    return [str(override.input_line) for override in parsed if not override.is_sweep_override()]


def _best(sweep: Launch, goal: str, folders: Sequence[str]) -> list[str]:
    """The best trial in words, and its command."""
    done = [(sweep.states[job.index].value, job) for job in sweep.jobs if sweep.states[job.index].state == DONE]
    scored = [(value, job) for value, job in done if value is not None and math.isfinite(value)]
    if not scored:
        return []
    choose = max if goal == "maximize" else min
    value, best = choose(scored, key=lambda pair: pair[0])
    return [
        f"best of {len(sweep.jobs)} trials by validation: {value:.4g}, {best.label}: {best.folder}",
        command_line(best.overrides, folders),
    ]


@contextlib.contextmanager
def _quiet() -> Any:
    """Optuna and its sweeper report each trial on the log; the table does so already."""
    import optuna

    names = ("hydra_plugins.hydra_optuna_sweeper._impl", "optuna")
    before = {name: logging.getLogger(name).level for name in names}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
