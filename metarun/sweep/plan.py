"""From the overrides of a sweep to its jobs: every one composed, resolved and checked before the first starts."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from metarun.build import make_parts, require_tasks
from metarun.configuration.instantiate import make
from metarun.configuration.resolve import resolved
from metarun.errors import ConfigurationError
from metarun.run_folder.folder import fingerprint, folder_of
from metarun.run_folder.start import start_of_run, started
from metarun.run_folder.stored_result import stored_result
from metarun.sweep.manifest import Job
from metarun.tracking.chosen import make_trackers

Goal = Literal["minimize", "maximize"]
Composed = tuple[dict[str, Any], tuple[str, ...]]  # a resolved configuration and the task overrides that led to it


def sweep_folder(master: DictConfig) -> Path:
    """Where a sweep lies: a function of its command, so that the same command finds it again.

    Where and how the jobs are run (`hydra.launcher`), how many trials a search has and `run.overwrite` are no part of it.

    Args:
        master: Hydra's configuration of the whole sweep.
    """
    asked = [word for word in master.hydra.overrides.task if not word.startswith(("run.overwrite=", "+run.overwrite="))]
    sweeper = [
        word
        for word in master.hydra.overrides.hydra
        if word.startswith(("hydra.sweeper", "hydra/sweeper")) and not word.startswith("hydra.sweeper.n_trials=")
    ]
    digest = hashlib.sha256(json.dumps([*asked, *sweeper]).encode()).hexdigest()[:8]
    varied = [str(o.input_line) for o in OverridesParser.create().parse_overrides(asked) if o.is_sweep_override()]
    words = re.sub(r"[^\w.+-]+", "_", " ".join(varied)).strip("_")
    return Path(master.run.root).absolute() / "sweeps" / "-".join(filter(None, [words[:60].strip("_"), digest]))


def compose(loader: Any, master: DictConfig, overrides: Sequence[str]) -> Composed:
    """One job's resolved configuration.

    Args:
        loader: Hydra's config loader.
        master: Hydra's configuration of the whole sweep.
        overrides: those of this job.
    Raises:
        HydraException: it does not compose.
        ConfigurationError: it does not resolve.
    """
    composed = loader.load_sweep_config(master, list(overrides))
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.job.id = composed.hydra.job.num = 0
    HydraConfig.instance().set_config(composed)  # for ${hydra:...} in a user's configuration
    hydra, task = composed.hydra, tuple(composed.hydra.overrides.task)
    OmegaConf.set_readonly(composed, False)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return resolved(composed, hydra), task


def check(config: dict[str, Any], *, is_elsewhere: bool, num_ranks: int) -> None:
    """Refuse what the run itself would refuse before training. Nothing is written; the work is done on the CPU.

    Args:
        is_elsewhere: the run will be on another machine, whose devices are not to be seen from here.
        num_ranks: processes that will share the tasks of each step.
    Raises:
        ConfigurationError: in the words of the run.
    """
    if not is_elsewhere:
        make(config, "device")
    device = dict(config["device"])
    if device.get("kind") in ("auto", "cuda"):
        device["kind"] = "cpu"  # a context on the GPU would stay there for as long as the sweep
    parts = make_parts(config | {"device": device})
    if (start := start_of_run(folder_of(config), config)) is not None:
        started(parts.theta, start, parts.learner.module)
    require_tasks(config, num_ranks, parts.algorithm.num_fresh_tasks)
    make_trackers(config)
    stored_result(folder_of(config), config)


def direction(config: Mapping[str, Any]) -> Goal:
    """Where the validation score of a run should go: "maximize" or "minimize"."""
    from hydra.utils import get_class

    problem: Any = get_class(config["dataset"]["problem"]["_target_"])
    return "maximize" if problem.higher_is_better else "minimize"


def plan(
    batch: Sequence[Sequence[str]],
    composer: Callable[[Sequence[str]], Composed],
    *,
    first: int,
    fixed: Sequence[str],
    sweep: Path,
    is_elsewhere: bool,
    num_ranks: int,
    known: Sequence[Job] = (),
) -> list[Job | ConfigurationError]:
    """The jobs of a batch, in its order; in place of one that cannot be, the error.

    Args:
        batch: the overrides of each job.
        composer: gives a job's configuration from its overrides.
        first: number of the batch's first job.
        fixed: overrides that all jobs share, and that no table needs to show.
        sweep: the sweep's folder, not yet made.
        is_elsewhere, num_ranks: as in `check`.
        known: jobs planned before, which share no folder with these but for being the same run.
    """
    planned: list[Job | ConfigurationError] = []
    for index, words in enumerate(batch, start=first):
        try:
            config, overrides = composer(words)
            check(config, is_elsewhere=is_elsewhere, num_ranks=num_ranks)
            job = Job(
                index=index,
                overrides=overrides,
                varied=tuple(word for word in overrides if word not in fixed),
                config=config,
                fingerprint=fingerprint(config),
                folder=folder_of(config).path.absolute(),
                log=sweep / f"job-{index}.log",
            )
            _require_own_folder(job, [*known, *(other for other in planned if isinstance(other, Job))])
            planned.append(job)
        except ConfigurationError as error:
            varied = " ".join(word for word in words if word not in fixed)
            planned.append(ConfigurationError(f"job #{index}{f' ({varied})' if varied else ''}: {error}"))
    return planned


def _require_own_folder(job: Job, others: Sequence[Job]) -> None:
    for other in others:
        if other.folder == job.folder and other.fingerprint != job.fingerprint:
            raise ConfigurationError(
                f"its run folder {job.folder} is that of job #{other.index} too. "
                "Leave run.folder out (run.root says where run folders are made)."
            )
