"""One run from beginning to end: `metarun [KEY=VALUE ...]`."""

import hashlib
import json
import logging
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from metarun import __version__
from metarun.build import Parts, fitted, make, make_parts
from metarun.errors import ConfigurationError
from metarun.maths.trees import Params
from metarun.report.console import RunConsole, header, report, waiting
from metarun.report.figures import adaptation_curves, learning_curve
from metarun.result import device_name, environment_of, flat_results, measure_test, peak_memory_mib, tasks_csv
from metarun.tasks.sinusoid import Sinusoid, true_function
from metarun.tasks.types import Examples
from metarun.tracking.base import RunInfo, TeeTracker
from metarun.tracking.jsonl import MetricsFile, read_metrics
from metarun.train.folder import RunFolder, differences, fingerprint, name
from metarun.train.state import TrainState, load, load_state, write_atomically
from metarun.train.trainer import Stopped, Trainer

_logger = logging.getLogger("metarun")


def run(cfg: DictConfig) -> float | None:
    """Train, test and report what `cfg` says, going on from where an earlier run of it stopped.

    Returns:
        The best validation score, for sweepers.
    Raises:
        ConfigurationError: before anything is trained or written, if something in `cfg` cannot be.
    """
    console = Console(highlight=False)
    hydra = HydraConfig.get()
    config = resolved(cfg)
    chosen = config["run"]["folder"]
    folder = RunFolder(Path(chosen) if chosen else Path(config["run"]["root"]) / name(config))

    result = _stored_result(folder, config)
    if result is not None:
        console.print(f"This configuration has been run already: {folder.path}. (run.overwrite=true runs it again.)")
        report(console, folder, result)
        return result["validation"]["best_score"]

    with waiting(console, "preparing data and model"):
        parts = make_parts(config)
        make(config, "tracker")  # refused, if at all, before anything is written
    folder.make()
    with folder.locked(), _logged_to(folder, console):
        if config["run"]["overwrite"]:
            for path in (*folder.checkpoints.glob("*.pt"), folder.metrics, folder.result):
                path.unlink(missing_ok=True)
        overrides = list(hydra.overrides.task)
        return _train_and_test(console, folder, config, parts, overrides)["validation"]["best_score"]


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, with the chosen options under "choices".

    Raises:
        ConfigurationError: a path that is none.
    """
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    choices = HydraConfig.get().runtime.choices
    config["choices"] = {group: choice for group, choice in choices.items() if "hydra/" not in group}
    _check_paths(config)
    for key in ("root", "cache"):
        config["data"][key] = str(Path(config["data"][key]).expanduser())
    return _with_expanded_data(cfg, config)


def _train_and_test(
    console: Console, folder: RunFolder, config: dict[str, Any], parts: Parts, overrides: list[str]
) -> dict[str, Any]:
    optimizer, lr_schedule = make(config, "optimizer"), make(config, "lr_schedule")
    mark = fingerprint(config)
    last = folder.checkpoints / "last.pt"
    resumed = load_state(last) if last.exists() else None
    if resumed is not None and resumed.fingerprint != mark:
        raise ConfigurationError(
            f"{last} was written by another configuration. Choose another run.folder, or run.overwrite=true to replace it."
        )
    environment = environment_of(parts)
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None
    folder.write_json(folder.config, config)
    folder.write_json(folder.path / "overrides.json", {"overrides": overrides, "command": _command(overrides)})
    folder.write_json(folder.path / "environment.json", environment)
    _logger.info("metarun %s, %s", __version__, _command(overrides))
    _header(console, folder, config, parts, resumed)

    try:
        record = MetricsFile(folder.metrics, resumed.step if resumed else -1)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    run_id = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:8] + mark[:8]
    mirror = make(config, "tracker").open(
        RunInfo(
            folder=folder.path,
            name=folder.path.name,
            config=config,
            group=sweep,
            job_type="train",
            tags=(config["choices"]["algorithm"], config["choices"]["dataset"]),
            run_id=run_id,
        )
    )
    tracker = TeeTracker((record, mirror))
    exit_code = 1
    try:
        watcher = RunConsole(
            console,
            score=parts.problem.score,
            total=parts.schedule.steps,
            done=resumed.step if resumed else 0,
            is_percent=parts.problem.score == "accuracy",
        )
        trainer = Trainer(
            algorithm=parts.algorithm,
            problem=parts.problem,
            source=parts.source,
            schedule=parts.schedule,
            evaluator=parts.evaluator,
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            seed=config["seed"],
            device=parts.device,
            dtype=parts.dtype,
            task_chunk=parts.task_chunk,
            tracker=tracker,
            sync_record=record.sync,
            observer=watcher,
            checkpoints=folder.checkpoints,
        )
        state = resumed or trainer.start(parts.theta, mark)
        with watcher:
            state = trainer.run(state)
        result = _finish(console, folder, config, parts, state, environment)
        tracker.summarize(flat_results(result))
        exit_code = 0
    except Stopped as stopped:
        exit_code = 128 + stopped.signal_number
        message = f"{stopped}. A checkpoint is written; the same command goes on from there."
        _logger.info(message)
        console.print(f"\n{message}", soft_wrap=True)
        if stopped.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(exit_code) from stopped
    except Exception as error:
        _logger.error("the run ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        tracker.close(exit_code)
    report(console, folder, result)
    return result


def _finish(
    console: Console, folder: RunFolder, config: dict[str, Any], parts: Parts, state: TrainState, environment: dict
) -> dict[str, Any]:
    """Test the selected state, once; draw; write result.json last."""
    best = load(folder.checkpoints / "best.pt")
    theta = fitted(best["theta"], parts)
    with waiting(console, f"testing on {parts.evaluator.evaluation.tasks} tasks"):
        test = measure_test(config, parts, theta, best["step"])
    result = test | {
        "fingerprint": state.fingerprint,
        "name": folder.path.name,
        "choices": config["choices"],
        "seed": config["seed"],
        "validation": {"best_score": state.best_score, "best_step": state.best_step},
        "num_parameters": parts.learner.num_parameters,
        "train_s": state.train_s,
        "step_s": state.step_s / state.step,
        "peak_memory_mib": peak_memory_mib(parts.device),
        "environment": environment,
    }
    choices = config["choices"]
    title = f"{choices['algorithm']} on {choices['dataset']}"
    learning_curve(folder.figures / "learning_curve.png", read_metrics(folder.metrics), parts.problem.score, title)
    if isinstance(parts.source, Sinusoid):
        _draw_adaptation(folder.figures / "adaptation.png", parts, theta)
    write_atomically(folder.path / "tasks.csv", tasks_csv(result.pop("per_task")).encode())
    folder.write_json(folder.result, result)
    _logger.info("finished: %s", json.dumps(result["results"][-1]))
    return result


def _header(
    console: Console, folder: RunFolder, config: dict[str, Any], parts: Parts, resumed: TrainState | None
) -> None:
    """What will run, on what, and where it goes, in the words of the configuration."""
    choices, schedule, evaluation = config["choices"], parts.schedule, parts.evaluator.evaluation
    algorithm = config["algorithm"]
    inner = {key: value for key, value in algorithm["inner"].items() if key not in ("_target_", "eval_steps")}
    settings = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in inner.items()
    )
    weight = f", lambda {algorithm['proximal_weight']:g}" if algorithm["proximal_weight"] else ""
    ways = f"{config['dataset']['ways']}-way " if "ways" in config["dataset"] else ""
    norm = "" if parts.learner.batch_norm == "none" else f", batch norm {parts.learner.batch_norm}"
    replaced = (
        f"; {len(parts.learner.replaced_norms)} batch norms made functional" if parts.learner.replaced_norms else ""
    )
    threads = (
        f", {torch.get_num_threads()} threads" if parts.device.type == "cpu" else f" ({device_name(parts.device)})"
    )
    header(
        console,
        [
            ("algorithm", f"{choices['algorithm']}: {choices['algorithm/inner']} ({settings}{weight}), "
             f"{choices['algorithm/meta_gradient']} meta-gradient"),
            ("data", f"{choices['dataset']}: {ways}{schedule.shots}-shot, {schedule.queries} queries; tested with "
             f"{evaluation.shots} shot(s), {evaluation.queries} queries, {evaluation.tasks} tasks"),
            ("model", f"{choices['model']}: {parts.learner.num_parameters:,} parameters{norm}{replaced}"),
            ("training", f"{schedule.steps} steps of {schedule.tasks_per_step} tasks, {choices['optimizer']}, "
             f"{choices['lr_schedule']} learning rate, seed {config['seed']}"),
            ("device", f"{parts.device}{threads}, {config['device']['dtype']}, {parts.task_chunk} tasks at once"),
            ("results", str(folder.path) + (f" (going on after step {resumed.step})" if resumed else "")),
        ],
    )  # fmt: skip


def _draw_adaptation(path: Path, parts: Parts, theta: Params) -> None:
    """Three test tasks of the sinusoid family, before and after adaptation."""
    evaluation, source = parts.evaluator.evaluation, parts.source
    indices = torch.arange(3, device=parts.device)
    tasks = source.sample(evaluation.seed, "test", indices, evaluation.shots, evaluation.queries)
    low, high = source.inputs
    x = torch.linspace(low, high, 200, dtype=torch.float64, device=parts.device)[None, :, None].expand(3, -1, -1)
    grid = Examples(x, true_function(tasks.latent, x)).to(parts.device, parts.dtype)
    steps = [s for s in evaluation.measured_steps(parts.algorithm.inner.steps) if s != 5]
    adaptation_curves(path, parts.algorithm, parts.problem, theta, tasks.to(parts.device, parts.dtype), grid, steps)


def _stored_result(folder: RunFolder, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a finished run of this very configuration; refuses a folder that holds another one."""
    stored = folder.read_json(folder.config)
    if stored is None or config["run"]["overwrite"]:
        return None
    changed = differences(stored, config)
    if changed:
        raise ConfigurationError(
            f"{folder.path} holds a run of another configuration ({'; '.join(changed[:5])}"
            f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}). "
            "Choose another run.folder, or run.overwrite=true to replace it."
        )
    return folder.read_json(folder.result)


