"""An algorithm: one inner solver, one meta-gradient, one direction, lambda, and which parameters are adapted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.adapted import adapted_names, names_by_pattern
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import refuse_impossible
from metarun.algorithm.inner.loop import solutions
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import (
    AdaptedTasks,
    ChangesInEvaluation,
    ChecksProblem,
    Direction,
    HasDiagnosis,
    InnerSolver,
    LearnsParameters,
    MetaEstimate,
    MetaGradient,
)
from metarun.algorithm.proximal import ProximalTerm
from metarun.device.course import is_rolled
from metarun.device.ranks import ALONE, Ranks
from metarun.device.stages import stage, staged
from metarun.maths.loops import repeat, untraced
from metarun.maths.structures import mapped, tensors_of, with_tensors
from metarun.maths.trees import Params, axpy, detached
from metarun.problems.base import Problem
from metarun.problems.collected import Collected, keeping
from metarun.tasks.types import TaskBatch


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A composition of parts; pairs that make no sense are refused here.

    Attributes:
        proximal_weight: lambda of the inner objective, >= 0, or by patterns of names (`ProximalTerm`); the implicit
            meta-gradient needs > 0.
        learn_proximal_weight: "never", "scalar", "layer" or "parameter".
        eval_proximal_weight: lambda in evaluation, where it is another; null for the same. iMAML's released code tests with 0.
        adapted: "all", "head" (ANIL), "body" (BOIL), or patterns of parameter names; the others are meta-learned alone.
        not_meta_learned: patterns of parameter names that the outer loop leaves as the model made them: adapted from there in
            each task (CAVIA's context), or frozen.
    """

    inner: InnerSolver
    meta_gradient: MetaGradient
    direction: Direction
    proximal_weight: float | Mapping[str, float]
    learn_proximal_weight: Literal["never", "scalar", "layer", "parameter"] = "never"
    eval_proximal_weight: float | None = None
    adapted: str | Sequence[str] = "all"
    not_meta_learned: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.eval_proximal_weight is not None:
            checks.number("eval_proximal_weight", self.eval_proximal_weight, minimum=0)
        if isinstance(self.not_meta_learned, str) or not all(isinstance(each, str) for each in self.not_meta_learned):
            raise ValueError(f"not_meta_learned must be a list of patterns of names, got {self.not_meta_learned!r}")
        refuse_impossible(
            self.inner, self.meta_gradient, self.direction, self.proximal_term, self.adapted, self.not_meta_learned
        )

    @property
    def proximal_term(self) -> ProximalTerm:
        """Of the inner objective, in training."""
        return ProximalTerm(self.proximal_weight, self.learn_proximal_weight)

    @property
    def learns_solver(self) -> bool:
        """Whether the inner solver has meta-parameters of its own."""
        return isinstance(self.inner, LearnsParameters)

    def check(self, problem: Problem, model: Params) -> None:
        """Refuse what does not fit the problem or the model, whose parameters are given.

        Raises:
            ValueError: `adapted` or `proximal_weight` name parameters that are not there, or the inner solver cannot work here;
                or nothing tells which label is which: it is drawn anew for each task, and only adapting to it finds it out.
        """
        if self.inner.steps == 0 and problem.score == "accuracy":
            raise ValueError(
                "a classification needs inner steps in training, got steps=0: labels are shuffled in every task, so a model "
                "that does not adapt learns chance. Set algorithm.inner.steps, or choose algorithm=protonet (class means) or "
                "algorithm=scratch as a baseline; algorithm=pretrain is for regression."
            )
        theta = self.meta_parameters(problem, model)
        self.proximal_term.check(list(theta.start))
        for part in (self.inner, self.meta_gradient, self.direction):
            if isinstance(part, ChecksProblem):
                part.check_problem(problem, theta.start)

    @property
    def num_fresh_tasks(self) -> int:
        """How many other tasks `meta_step` asks for, for the direction alone."""
        return self.direction.num_fresh_tasks

    def start(self) -> dict[str, Any]:
        """What `meta_step` is given as `state` in the first step."""
        return self.direction.start()

    def meta_parameters(self, problem: Problem, model: Params) -> MetaParameters:
        """theta before the first step, from the model's parameters."""
        head = problem.learner.head_parameters if self.adapted in ("head", "body") else ()
        names = adapted_names(self.adapted, list(model), head)
        start = {name: model[name] for name in names}
        return MetaParameters.of_model(
            model,
            adapted=names,
            unlearned=names_by_pattern("not_meta_learned", self.not_meta_learned, list(model)),
            solver=self.inner.meta_parameters(start) if isinstance(self.inner, LearnsParameters) else {},
            regulariser=self.proximal_term.meta_parameters(start),
        )

    def adaptations(
        self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, numbers: Sequence[int]
    ) -> Iterator[Params]:
        """Complete parameters of every task, leaves [B, ...], without graph, after each of these numbers of inner steps.

        This is all that evaluation needs. The numbers, ascending, are of one trajectory; 0 leaves theta as it is.

        Args:
            theta: leaves without task axis.
        """
        term = self.proximal_term
        if self.eval_proximal_weight is not None:
            term = ProximalTerm(self.eval_proximal_weight)
        inner = InnerProblem.of(keeping(problem), tasks, theta.detached().expand(len(tasks)), term)
        solver = self.inner.in_evaluation() if isinstance(self.inner, ChangesInEvaluation) else self.inner
        for solution in solutions(solver, inner, numbers):
            yield detached(inner.complete(solution.params))

    def adapt(self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, steps: int | None = None) -> Params:
        """`adaptations` after one number of steps; None: the solver's own."""
        (params,) = self.adaptations(theta, problem, tasks, [self.inner.steps if steps is None else steps])
        return params

    def bilevel(
        self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, outer_step: int | Tensor = 0
    ) -> Bilevel:
        """The tasks at theta, leaves without task axis, as estimators see them."""
        inner = InnerProblem.of(problem, tasks, theta.detached().expand(len(tasks)), self.proximal_term)
        return Bilevel(inner, self.inner, self.inner.steps, outer_step)

    def estimate(
        self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, outer_step: int | Tensor = 0
    ) -> TaskGradients:
        """Each task's meta-gradient; theta's leaves are without task axis."""
        return self.meta_gradient.estimate(self.bilevel(theta, problem, tasks, outer_step))

    def _estimated(
        self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, step: int | Tensor
    ) -> TaskGradients:
        """`estimate`, with what the problem has to say of the data that were collected."""
        found = self.estimate(theta, problem, tasks, step)
        if not isinstance(problem, Collected):
            return found
        return replace(found, stats=found.stats | problem.collected_statistics(self.inner.steps))

    def meta_step(
        self,
        *,
        theta: MetaParameters,
        problem: Problem,
        tasks: TaskBatch,
        fresh: TaskBatch | None = None,
        task_chunk: int | None = None,
        state: dict[str, Any] | None = None,
        step: int | Tensor = 0,
        ranks: Ranks = ALONE,
    ) -> MetaEstimate:
        """What the optimizer is to be given for this batch of tasks.

        Args:
            theta: leaves without task axis.
            tasks: B tasks, on the device; where several ranks share the step, this rank's part of them, at least one.
            fresh: this rank's part of `num_fresh_tasks` other tasks.
            task_chunk: work on at most so many tasks at once; bounds memory, and changes the result by rounding alone.
            state: what the last step returned; None for the first.
            step: the outer step's number, for what changes in the course of training.
            ranks: who else works on the step.
        Returns:
            MetaEstimate: `gradient` is the direction, of the tasks of all ranks; losses and statistics are of these tasks.
        """
        state = self.start() if state is None else state
        size = min(task_chunk or len(tasks), len(tasks))
        pieces = tasks.chunks(size)
        # Data that are collected are kept for the direction, which looks at the same tasks again.
        problems = [keeping(problem) for _ in pieces]
        if is_rolled() and len(pieces) > 2:
            total, found = self._in_a_loop(theta, problem, tasks, size, step)
            pieces, problems, estimates = [tasks], [problem], [found]
        else:
            total, estimates = {}, []
            for number, piece in enumerate(pieces):
                estimates.append(self._estimated(theta, problems[number], piece, step))
                total = _added(total, estimates[-1], len(piece) / len(tasks))
                if not self.direction.needs_tasks:
                    estimates[-1] = _numbers_alone(estimates[-1])
                    problems[number] = problem  # what was collected may go
        total = _mean_over_ranks({name: total[name] for name in theta}, len(tasks), ranks)
        chunks = [
            AdaptedTasks(self.bilevel(theta, asked, piece, step), found)
            for asked, piece, found in zip(problems, pieces, estimates, strict=True)
            if self.direction.needs_tasks
        ]
        if (fresh is None) != (self.num_fresh_tasks == 0):
            raise ValueError(
                f"fresh must be {self.num_fresh_tasks or 'no'} tasks, got {len(fresh) if fresh else 'none'}"
            )
        others = [] if fresh is None else [self._adapted(theta, problem, piece, step) for piece in fresh.chunks(size)]
        with stage("direction"):
            direction, direction_stats, state = self.direction.direction(
                total, chunks, self.meta_gradient, state, ranks, others
            )
        losses = torch.cat([found.query_loss for found in estimates])
        joined = {name: torch.cat([found.stats[name] for found in estimates]) for name in estimates[0].stats}
        return MetaEstimate(direction, losses, joined | direction_stats, state)

    @staged("fresh tasks")
    def _adapted(self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, step: int | Tensor) -> AdaptedTasks:
        """Tasks that are adapted and no more."""
        bilevel = self.bilevel(theta, keeping(problem), tasks, step)
        params = detached(bilevel.inner.complete(bilevel.solve().params))
        return AdaptedTasks(bilevel, TaskGradients({}, params[next(iter(params))].new_zeros(len(tasks)), params, {}))

    def _in_a_loop(
        self, theta: MetaParameters, problem: Problem, tasks: TaskBatch, size: int, step: int | Tensor
    ) -> tuple[Params, TaskGradients]:
        """The mean gradient and what else is needed of all tasks, chunk after chunk by a loop of a traced program."""
        keeps = self.direction.needs_tasks
        with untraced():
            example = self.estimate(theta, problem, tasks[:size], step)
        example = example if keeps else _numbers_alone(example)
        whole = len(tasks) // size

        def chunk(state: tuple[Params, TaskGradients], number: int | Tensor) -> tuple[Params, TaskGradients]:
            total, gathered = state
            rows = number * size + torch.arange(size, device=gathered.query_loss.device)
            found = self.estimate(theta, problem, mapped(tasks, lambda each: each.index_select(0, rows)), step)
            total = _added(total, found, size / len(tasks))
            parts = tensors_of(found if keeps else _numbers_alone(found))
            pairs = zip(tensors_of(gathered), parts, strict=True)
            return total, with_tensors(gathered, [each.index_copy(0, rows, part) for each, part in pairs])

        nothing = {name: torch.zeros_like(leaf.detach()) for name, leaf in theta.items()}
        room = mapped(example, lambda each: each.new_zeros(whole * size, *each.shape[1:]))
        total, gathered = repeat(chunk, (nothing, room), whole)
        if rest := len(tasks) - whole * size:
            last = self.estimate(theta, problem, tasks[whole * size :], step)
            total = _added(total, last, rest / len(tasks))
            pairs = zip(tensors_of(gathered), tensors_of(last if keeps else _numbers_alone(last)), strict=True)
            gathered = with_tensors(gathered, [torch.cat(pair) for pair in pairs])
        return total, gathered

    def diagnosis(self, means: Mapping[str, float]) -> str | None:
        """A warning in words, from the means of a run's statistics, where a number is not what its name says."""
        return self.meta_gradient.diagnosis(means) if isinstance(self.meta_gradient, HasDiagnosis) else None


def _added(total: Params, found: TaskGradients, share: float) -> Params:
    """`total` and the mean gradient of some tasks, weighed by their share of all."""
    mean = {name: leaf.mean(0) for name, leaf in found.gradient.items()}
    return axpy(share, mean, total) if total else {name: share * leaf for name, leaf in mean.items()}


def _numbers_alone(found: TaskGradients) -> TaskGradients:
    """Without what is as large as the parameters of every task."""
    return replace(found, gradient={}, params={})


def _mean_over_ranks(mean: Params, num_tasks: int, ranks: Ranks) -> Params:
    """The mean over all tasks from each rank's own, by one sum of one vector."""
    if ranks.size == 1:
        return mean
    count = next(iter(mean.values())).new_tensor([float(num_tasks)])
    flat = ranks.sum(torch.cat([*(num_tasks * leaf.flatten() for leaf in mean.values()), count]))
    pieces = (flat[:-1] / flat[-1]).split([leaf.numel() for leaf in mean.values()])
    return {name: piece.view(leaf.shape) for (name, leaf), piece in zip(mean.items(), pieces, strict=True)}
