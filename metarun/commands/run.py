"""One run from beginning to end: `metarun [KEY=VALUE ...]`."""

import contextlib
import logging
import math
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from metarun import __version__
from metarun.build import (
    Parts,
    fitted,
    make_parts,
    make_trainer,
    require_program,
    require_tasks,
)
from metarun.commands.header import header_of
from metarun.commands.illustrate import check_video, draw
from metarun.commands.result import environment_of, measure_test, require_score, tasks_csv
from metarun.configuration.command_text import command_line, config_dirs, other_algorithm
from metarun.configuration.resolve import resolved
from metarun.configuration.trusted import untrusted_classes
from metarun.console.notes import LogFile, shown
from metarun.console.profile import show_profile
from metarun.console.progress import RunConsole, testing, waiting
from metarun.console.results import header, report, results
from metarun.console.terminal import tell, terminal
from metarun.device.peak_memory import AddedMemory, peak_mib
from metarun.device.ranks import Ranks, ranks_from_environment
from metarun.errors import ConfigurationError, TrainingError
from metarun.files import naming, write_atomically
from metarun.json_text import json_text
from metarun.report.published import compared
from metarun.run_folder.checkpoints import BEST, newest, take_up
from metarun.run_folder.data_record import record_data, store_of
from metarun.run_folder.folder import RunFolder, fingerprint, folder_of
from metarun.run_folder.source_record import record_sources
from metarun.run_folder.start import Start, keep_start, start_of_run, started
from metarun.run_folder.state import TrainState, load
from metarun.run_folder.status import RunStatus
from metarun.run_folder.stored_result import stored_result
from metarun.tracking.base import NullTracker, RunInfo, TeeTracker, flat_results, identity, run_id_of
from metarun.tracking.chosen import make_trackers, tracker_nodes
from metarun.tracking.guard import GuardedTrackers
from metarun.tracking.jsonl import MetricsFile, Reach
from metarun.training.observer import NoObserver
from metarun.training.profile import profiled
from metarun.training.program import use_cache
from metarun.training.stop_requests import Stopped
from metarun.training.stopping import StoppedOutsideTraining
from metarun.training.trainer import Trainer

_logger = logging.getLogger("metarun")


def run(cfg: DictConfig) -> float | None:
    """Train, test and report what `cfg` says, going on from where an earlier run of it stopped.

    Returns:
        The best validation score, for sweepers.
    Raises:
        ConfigurationError: before anything is trained or written, if something in `cfg` cannot be.
    """
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None
    return run_resolved(resolved(cfg, hydra), list(hydra.overrides.task), sweep, config_dirs(hydra))


def run_resolved(
    config: dict[str, Any],
    overrides: Sequence[str],
    sweep: str | None = None,
    config_dirs: Sequence[str] = (),
    console: Console | None = None,
) -> float | None:
    """`run`, from a configuration that `resolved` gave, here or in another process.

    Args:
        overrides: the command line that led to it, for the record.
        sweep: the name of the sweep that the run belongs to.
        config_dirs: folders of configuration beside ours, for the record.
        console: where to print; standard output by default.
    """
    console = console or terminal()
    folder = folder_of(config)
    with shown(console), waiting(console, "looking for a result"):
        result = stored_result(folder, config)
    if result is not None:
        # Published figures are no setting of the run's: those that are named now.
        result["reference"] = compared(config["reference"], config, result["score"])
        if os.environ.get("RANK", "0") != "0":
            return result["validation"]["best_score"]
        words = f"This configuration has been run already: {folder.path}. (run.overwrite=true runs it again.)"
        tell(console, words)
        report(console, folder, result, other_algorithm(config, overrides, config_dirs), untrusted_classes(config))
        return result["validation"]["best_score"]

    with shown(console), waiting(console, "preparing data and model"):
        parts = make_parts(config)
        make_trackers(config)  # refused, if at all, before anything is written
        if (start := start_of_run(folder, config)) is not None:
            parts = replace(parts, theta=started(parts.theta, start, parts.learner.module))
    use_cache(Path(config["data"]["cache"]).expanduser() / "programs")
    ranks = ranks_from_environment(parts.device.type)
    require_tasks(config, ranks.size, parts.algorithm.num_fresh_tasks)
    require_program(config, parts, ranks)
    check_video(config, parts)
    if config["profile"] and ranks.size > 1:
        raise ConfigurationError(
            f"profile=true measures one process, and there are {ranks.size} ranks. Start one alone."
        )
    if not ranks.is_first:
        return _follow(folder, config, parts, ranks)
    folder.make()
    status = RunStatus(folder.status, steps=config["schedule"]["steps"])
    with folder.locked(), _logged_to(folder, console):
        if config["run"]["overwrite"]:
            folder.clear()
        with status:
            command = command_line(overrides, config_dirs)
            result = _train_and_test(console, folder, config, parts, start, overrides, command, sweep, status, ranks)
        report(console, folder, result, other_algorithm(config, overrides, config_dirs), untrusted_classes(config))
        return result["validation"]["best_score"]


