"""The one training loop. It does not know which algorithm it runs."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LRScheduler

from metarun import checks
from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import MetaEstimate
from metarun.device.ranks import ALONE, Ranks
from metarun.device.stages import FIRST, stage, staged
from metarun.errors import TrainingError
from metarun.maths.stats import count_words
from metarun.problems.base import Problem
from metarun.run_folder.checkpoints import save_best, save_last
from metarun.run_folder.state import TrainState
from metarun.tasks.types import TaskBatch, TaskSource
from metarun.tracking.base import Tracker
from metarun.training.drawing import Drawing
from metarun.training.evaluate import Evaluator
from metarun.training.failures import STANDS, not_finite, out_of_memory, require_finite
from metarun.training.halving import halving
from metarun.training.observer import Observer
from metarun.training.optimizer import MakeOptimizer, MakeSchedule, watches_score
from metarun.training.optimizer_rule import OptimizerRule
from metarun.training.outer_step import OuterStep, numbers_of
from metarun.training.program import FIRST_STEPS, EagerSteps, NoProgram, captured, choose, compiled
from metarun.training.program_steps import ProgramSteps, no_program_for
from metarun.training.stop_requests import Interrupted, Stopped, StopRequests, stop_requests

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, on how many tasks a step, and the intervals between records, validations and checkpoints.

    Attributes:
        steps: outer steps.
        tasks_per_step: tasks averaged in one outer step.
        shots, queries: examples of a training task, per class where there are classes.
        log_every, eval_every, checkpoint_every: in outer steps; validation and a checkpoint also follow the last step.
    """

    steps: int
    tasks_per_step: int
    shots: int
    queries: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            checks.integer(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The collaborators of a run. Training tasks are a function of (seed, step), so a run may stop and go on anywhere.

    Attributes:
        theta: meta-parameters before the first step, on any device.
        optimizer, lr_schedule: constructors, of (list of parameters) and of (optimizer). A schedule that watches the score
            (`watches_score`) takes a step after each validation, any other after each outer step.
        task_chunk: tasks worked on at once, where the state names no number; all ranks take the first one's.
        sync_record: makes the metrics written so far durable and says how far they reach; called before each checkpoint,
            which supersedes none of them.
        checkpoints: the folder of last.pt, previous.pt and best.pt.
        ranks: the processes that share each step's tasks. The first validates and writes; the others only compute.
        program: how steps are taken (`Device.program`); "auto" decides after the first ones, and the state keeps what was decided.
    """

    algorithm: Algorithm
    theta: MetaParameters
    problem: Problem
    source: TaskSource
    schedule: Schedule
    evaluator: Evaluator
    optimizer: MakeOptimizer
    lr_schedule: MakeSchedule
    seed: int
    device: torch.device
    dtype: torch.dtype
    task_chunk: int
    tracker: Tracker
    sync_record: Callable[[], dict[str, Any]]
    observer: Observer
    checkpoints: Path
    ranks: Ranks = ALONE
    program: str = "eager"

    def start(self, fingerprint: str) -> TrainState:
        """The state before the first step."""
        leaves = list(self.theta.detached(requires_grad=True).values())
        optimizer = self.optimizer(leaves)
        lr_schedule = self.lr_schedule(optimizer)
        states = optimizer.state_dict(), lr_schedule.state_dict()
        return TrainState(0, dict(self.theta), *states, fingerprint, algorithm=self.algorithm.start())

    def run(self, state: TrainState) -> TrainState:
        """Train from `state` to the end.

        Raises:
            Stopped: on one of STOP_SIGNALS, after the step at hand and a checkpoint.
            TrainingError: a loss, a meta-gradient or parameters that are not finite, or the device's memory is full; the
                last checkpoint stands.
        """
        theta = self.theta.updated(state.theta).map(lambda leaf: leaf.detach().to(self.device, self.dtype, copy=True))
        for leaf in theta.values():
            leaf.requires_grad_()
        optimizer = self.optimizer(list(theta.values()))
        lr_schedule = self.lr_schedule(optimizer)
        optimizer.load_state_dict(state.optimizer)
        lr_schedule.load_state_dict(state.lr_schedule)
        state.theta = dict(theta)
        schedule = self.schedule
        started_at = time.perf_counter() - state.train_s
        diagnosed = warned = False
        batches = self._drawing.from_step(state.step)
        if state.task_chunk is None:
            state.task_chunk = int(self.ranks.of_first(float(self.task_chunk), self.device))
        eager = EagerSteps()
        program: ProgramSteps | None = None
        is_decided = False

        with stop_requests() as requests:
            while state.step < schedule.steps:
                if state.step >= FIRST_STEPS and not is_decided:
                    program = self._program(state, theta, optimizer, lr_schedule, eager, requests)
                    is_decided = True
                failed = None
                if program is not None:
                    failed = self._take(program, state, requests)
                    stopping = bool(requests)
                else:
                    stopping = self._step(state, theta, optimizer, lr_schedule, batches, eager, requests)
                is_last = state.step == schedule.steps
                is_validated = (state.step % schedule.eval_every == 0 or is_last) and failed is None
                is_saved = state.step % schedule.checkpoint_every == 0 or is_last or stopping or failed is not None
                if program is not None and (is_validated or is_saved):
                    program.settle()
                if is_validated or is_saved:
                    require_finite(theta, state.step)
                if (state.step % schedule.log_every == 0 or is_last) and state.count:
                    diagnosis = self._log(state, optimizer.param_groups[0]["lr"])
                    if diagnosis and not diagnosed:
                        _logger.warning("steps up to %d: %s", state.step, diagnosis)
                    diagnosed = diagnosed or diagnosis is not None
                if is_validated:
                    score, warning = self._validate(state, theta) if self.ranks.is_first else (0.0, None)
                    if warning and not warned:
                        _logger.warning("validation after step %d: %s", state.step, warning)
                    warned = warned or warning is not None
                    if watches_score(lr_schedule):
                        cast(Any, lr_schedule).step(self.ranks.of_first(score, self.device))
                state.train_s = time.perf_counter() - started_at
                if is_saved:
                    state.optimizer, state.lr_schedule = optimizer.state_dict(), lr_schedule.state_dict()
                    if self.ranks.is_first:
                        state.record = self.sync_record()
                        save_last(self.checkpoints, state)
                if failed is not None:
                    raise self._failure(state, theta)
                if stopping and not is_last:
                    raise Stopped(requests[0] if requests else signal.SIGTERM, state.step)
        return state

    def _step(
        self,
        state: TrainState,
        theta: MetaParameters,
        optimizer: torch.optim.Optimizer,
        lr_schedule: LRScheduler,
        batches: Iterator[TaskBatch],
        eager: EagerSteps,
        requests: list[int],
    ) -> bool:
        """One step, one operation after the other; returns whether any rank has been asked to stop."""
        started = time.perf_counter()
        with stage(FIRST):
            tasks = next(batches)
        sampled = time.perf_counter()
        with eager.watched():
            estimate = self._estimated(state, theta, tasks)
        stopping = self._record(state, estimate, tasks, bool(requests))
        for leaf, gradient in zip(theta.values(), estimate.gradient.values(), strict=True):
            leaf.grad = gradient
        with stage("optimizer"):
            optimizer.step()
        if not watches_score(lr_schedule):
            lr_schedule.step()
        state.algorithm = estimate.state
        state.step += 1
        eager.names = tuple(numbers_of(estimate))
        times = {"time/data_s": sampled - started, "time/step_s": time.perf_counter() - started}
        eager.seconds.append(times["time/step_s"])
        state.step_s += times["time/step_s"]
        for name, value in times.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        return stopping

    def _take(self, program: ProgramSteps, state: TrainState, requests: list[int]) -> int | None:
        """Steps of the program up to the next one at which something is due, or a look at them; `ProgramSteps.take`."""
        schedule = self.schedule
        intervals = schedule.log_every, schedule.eval_every, schedule.checkpoint_every
        until = min(schedule.steps, *(state.step - state.step % interval + interval for interval in intervals))
        first, loss_so_far = state.step, state.sums.get("train/loss", 0.0)
        failed = program.take(until, lambda: bool(requests))
        if taken := state.step - first:
            loss = (state.sums["train/loss"] - loss_so_far) / taken
            self.observer.stepped(state.step, loss, taken * schedule.tasks_per_step)
        return failed

    def _program(
        self,
        state: TrainState,
        theta: MetaParameters,
        optimizer: torch.optim.Optimizer,
        lr_schedule: LRScheduler,
        eager: EagerSteps,
        requests: StopRequests,
    ) -> ProgramSteps | None:
        """The program of the steps that remain, or None for one operation after the other; what is decided is kept in the state."""
        kind = state.program if self.program == "auto" and state.program else self.program
        if kind == "auto":
            kind = self._chosen(state, theta, eager)
        if kind == "eager":
            state.program = "eager"
            return None
        # A run that goes on from a checkpoint has taken no step yet that would have named them.
        names = eager.names or tuple(numbers_of(self._estimated(state, theta, self._drawing.of_step(state.step))))
        step = OuterStep(
            algorithm=self.algorithm,
            problem=self.problem,
            theta=theta.detached(),
            drawing=self._drawing,
            task_chunk=min(state.task_chunk or self.task_chunk, self.schedule.tasks_per_step),
            optimizer=OptimizerRule(self.optimizer),
            names=names,
        )
        self.observer.doing("compiling the outer step" if kind == "compiled" else "capturing the outer step")
        started = time.perf_counter()

        def made(task_chunk: int) -> ProgramSteps:
            whole = replace(step, task_chunk=task_chunk)
            make = compiled if kind == "compiled" else captured
            return ProgramSteps(make, whole, state, theta, optimizer, lr_schedule)

        try:
            with requests.at_once():
                program, state.task_chunk = halving(made, step.task_chunk)
        except Interrupted:
            state.program = kind  # the run goes on by it
            return None  # the loop ends after one more step
        except NoProgram as error:
            if self.program != "auto" or state.program == kind:
                raise TrainingError(f"device.program={kind}, and {error}. device.program=eager does without") from error
            _logger.warning("outer steps are taken one operation after the other: %s", error)
            state.program = "eager"
            return None
        state.program = kind
        state.sums.pop("time/data_s", None)  # drawing is no longer told apart
        _logger.info("the outer step is %s, after %.1f s", kind, time.perf_counter() - started)
        return program

    def _chosen(self, state: TrainState, theta: MetaParameters, eager: EagerSteps) -> str:
        """What "auto" comes to: after the same step wherever a run was taken up, since it decides how what follows is rounded."""
        if state.step > FIRST_STEPS:  # a checkpoint from before there were programs
            return "eager"
        why = no_program_for(self.problem, self.ranks, self.optimizer, self.lr_schedule, self.schedule.steps)
        if why:
            _logger.info("outer steps are taken one operation after the other: %s", why)
            return "eager"
        if self.device.type == "cuda":
            return "captured"
        while not eager.operations:  # most steps so far were another process's
            started = time.perf_counter()
            with eager.watched():
                self._estimated(state, theta, self._drawing.of_step(state.step))
            eager.seconds.append(time.perf_counter() - started)
        return choose(min(eager.seconds), eager.operations, self.schedule.steps - state.step)

    def _failure(self, state: TrainState, theta: MetaParameters) -> TrainingError:
        """Why the next step is not finite, seen by taking it once more by itself."""
        tasks = self._drawing.of_step(state.step)
        estimate = self._estimated(state, theta, tasks)
        saved = "The state before that step is saved."
        return not_finite(state.step, estimate.query_loss, estimate.stats, tasks, saved)

    @property
    def _drawing(self) -> Drawing:
        return Drawing(
            source=self.source,
            seed=self.seed,
            size=self.schedule.tasks_per_step,
            shots=self.schedule.shots,
            queries=self.schedule.queries,
            device=self.device,
            dtype=self.dtype,
            ranks=self.ranks,
            fresh_size=self.algorithm.num_fresh_tasks,
        )

    def _estimated(self, state: TrainState, theta: MetaParameters, tasks: TaskBatch) -> MetaEstimate:
        """Of this step's tasks; with fewer at once from here on where the device's memory is full.

        One of several ranks does not begin anew: it would go into sums that the others have left.
        """
        fresh = self._drawing.fresh_of_step(state.step)

        def work(task_chunk: int) -> MetaEstimate:
            return self.algorithm.meta_step(
                theta=theta,
                problem=self.problem,
                tasks=tasks,
                fresh=fresh,
                task_chunk=task_chunk,
                state=state.algorithm,
                step=state.step,
                ranks=self.ranks,
            )

        chunk = min(state.task_chunk or self.task_chunk, len(tasks))
        try:
            if self.ranks.size > 1:
                return work(chunk)
            estimate, done_with = halving(work, chunk)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(chunk if self.ranks.size > 1 else 1) from error
        if done_with < chunk:
            state.task_chunk = done_with
        return estimate

    @staged("record")
    def _record(self, state: TrainState, estimate: MetaEstimate, tasks: TaskBatch, asked_to_stop: bool) -> bool:
        """Add this step to the sums, with the step's only wait for the device; stop before a bad step moves anything.

        Returns:
            Whether any rank has been asked to stop: all stop after the same step.
        """
        losses, stats = estimate.query_loss, estimate.stats
        numbers = numbers_of(estimate)
        if self.ranks.size > 1:
            # Statistics of the whole step, and the gradient, are the same on all ranks.
            per_task = ["loss", *(name for name, value in stats.items() if value.dim())]
            counts = [losses.new_tensor(float(number)) for number in (len(losses), asked_to_stop)]
            sums = self.ranks.sum(torch.stack([*(len(losses) * numbers[name] for name in per_task), *counts]))
            numbers |= zip(per_task, sums[:-2] / sums[-2], strict=True)
            asked_to_stop = bool(sums[-1] > 0)
        values = torch.stack(list(numbers.values())).tolist()
        named = {f"train/{name}": value for name, value in zip(numbers, values, strict=True)}
        if not all(math.isfinite(named[f"train/{name}"]) for name in ("loss", "gradient_norm")):
            raise not_finite(state.step, losses, stats, tasks, STANDS)
        for name, value in named.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        state.count += 1
        amount = float(self.schedule.tasks_per_step)
        if self.problem.counted:
            amount *= named[f"train/{self.problem.counted}"]
            state.counted += amount
        self.observer.stepped(state.step + 1, named[f"train/{self.problem.watched}"], amount)
        return asked_to_stop

    def _log(self, state: TrainState, learning_rate: float) -> str | None:
        """Write the means since the last line; returns what the algorithm has to say about them."""
        means = {name: total / state.count for name, total in state.sums.items()}
        if self.problem.counted:
            means[f"train/{self.problem.counted}_so_far"] = state.counted
        self.tracker.log(state.step, means | {"train/learning_rate": learning_rate})
        state.sums, state.count = {}, 0
        return self.algorithm.diagnosis(means)

    def _validate(self, state: TrainState, theta: MetaParameters) -> tuple[float, str | None]:
        """Measure, remember the best state, and write a line; returns the score, and what to say of tasks that diverged."""
        steps = self.evaluator.evaluation.measured_steps(self.algorithm.inner.steps)[-1:]

        def advanced(share: float) -> None:
            self.observer.evaluating("val", share)

        (measurement,) = self.evaluator(theta, "val", self.evaluator.evaluation.val_tasks, steps, advanced)
        score = measurement.summary(self.problem.score)
        best = state.best_score
        better = score.is_finite and (  # what is no number compares with nothing, and ranks last
            best is None
            or not math.isfinite(best)
            or (score.mean > best if self.problem.higher_is_better else score.mean < best)
        )
        if better:
            state.best_score, state.best_step = score.mean, state.step
            # a copy, since the optimizer writes into theta
            state.best_theta = {name: leaf.detach().clone() for name, leaf in theta.items()}
            save_best(self.checkpoints, state)
        metrics = {f"val/{name}": measurement.summary(name).mean for name in measurement.metrics}
        metrics |= {f"val/{self.problem.score}_ci95": score.ci95, "val/diverged": score.num_diverged}
        self.tracker.log(state.step, metrics)
        self.observer.validated(state.step, score, better)
        if not measurement.diverged:
            return score.mean, None
        words = f"diverged after {steps[0]} inner steps: {count_words(measurement.diverged, score.num_tasks)}"
        words = words if score.is_finite else f"{words}; there is no score, and this state is not selected"
        return score.mean, words
