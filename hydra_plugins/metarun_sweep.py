"""What Hydra looks for in the name space `hydra_plugins`: metarun's launchers and sweepers.

Hydra imports this file whenever it starts, so that all that works is imported when it is used. No class here changes what
Hydra's own do: the launchers run each job in a process of its own, the sweepers hand them all jobs at once.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from metarun.sweep.launch import Launch


class Local(Launcher):
    """conf/hydra/launcher/local.yaml: processes of this machine."""

    def __init__(self, jobs: Any, gpus: Any) -> None:
        self.sweep: Launch | None = None  # what was asked is read from the configuration

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        from metarun.sweep.launch import Launch

        self.sweep = Launch(hydra_context.config_loader, config, None)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by sweepers that are not ours."""
        assert self.sweep is not None
        return self.sweep.batch(job_overrides, initial_job_idx, all_or_none=True)


class Slurm(Launcher):
    """conf/hydra/launcher/slurm_*.yaml: the tasks of an array."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}
        self.sweep: Launch | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        from metarun.sweep.launch import Launch
        from metarun.sweep.slurm import settings_from

        self.sweep = Launch(hydra_context.config_loader, config, settings_from(self._settings))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by sweepers that are not ours."""
        assert self.sweep is not None
        return self.sweep.batch(job_overrides, initial_job_idx, all_or_none=True)


class Grid(Sweeper):
    """conf/hydra/sweeper/grid.yaml: every combination of the values, all checked before the first is run."""

    def __init__(self, params: Any) -> None:
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self._launcher = _launcher(hydra_context, task_function, config)
        self._loader = hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from metarun.errors import ConfigurationError

        words = [*_words(self._params), *arguments]
        values: dict[str, list[str]] = {}  # of each key; of two that name the same the later holds
        for override in OverridesParser.create(config_loader=self._loader).parse_overrides(words):
            key = override.get_key_element()
            if not override.is_sweep_override():
                values[key] = [str(override.input_line)]
            elif override.is_discrete_sweep():
                values[key] = [f"{key}={text}" for text in override.sweep_string_iterator()]
            else:
                raise ConfigurationError(
                    f"{override.input_line} is a range and names no values: search it with hydra/sweeper=tpe or "
                    f"hydra/sweeper=random, or write {key}=VALUE,VALUE."
                )
        batch = [list(combination) for combination in itertools.product(*values.values())]
        if not isinstance(self._launcher, Local | Slurm):
            returns = self._launcher.launch(batch, initial_job_idx=0)
            return [done.return_value for done in returns]  # raises what a job raised
        assert self._launcher.sweep is not None
        self._launcher.sweep.batch(batch, 0, all_or_none=True)
        return self._launcher.sweep.close()


class Search(Sweeper):
    """conf/hydra/sweeper/tpe.yaml and random.yaml: Optuna proposes batches of values and learns from their scores."""

    def __init__(
        self, sampler: str, n_trials: int, n_jobs: int, seed: int, direction: str, params: Any, startup: int
    ) -> None:
        self._settings = {
            "sampler": sampler,
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "seed": seed,
            "startup": startup,
            "goal": direction,
        }
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self._loader, self._config = hydra_context.config_loader, config
        self._launcher = _launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra."""
        from metarun.errors import ConfigurationError
        from metarun.sweep.search import search

        if not isinstance(self._launcher, Local | Slurm):
            raise ConfigurationError("a search needs hydra/launcher=local, slurm_cpu or slurm_gpu.")
        assert self._launcher.sweep is not None
        words = [*_words(self._params), *arguments]
        return search(self._launcher.sweep, self._loader, self._config, words, **self._settings)


def _words(params: Mapping[str, Any]) -> list[str]:
    """What a sweeper's `params` say as overrides."""
    return [f"{key}={value}" for key, value in params.items()]


def _launcher(context: HydraContext, task: TaskFunction, config: DictConfig) -> Launcher:
    from hydra.core.plugins import Plugins

    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