def _train_and_test(
    console: Console,
    folder: RunFolder,
    config: dict[str, Any],
    parts: Parts,
    start: Start | None,
    overrides: Sequence[str],
    command: str,
    sweep: str | None,
    status: RunStatus,
    ranks: Ranks,
) -> dict[str, Any]:
    mark = fingerprint(config)
    resumed = take_up(folder.checkpoints)
    if resumed is not None and resumed.fingerprint != mark:
        raise ConfigurationError(
            f"{folder.checkpoints} is of another configuration. Choose another run.folder, or run.overwrite=true to replace it."
        )
    environment = environment_of(parts) | {"ranks": ranks.size}
    folder.write_json(folder.config, config)
    folder.write_json(folder.path / "overrides.json", {"overrides": list(overrides), "command": command})
    folder.write_json(folder.path / "environment.json", environment)
    if (store := store_of(parts.source)) is not None:
        record_data(folder, store)
    if start is not None:
        keep_start(folder, start, parts.theta)
    programs = record_sources(folder, config, resumed.step if resumed else None)
    if len(programs) > 1 and resumed is not None and programs[-1]["step"] == resumed.step:
        _logger.warning(
            "the user's own classes have changed since this run began (%s): it goes on from step %d with what they are now, "
            "and its result says so. run.overwrite=true begins anew",
            folder.sources,
            resumed.step,
        )
    _logger.info("metarun %s, %s", __version__, command)
    header(console, header_of(folder, config, parts, resumed, ranks, start))
    ranks.wait()  # the folder is as it was meant to be: the others read what there is to go on from
    ranks.wait()  # and have read it
    _say_what_the_optimizer_makes(parts, config)

    try:
        reach = Reach(**resumed.record) if resumed and resumed.record else None
        record = MetricsFile(folder.metrics, resumed.step if resumed else -1, reach)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    if resumed and record.lost:
        _logger.warning("%s; the run goes on without the others", record.lost)
        resumed.lost.append(record.lost)
    told = RunInfo(
        folder=folder.path,
        name=folder.path.name,
        config=config,
        group=sweep,
        job_type="train",
        tags=(config["choices"]["algorithm"], config["choices"]["dataset"]),
        run_id=run_id_of(folder.path, mark),
        is_new=resumed is None,
    )
    folder.write_json(folder.tracking, identity(told))
    settings, nodes = make_trackers(config), tracker_nodes(config)
    trackers = GuardedTrackers({name: nodes[name] for name in settings}, settings, told, folder.log)
    tracker = TeeTracker((record, trackers))
    exit_code = 1
    try:
        watcher = RunConsole(
            console,
            score=parts.problem.score,
            total=parts.schedule.steps,
            done=resumed.step if resumed else 0,
            watched=parts.problem.watched.rpartition("/")[2],
            counted=(parts.problem.counted or "tasks").replace("_", " "),
        )
        trainer = make_trainer(
            config,
            parts,
            tracker=tracker,
            sync_record=lambda: vars(record.sync()),
            observer=status.beside(watcher),
            checkpoints=folder.checkpoints,
            ranks=ranks,
        )
        state = resumed or trainer.start(mark)
        if config["profile"]:
            _profile(console, folder, trainer, state)
        status.start(state.step)
        memory, first = AddedMemory(parts.device), state.step
        with watcher:
            state = trainer.run(state)
        # None where it was trained in an earlier attempt, or profiling took as much before.
        added = memory.mib() if state.step > first and not config["profile"] else None
        result = _finish(
            console,
            folder,
            config,
            parts,
            start,
            state,
            environment | ({"sources": programs} if programs else {}),
            added,
            status,
        )
        tracker.summarize(flat_results(result))
        exit_code = 0
    except Stopped as stopped:
        exit_code = 128 + stopped.signal_number
        message = f"{stopped}. A checkpoint is written; the same command goes on from there."
        _logger.info(message)
        with contextlib.suppress(OSError):  # the terminal may be gone
            tell(console, f"\n{message}")
        if stopped.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(exit_code) from stopped
    except StoppedOutsideTraining as stopped:
        exit_code = int(stopped.code or 1)
        _logger.info("%s, outside training; the same command goes on from the last checkpoint", stopped.words)
        raise
    except Exception as error:
        _logger.error("the run ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        with waiting(console, "handing the last numbers to the trackers"):
            tracker.close(exit_code)
    return result


def _say_what_the_optimizer_makes(parts: Parts, config: Mapping[str, Any]) -> None:
    """Warn where a step is rescaled, or a gradient taken for a step."""
    chosen = config["choices"]["optimizer"]
    if parts.algorithm.direction.is_step and not config["optimizer"]["_target_"].endswith(".SGD"):
        _logger.warning(
            "the direction (%s) chooses its own step, and %s rescales its coordinates; choose optimizer=sgd_unit",
            config["choices"]["algorithm/direction"],
            chosen,
        )
    algorithm = parts.algorithm
    if algorithm.meta_gradient.is_gradient and not algorithm.direction.is_step and chosen == "sgd_unit":
        _logger.warning(
            "sgd_unit takes the direction for the step itself, and a gradient is none; choose optimizer=adam or sgd"
        )


def _profile(console: Console, folder: RunFolder, trainer: Trainer, state: TrainState) -> None:
    """Say where the time of a step goes; the run goes on from `state` as if nothing had been."""
    folder.profile.mkdir(exist_ok=True)
    trace = folder.profile / "trace.json"
    with waiting(console, "profiling some steps"):
        found = profiled(trainer, state, trace)
    folder.write_json(folder.profile / "profile.json", asdict(found))
    show_profile(console, found, trace)


def _follow(folder: RunFolder, config: dict[str, Any], parts: Parts, ranks: Ranks) -> None:
    """What every rank but the first does: its part of each step's tasks. It writes nothing and says nothing."""
    ranks.wait()
    resumed = newest(folder.checkpoints)
    ranks.wait()
    trainer = make_trainer(
        config,
        parts,
        tracker=NullTracker(),
        sync_record=dict,
        observer=NoObserver(),
        checkpoints=folder.checkpoints,
        ranks=ranks,
    )
    try:
        trainer.run(resumed or trainer.start(fingerprint(config)))
    except Stopped as stopped:
        raise SystemExit(128 + stopped.signal_number) from stopped


def _finish(
    console: Console,
    folder: RunFolder,
    config: dict[str, Any],
    parts: Parts,
    start: Start | None,
    state: TrainState,
    environment: dict[str, Any],
    training_memory_mib: float | None,
    status: RunStatus,
) -> dict[str, Any]:
    """Test the selected state, once; draw; write result.json last.

    Raises:
        TrainingError: no state was selected, or the test gave no score; there is no result.json then.
    """
    if state.best_score is None or not math.isfinite(state.best_score):
        raise TrainingError(
            f"no validation gave a finite {parts.problem.score}, so no state was selected and there is nothing to test. Likely "
            "causes: inner steps too large (algorithm.inner.step_size) or too many in validation (evaluation.inner_steps), or "
            "outer steps too large (optimizer.lr)"
        )
    best = {"step": state.best_step, "theta": state.best_theta}
    if state.best_theta is None:  # taken up from a checkpoint of format 1
        best = load(folder.checkpoints / BEST)
    theta = fitted(best["theta"], parts.theta, parts.device, parts.dtype)
    with testing(console, parts.evaluator.evaluation.tasks) as show:

        def advanced(share: float) -> None:
            status.testing(share)
            show(share)

        test = measure_test(config, parts, theta, best["step"], advanced)
    result = test | {
        "fingerprint": state.fingerprint,
        "name": folder.path.name,
        "choices": config["choices"],
        "seed": config["seed"],
        **({"init_from": start.record} if start is not None else {}),
        "validation": {"best_score": state.best_score, "best_step": state.best_step},
        "num_parameters": parts.learner.num_parameters,
        "counted": {parts.problem.counted: state.counted} if parts.problem.counted else None,
        "train_s": state.train_s,
        "step_s": state.step_s / state.step,
        "peak_memory_mib": peak_mib(parts.device),
        "training_memory_mib": training_memory_mib,
        "environment": environment | {"task_chunk": state.task_chunk, "program": state.program or "eager"},
        "record": state.record,
        "lost": state.lost,
    }
    draw(folder, config, parts, theta, best["step"])
    write_atomically(folder.path / "tasks.csv", tasks_csv(result.pop("per_task")).encode())
    try:
        require_score(result)
    except TrainingError:
        results(console, result)
        raise
    folder.write_result(result)
    _logger.info("finished: %s", json_text(result["results"][-1]))
    return result


def _logged_to(folder: RunFolder, console: Console) -> AbstractContextManager[None]:
    """Log into the run's folder; warnings are shown to the person too."""
    with naming(folder.log):
        file = LogFile(folder.log, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return shown(console, file, level=logging.WARNING)
