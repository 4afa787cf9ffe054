"""One trial of a model before anything is written: is the estimate that training will make of it right?"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch

from metarun.algorithm import Algorithm
from metarun.algorithm.bilevel import TaskGradients
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.errors import ConfigurationError, SimulationError
from metarun.maths.trees import Params, norm_per_task
from metarun.models.failures import describe, lacks_batching_rule
from metarun.problems.base import Problem
from metarun.problems.collected import keeping
from metarun.tasks.types import TaskBatch

TASKS, SHOTS, QUERIES = 2, 2, 1
"""Of the batch that is tried: tasks together and alone, and a first and another task of a chunk, are all that can differ."""
_INNER_STEPS = 1
_FAILURES = (RuntimeError, ValueError, TypeError)
"""Of a model, and of PyTorch about it; anything else is a bug of ours."""
_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-6}
"""Between tasks at once and one by one, relative: rounding, as inner steps and linear systems enlarge it."""


def try_model(algorithm: Algorithm, problem: Problem, model: Params, tasks: TaskBatch) -> None:
    """Make the algorithm's own estimate for a few tasks, all at once, in two chunks, and one by one without `vmap`.

    Where `vmap` has no rule for something that the model does, tasks are worked on one by one from here on
    (`Learner.one_by_one`).

    Args:
        model: the model's parameters, on the device and in the number format of the run.
        tasks: `TASKS` tasks, there too.
    Raises:
        ValueError: the model cannot be lifted over tasks or not be differentiated as often as the algorithm does, or the
            results differ; in one line.
        ConfigurationError: what the data are collected from does what it may not.
    """
    learner = problem.learner
    steps = min(algorithm.inner.steps, _INNER_STEPS)  # more of the same would only take longer
    algorithm = dataclasses.replace(algorithm, inner=dataclasses.replace(cast(Any, algorithm.inner), steps=steps))

    # What is collected may be chaotic, and rounding decide where it ends: the comparison is of the same data.
    kept = keeping(problem)

    def estimate(batch: TaskBatch, theta: MetaParameters) -> TaskGradients:
        return algorithm.estimate(theta, kept, batch)

    theta = algorithm.meta_parameters(problem, model)
    whole = None
    if learner.one_by_one is None:
        try:
            whole = estimate(tasks, theta)
        except SimulationError as error:
            raise ConfigurationError(str(error)) from error
        except _FAILURES as error:
            operation = lacks_batching_rule(error)
            if operation is None:
                raise ValueError(_failed(error, learner.module)) from error
            learner.one_by_one = operation
    with learner.looping("the trial"), learner.strict():
        alone = _tried(lambda: estimate(tasks, theta), learner.module)
    if whole is not None:
        others = [whole]
        if not problem.data_depend_on_params:
            pieces = tasks.chunks(len(tasks) - 1)
            found = [_tried(lambda piece=piece: estimate(piece, theta), learner.module) for piece in pieces]
            others.append(_joined(found))
        differing = _differing(alone, others, next(iter(model.values())).dtype)
        if differing is not None and not _agree_in_float64(algorithm, problem, model, tasks):
            raise ValueError(
                f"the model ({type(learner.module).__name__}) gives task {differing[0]} another meta-gradient when tasks "
                f"are worked on together than when it is alone (relative difference {differing[1]:.1e}): something in it "
                "mixes tasks or is lifted wrongly by vmap. Write it in PyTorch's own functions of each example"
            )
    if algorithm.direction.needs_tasks:
        step = {"theta": theta, "problem": problem, "tasks": tasks, "task_chunk": len(tasks) - 1}
        fresh = tasks if algorithm.num_fresh_tasks else None  # any tasks will do
        _tried(lambda: algorithm.meta_step(**step, fresh=fresh), learner.module)
    _tried(lambda: algorithm.adapt(theta, problem, tasks, steps), learner.module)


def _tried(function: Callable[[], Any], module: torch.nn.Module) -> Any:
    try:
        return function()
    except SimulationError as error:  # of what collects the data, which is no part of the model
        raise ConfigurationError(str(error)) from error
    except _FAILURES as error:
        raise ValueError(_failed(error, module)) from error


def _failed(error: Exception, module: torch.nn.Module) -> str:
    return f"a trial of the meta-gradient failed: {describe(error, module)}"


def _joined(pieces: list[TaskGradients]) -> TaskGradients:
    gradient = {name: torch.cat([piece.gradient[name] for piece in pieces]) for name in pieces[0].gradient}
    return TaskGradients(gradient, torch.cat([piece.query_loss for piece in pieces]), {}, {})


def _differing(alone: TaskGradients, others: list[TaskGradients], dtype: torch.dtype) -> tuple[int, float] | None:
    """The first task whose meta-gradient or query loss is another one, and how far they are apart; None if there is none.

    What is not finite is nobody's fault here: the settings may be wild, and training says so.
    """
    size = norm_per_task(alone.gradient)
    for other in others:
        apart = {name: leaf - other.gradient[name] for name, leaf in alone.gradient.items()}
        relative = torch.maximum(
            norm_per_task(apart) / (size + torch.finfo(dtype).tiny),
            # beside the gradient, as a loss may come to 0 by itself
            (alone.query_loss - other.query_loss).abs() / (alone.query_loss.abs() + size + torch.finfo(dtype).tiny),
        )
        wrong = (relative > _TOLERANCE[dtype]) & (size > torch.finfo(dtype).eps)
        if bool(wrong.any()):
            task = int(wrong.nonzero()[0])
            return task, float(relative[task])
    return None


def _agree_in_float64(algorithm: Algorithm, problem: Problem, model: Params, tasks: TaskBatch) -> bool:
    """Whether what differs in float32 is rounding: it is then gone in float64."""
    learner = problem.learner
    leaf = next(iter(model.values()))
    if leaf.dtype == torch.float64:
        return False
    theta = algorithm.meta_parameters(problem, {name: value.double() for name, value in model.items()})
    tasks = tasks.to(leaf.device, torch.float64)
    learner.to(leaf.device, torch.float64)
    try:
        kept = keeping(problem)
        others = [algorithm.estimate(theta, kept, tasks)]
        if not problem.data_depend_on_params:
            others.append(_joined([algorithm.estimate(theta, kept, piece) for piece in tasks.chunks(len(tasks) - 1)]))
        with learner.looping("the trial"):
            alone = algorithm.estimate(theta, kept, tasks)
    except _FAILURES:  # a model of float32 alone: nothing can be compared
        return True
    finally:
        learner.to(leaf.device, leaf.dtype)
    return _differing(alone, others, torch.float64) is None
