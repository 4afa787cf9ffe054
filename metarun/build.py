"""From a resolved configuration to the objects of a run, checked against each other."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metarun import checks, rng
from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.configuration.importing import class_of
from metarun.configuration.instantiate import make, named
from metarun.device.memory import require_bytes
from metarun.device.ranks import ALONE, Ranks
from metarun.device.settings import Device
from metarun.errors import ConfigurationError
from metarun.maths.trees import Params
from metarun.models.learner import Learner
from metarun.problems.base import Problem
from metarun.tasks.types import Split, TaskBatch, TaskSource
from metarun.tracking.base import Tracker
from metarun.training import trial
from metarun.training.evaluate import Evaluation, Evaluator
from metarun.training.fitting import Fitting
from metarun.training.footprint import Footprint
from metarun.training.observer import Observer
from metarun.training.optimizer import MakeSchedule, check_ranges, tried_optimizer, try_schedule, watches_score
from metarun.training.program_steps import no_program_for
from metarun.training.trainer import Schedule, Trainer


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The objects of a run, checked against each other.

    Attributes:
        theta: all meta-parameters before the first step, on the CPU.
        program: how outer steps are taken (`Device.program`).
        tf32: whether products on the GPU round their factors to ten bits, curvature products excepted.
    """

    algorithm: Algorithm
    learner: Learner
    problem: Problem
    source: TaskSource
    schedule: Schedule
    evaluator: Evaluator
    theta: MetaParameters
    device: torch.device
    dtype: torch.dtype
    task_chunk: int
    program: str = "auto"
    tf32: bool = False


def _lr_schedule(config: Mapping[str, Any], problem: Problem) -> MakeSchedule:
    """The constructor of the schedule; one that watches the validation score is given the direction that is better.

    Raises:
        ConfigurationError: the configuration says the other way.
    """
    settings = config["lr_schedule"] or {}
    target = class_of("lr_schedule._target_", settings["_target_"]) if "_target_" in settings else None
    if not (isinstance(target, type) and watches_score(target)):
        return make(config, "lr_schedule")
    mode = "max" if problem.higher_is_better else "min"
    given = settings.get("mode", mode)
    if given != mode:
        raise ConfigurationError(
            f"lr_schedule.mode must be {mode} for the score {problem.score}, got {given}; it may be left out."
        )
    return make(config, "lr_schedule", mode=mode)