def _check_paths(config: Mapping[str, Any]) -> None:
    """Refuse values of `data` and `run` that are no paths, or no truth values."""
    for key in ("data.root", "data.cache", "run.root", "run.folder"):
        group, name = key.split(".")
        value = config[group][name]
        if not (isinstance(value, str) or (value is None and key == "run.folder")):
            raise ConfigurationError(f"{key} must be a path, got {value!r}")
    if not isinstance(config["run"]["overwrite"], bool):
        raise ConfigurationError(f"run.overwrite must be true or false, got {config['run']['overwrite']!r}")


def _with_expanded_data(cfg: DictConfig, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration resolved again with `~` expanded, so that whatever refers to the data folders has them whole."""
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    copy.data = config["data"]
    return OmegaConf.to_container(copy, resolve=True, throw_on_missing=True) | {"choices": config["choices"]}


def _command(overrides: Sequence[str]) -> str:
    return shlex.join(["metarun", *overrides])


@contextmanager
def _logged_to(folder: RunFolder, console: Console) -> Iterator[None]:
    """Log into the run's folder; warnings are shown to the person too."""
    file = logging.FileHandler(folder.log)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [file, _ConsoleWarnings(console)]
    before = _logger.level, _logger.propagate
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    for handler in handlers:
        _logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            _logger.removeHandler(handler)
            handler.close()
        _logger.setLevel(before[0])
        _logger.propagate = before[1]


class _ConsoleWarnings(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:  # errors end the run and are printed by the command line
            self._console.print(f"[yellow]warning:[/] {record.getMessage()}", soft_wrap=True)
