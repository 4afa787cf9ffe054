"""From a batch of overrides to how each job ended: what Hydra's launchers and sweepers of `hydra_plugins` do."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from metarun import __version__, checks
from metarun.configuration.command_text import command_line, config_dirs, path_word
from metarun.console.notes import shown
from metarun.console.progress import waiting
from metarun.console.terminal import terminal
from metarun.errors import ConfigurationError, SweepError
from metarun.run_folder.folder import RunFolder, differences
from metarun.sweep import slurm
from metarun.sweep.local import Slot, cores, run_locally, slots, visible_gpus
from metarun.sweep.manifest import Job, Manifest, git_state, make_folder, read
from metarun.sweep.plan import Composed, compose, plan, sweep_folder
from metarun.sweep.state import DONE, PENDING, JobState, job_state
from metarun.sweep.view import SweepView, counts, jobs_words


class Launch:
    """One sweep, batch after batch.

    Args:
        loader: Hydra's config loader.
        master: Hydra's configuration of the whole sweep.
        cluster: how to ask Slurm, or None to run the jobs on this machine.
    """

    def __init__(self, loader: Any, master: DictConfig, cluster: slurm.SlurmSettings | None) -> None:
        self._loader, self._master, self._cluster = loader, master, cluster
        self.folder = sweep_folder(master)
        self.jobs: list[Job] = []
        self.states: dict[int, JobState] = {}
        self.refused: list[ConfigurationError] = []
        self._console = terminal()
        self._view = SweepView(self._console)
        if cluster is None:
            _check_places(master.hydra.launcher)

    @property
    def waits(self) -> bool:
        """Whether `batch` returns when its jobs have ended, with their scores."""
        return self._cluster is None or (self._cluster.wait and not self._cluster.dry_run)

    def batch(self, overrides: Sequence[Sequence[str]], first: int, *, all_or_none: bool) -> list[JobReturn]:
        """Plan, check and run a batch.

        Args:
            overrides: those of each job.
            first: number of the first job.
            all_or_none: whether one job that cannot be stops all; else it counts as failed.
        Returns:
            One for each job, in order; that of a failed one raises `SweepError` when its value is asked for.
        Raises:
            ConfigurationError: before anything is written, for the first job that cannot be.
        """
        planned = self._planned(overrides, first)
        refused = [error for error in planned if isinstance(error, ConfigurationError)]
        if refused and (all_or_none or (len(refused) == len(planned) and not self.jobs)):
            more = f" ({len(refused) - 1} more of the {len(planned)} jobs are refused.)" if len(refused) > 1 else ""
            raise ConfigurationError(f"{refused[0]}{more}")
        jobs = [job for job in planned if isinstance(job, Job)]
        if self._cluster is not None and self._cluster.dry_run:
            self._console.print(slurm.script(self._cluster, jobs, self.folder), end="", markup=False, soft_wrap=True)
            return [_returned(0.0) for _ in planned]
        self.refused += refused
        for error in refused:
            self._view.note(f"failed    {error}")
        if self._cluster is not None and not self.jobs:  # of a later batch, the earlier one may be leaving just now
            slurm.require_slurm()
            slurm.require_idle(self.folder)
        make_folder(self.folder)
        with RunFolder(self.folder).locked():
            self._run(jobs)
        return [self._return(job) for job in planned]

    def _planned(self, overrides: Sequence[Sequence[str]], first: int) -> list[Job | ConfigurationError]:
        def composer(words: Sequence[str]) -> Composed:
            return compose(self._loader, self._master, words)

        with shown(self._console), waiting(self._console, f"checking {jobs_words(len(overrides))}"):
            return plan(
                overrides,
                composer,
                first=first,
                fixed=list(self._master.hydra.overrides.task),
                sweep=self.folder,
                is_elsewhere=self._cluster is not None,
                num_ranks=1 if self._cluster is None else self._cluster.ranks,
                known=self.jobs,
            )

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run those that have no result yet; `states` then says how each ended."""
        fresh = [_overwritten(job) for job in jobs]
        is_first = not self.jobs
        self._record(fresh)
        states = {job.index: job_state(job) for job in fresh}
        by_folder = {job.folder: job for job in reversed(fresh)}  # the same run twice is run once
        missing = [job for job in by_folder.values() if states[job.index].state != DONE]
        missing.sort(key=lambda job: job.index)
        done = sum(state.state == DONE for state in states.values())
        words = f"{jobs_words(len(fresh))}{f', {done} of them done already' if done else ''}"
        if is_first:
            self._view.copied(f"metarun {__version__}  sweep {self.folder}")
        self._view.note(words)
        self.states |= states
        for job in fresh:
            is_done = states[job.index].state == DONE
            self._view.know(job, states[job.index] if is_done else JobState(state=PENDING))
        with self._view:
            if missing:
                self.states |= self._ended(missing)
        for job in fresh:  # of a pair only one was run
            self.states[job.index] = self.states[by_folder[job.folder].index]
            self._view.know(job, self.states[job.index])

    def _ended(self, missing: Sequence[Job]) -> dict[int, JobState]:
        if self._cluster is None:
            places = self._places(missing)
            gpus = " and a GPU" if places[0].gpu is not None else ""
            threads = f"{places[0].threads} thread{'s' if places[0].threads > 1 else ''}"
            self._view.note(f"{len(places)} at a time, each with {threads}{gpus}")
            return run_locally(missing, self.folder, places, self._view)
        array = slurm.submit(self._cluster, missing, self.folder)
        self._view.note(f"submitted array {array}: {jobs_words(len(missing))} ({self.folder / 'sbatch.sh'})")
        if not self._cluster.wait:
            return {job.index: job_state(job) for job in missing}
        self._view.note("Ctrl-C stops the watching and not the jobs")
        return slurm.wait_for(missing, array, self._view)

    def _places(self, jobs: Sequence[Job]) -> list[Slot]:
        asked = self._master.hydra.launcher
        wants_gpu = any(job.config["device"]["kind"] != "cpu" for job in jobs)
        gpus = [] if not wants_gpu else visible_gpus(os.environ) if asked.gpus == "auto" else list(map(str, asked.gpus))
        threads = max((job.config["device"]["threads"] or 1) for job in jobs)
        return slots(None if asked.jobs == "auto" else asked.jobs, gpus, cores(), threads, len(jobs))

    def _record(self, jobs: Sequence[Job]) -> None:
        """Write the manifest; one of another time that says something else is kept beside it."""
        path = self.folder / "manifest.json"
        if not self.jobs and path.exists():
            before = {job.index: job for job in read(self.folder).jobs}
            changed = [j for j in jobs if j.index in before and before[j.index].fingerprint != j.fingerprint]
            if changed:
                kept = next(p for i in range(1, 1000) if not (p := self.folder / f"manifest-{i}.json").exists())
                path.rename(kept)
                example = differences(before[changed[0].index].config, changed[0].config)
                self._view.note(
                    f"the configuration of {jobs_words(len(changed))} has changed since this command was last given "
                    f"({'; '.join(example[:3])}): run anew. The earlier manifest is {kept}."
                )
        self.jobs += jobs
        code = Path(__file__).resolve().parent
        Manifest(
            folder=self.folder,
            command=self._command(),
            config_dirs=tuple(config_dirs(self._master.hydra)),
            jobs=tuple(self.jobs),
            git=git_state(code),
        ).write()

    def _command(self) -> str:
        """The command line, to give again."""
        hydra = self._master.hydra
        ours = ("hydra.mode=", "hydra.launcher.wait=", "hydra.launcher.dry_run=")
        how = [word for word in hydra.overrides.hydra if not word.startswith(ours)]
        return command_line([*how, *hydra.overrides.task], config_dirs(hydra), "-m" if self.waits else "submit")

    def _return(self, job: Job | ConfigurationError) -> JobReturn:
        if isinstance(job, ConfigurationError):
            return _returned(SweepError(str(job)))
        state = self.states[job.index]
        if state.state != DONE:
            error = SweepError(f"{job.label}: {state.error or state.state}")
            return _returned(error if self.waits else 0.0)
        if state.value is None or not math.isfinite(state.value):
            return _returned(SweepError(f"{job.label}: its validation score is {state.value}"))
        return _returned(state.value)

    def close(self, closing: Sequence[tuple[str, str]] = ()) -> None:
        """The table at the end, after it `closing`, pairs of words and a command, and what to do next.

        Raises:
            SweepError: a job has no result.
        """
        if not self.waits:
            assert self._cluster is not None
            if not self._cluster.dry_run:
                self._view.note("how they stand, at any time and on any host:")
                self._view.copied(command_line([], [], "status", path_word(self.folder)), "next")
            return
        self._console.print(self._view.table())
        bad = [job for job in self.jobs if self.states[job.index].state != DONE]
        self._view.note(counts([self.states[job.index] for job in self.jobs]))
        for job in bad:
            state = self.states[job.index]
            self._view.note(f"  {job.label}: {state.error or state.state}", indent=5)
            self._view.copied(f"     {job.log}")
        for words, command in closing:
            self._view.note(words)
            self._view.copied(command)
        if len(bad) < len(self.jobs):
            self._view.copied(command_line([], [], "report", path_word(self.folder)), "next")
        num_bad, num_jobs = len(bad) + len(self.refused), len(self.jobs) + len(self.refused)
        if num_bad:
            raise SweepError(
                f"{num_bad} of {jobs_words(num_jobs)} gave no result. The same command runs those again, and no others."
            )


def _overwritten(job: Job) -> Job:
    """A job whose run is to start anew, made so now: a job that is requeued later goes on where it was."""
    if not job.config["run"]["overwrite"]:
        return job
    job.run.make()
    with job.run.locked():
        job.run.clear()
    return replace(job, config={**job.config, "run": {**job.config["run"], "overwrite": False}})


def _check_places(asked: DictConfig) -> None:
    try:
        if asked.jobs != "auto":
            checks.integer("jobs", asked.jobs, minimum=1)
        if asked.gpus != "auto" and not OmegaConf.is_list(asked.gpus):
            raise ValueError(f"gpus must be auto or a list of ids, got {asked.gpus!r}")
    except ValueError as error:
        raise ConfigurationError(f"hydra.launcher: {error}") from error


def _returned(value: float | Exception) -> JobReturn:
    result = JobReturn()
    result.return_value = value
    result.status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    return result