def _require_room(config: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Refuse a model of ours that is larger than memory, from its shapes alone; others might do more than they say."""
    if str(config["model"].get("_target_")).startswith("metarun."):
        with torch.device("meta"):
            model = make(config, "model")
        count = sum(leaf.numel() for leaf in model.parameters())
        with named("model", {}):
            what = f"a model of {count:,} parameters, with theta, its gradient and a copy for the optimizer,"
            require_bytes(4 * count * dtype.itemsize, what, "Take a smaller one.")


def example_inputs(source: TaskSource, shots: int, split: Split = "train") -> torch.Tensor:
    """Inputs [S, *input_shape] of one task; where none are stored, any numbers in [0, 1)."""
    tasks = source.sample(0, split, torch.arange(1), min(shots, trial.SHOTS), trial.QUERIES)
    if tasks.support is not None:
        return tasks.to("cpu", torch.float32).support_set.inputs[0]
    return numbers_like_inputs(source.input_shape)


def numbers_like_inputs(shape: Sequence[int]) -> torch.Tensor:
    """Any numbers in [0, 1), [S, *shape], to try a model on."""
    return rng.uniform(rng.key(0, "example"), torch.arange(trial.SHOTS), *shape).float()


def _with_sizes(config: Mapping[str, Any], input_shape: Sequence[int], num_outputs: int) -> Mapping[str, Any]:
    """The configuration with the sizes in its model that are left to the data: null in the data set's file, and so in the model."""
    model = config["model"]
    if not isinstance(model, Mapping):
        return config
    found = {"input_shape": list(input_shape), "num_outputs": num_outputs}
    missing = {key: value for key, value in found.items() if key in model and model[key] is None}
    return {**config, "model": {**model, **missing}}


def make_learner(
    config: Mapping[str, Any], dtype: torch.dtype, example: Callable[[], torch.Tensor], output_size: int
) -> Learner:
    """The model, run once on a few inputs.

    Args:
        example: gives inputs [S, *input_shape].
    Raises:
        ConfigurationError: it is no model, does not fit in memory, or does not fit its data.
    """
    inputs = example()
    config = _with_sizes(config, inputs.shape[1:], output_size)
    with rng.seeded_construction(config["seed"], "init"):
        _require_room(config, dtype)
        module = make(config, "model")
    if not isinstance(module, torch.nn.Module):
        raise ConfigurationError(
            f"model._target_ must name a torch.nn.Module, and {config['model']['_target_']} gave {module!r}"
        )
    with named("model", config):
        learner = Learner(module, config["batch_norm"], config["head"])
        learner.check(inputs, output_size)
    return learner


def make_parts(config: Mapping[str, Any], *, is_trained_here: bool = True) -> Parts:
    """Everything that computes, from a resolved configuration; nothing is written.

    Args:
        is_trained_here: whether these data are to be trained on; else the test split alone is looked at.
    Raises:
        ConfigurationError: a value that cannot be, with its key.
    """
    with named("seed", config):
        checks.integer("the seed", config["seed"], minimum=0)
    device_settings: Device = make(config, "device")
    algorithm: Algorithm = make(config, "algorithm")
    schedule: Schedule = make(config, "schedule")
    evaluation: Evaluation = make(config, "evaluation")
    device, dtype = device_settings.open(), device_settings.torch_dtype
    source: TaskSource = make(config, "dataset.source")
    with named("dataset", config):
        # Where the schedule has numbers of its own these are not read, but they stand in the run's name.
        for name in ("shots", "queries", "test_shots", "test_queries"):
            if name in config["dataset"]:
                checks.integer(name, config["dataset"][name], minimum=1)
        if is_trained_here:
            source.check("train", schedule.shots, schedule.queries)
        # The test first: validation is like it unless it is set apart, and then one key mends both.
        source.check("test", *evaluation.examples("test"))
        if is_trained_here:
            source.check("val", *evaluation.examples("val"))

    tried: Split = "train" if is_trained_here else "test"
    shots = schedule.shots if is_trained_here else evaluation.examples("test")[0]

    def few(tasks: int) -> TaskBatch:
        return source.sample(0, tried, torch.arange(tasks), min(shots, trial.SHOTS), trial.QUERIES)

    learner = make_learner(config, dtype, lambda: example_inputs(source, shots, tried), source.output_size)
    problem: Problem = make(config, "dataset.problem", learner=learner.to("cpu", dtype))
    model = learner.init(dtype=dtype)
    with named("algorithm", config):
        algorithm.check(problem, model)
        theta = algorithm.meta_parameters(problem, model)
    with named("model", config):
        learner.to(device, dtype)
        trial.try_model(algorithm, problem, learner.init(device, dtype), few(trial.TASKS).to(device, dtype))
        learner.to("cpu", dtype)
    # Both are constructors here; what they are given is refused now rather than when training starts.
    make_optimizer, make_lr_schedule = make(config, "optimizer"), _lr_schedule(config, problem)
    with named("optimizer", config):
        check_ranges(config["optimizer"], is_schedule=False)
        optimizer = tried_optimizer(make_optimizer, {n: t.to(device, dtype) for n, t in theta.items()})
    with named("lr_schedule", config):
        check_ranges(config["lr_schedule"], is_schedule=True)
        try_schedule(make_lr_schedule, optimizer, schedule.steps)

    def adapted(theta: MetaParameters, tasks: TaskBatch) -> object:
        return algorithm.adapt(theta, problem, tasks, max(evaluation.measured_steps(algorithm.inner.steps)))

    def chunk(num_tasks: int, num_drawn: int, split: Split, shots: int, queries: int) -> int:
        def work(tasks: TaskBatch) -> object:
            return algorithm.estimate(theta, problem, tasks) if split == "train" else adapted(theta, tasks)

        settings = {"split": split, "shots": shots, "queries": queries, "work": work}
        each = Footprint(source=source, problem=problem, model=model, dtype=dtype, **settings)
        size = device_settings.chunk(num_tasks, lambda: each.saved)
        at_once = 1 if device_settings.measures_chunk else min(num_drawn, size)
        with named("schedule" if split == "train" else "evaluation", {}):
            each.require(min(num_drawn, num_tasks), at_once, device)
        return size

    of_rank = -(-schedule.tasks_per_step // int(os.environ.get("WORLD_SIZE", 1)))
    measured: tuple[Split, ...] = ("val", "test") if is_trained_here else ("test",)
    task_chunk = 1
    if is_trained_here:
        task_chunk = chunk(schedule.tasks_per_step, of_rank, "train", schedule.shots, schedule.queries)
    evaluation_chunk = min(
        100, *(chunk(evaluation.tasks, 100, split, *evaluation.examples(split)) for split in measured)
    )
    learner.to(device, dtype)
    source = source.to(device)
    if device_settings.measures_chunk:
        there = theta.map(lambda leaf: leaf.to(device, dtype))

        def fitting(num_tasks: int, split: Split, shots: int, queries: int) -> int:
            def work(tasks: TaskBatch) -> object:
                fresh = tasks if algorithm.num_fresh_tasks else None  # any tasks will do
                step = {"theta": there, "problem": problem, "tasks": tasks, "fresh": fresh}
                return algorithm.meta_step(**step) if split == "train" else adapted(there, tasks)

            settings = {"split": split, "shots": shots, "queries": queries, "work": work}
            return Fitting(source=source, theta=dict(there), device=device, dtype=dtype, **settings).chunk(num_tasks)

        if is_trained_here:
            fits = fitting(of_rank, "train", schedule.shots, schedule.queries)
            task_chunk = task_chunk if fits == of_rank else fits
        evaluation_chunk = min(
            fitting(min(evaluation_chunk, evaluation.tasks), split, *evaluation.examples(split)) for split in measured
        )
    evaluator = Evaluator(algorithm, problem, source, evaluation, device, dtype, evaluation_chunk)
    parts = Parts(
        algorithm=algorithm,
        learner=learner,
        problem=problem,
        source=source,
        schedule=schedule,
        evaluator=evaluator,
        theta=theta,
        device=device,
        dtype=dtype,
        task_chunk=task_chunk,
        program=device_settings.program,
        tf32=device_settings.tf32,
    )
    return parts


def require_tasks(config: Mapping[str, Any], num_ranks: int, num_fresh_tasks: int) -> None:
    """Refuse more ranks than there are tasks in a step, of the step's own or of those that its direction asks for besides.

    Raises:
        ConfigurationError: there are.
    """
    if config["schedule"]["tasks_per_step"] < num_ranks:
        raise ConfigurationError(
            f"every rank needs a task of each step, and {num_ranks} ranks share schedule.tasks_per_step="
            f"{config['schedule']['tasks_per_step']}. Start fewer, or raise schedule.tasks_per_step."
        )
    if 0 < num_fresh_tasks < num_ranks:
        key = "algorithm.direction.metric.num_fresh_tasks"
        raise ConfigurationError(
            f"every rank needs a fresh task of each step, and {num_ranks} ranks share {key}={num_fresh_tasks}. Start fewer, or "
            f"raise {key}."
        )


def require_program(config: Mapping[str, Any], parts: Parts, ranks: Ranks) -> None:
    """Refuse a program that is asked for by name where the run's steps cannot be one; "auto" does without.

    Raises:
        ConfigurationError: they cannot be.
    """
    if parts.program in ("auto", "eager"):
        return
    rate = _lr_schedule(config, parts.problem)
    why = no_program_for(parts.problem, ranks, make(config, "optimizer"), rate, parts.schedule.steps)
    if why:
        raise ConfigurationError(f"device.program={parts.program}, and {why}. Set device.program=auto or eager.")


def make_trainer(
    config: Mapping[str, Any],
    parts: Parts,
    *,
    tracker: Tracker,
    sync_record: Callable[[], dict[str, Any]],
    observer: Observer,
    checkpoints: Path,
    ranks: Ranks = ALONE,
) -> Trainer:
    """The trainer of a run, from its parts and from whoever listens (`Trainer` says what each is)."""
    return Trainer(
        algorithm=parts.algorithm,
        theta=parts.theta,
        problem=parts.problem,
        source=parts.source,
        schedule=parts.schedule,
        evaluator=parts.evaluator,
        optimizer=make(config, "optimizer"),
        lr_schedule=_lr_schedule(config, parts.problem),
        seed=config["seed"],
        device=parts.device,
        dtype=parts.dtype,
        task_chunk=parts.task_chunk,
        tracker=tracker,
        sync_record=sync_record,
        observer=observer,
        checkpoints=checkpoints,
        ranks=ranks,
        program=parts.program,
    )


def fitted(stored: Params, theta: MetaParameters, device: torch.device, dtype: torch.dtype) -> MetaParameters:
    """`theta` with the values of stored parameters, on the device.

    Raises:
        ConfigurationError: they do not fit the model.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in stored.items()}
    expected = {name: tuple(leaf.shape) for name, leaf in theta.items()}
    # What is not learned is there too where it is not as the seed makes it.
    expected |= {name: tuple(leaf.shape) for name, leaf in theta.unlearned.items() if name in shapes}
    if shapes != expected:
        differing = sorted(k for k in {*shapes, *expected} if shapes.get(k) != expected.get(k))
        raise ConfigurationError(
            f"the model must be the one that was trained, and {differing[0]} has shape {expected.get(differing[0])} "
            f"here and {shapes.get(differing[0])} in the checkpoint. Leave model and dataset.ways as they were."
        )
    return theta.updated(stored).map(lambda leaf: leaf.to(device, dtype))
