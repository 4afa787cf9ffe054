"""An algorithm: one inner solver, one meta-gradient, one direction, lambda, and which parameters are adapted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.adapted import adapted_names
from metarun.algorithm.compatible import refuse_impossible
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.parts import (
    Adapted,
    Direction,
    Episode,
    Estimate,
    InnerSolution,
    InnerSolver,
    MetaEstimate,
    MetaGradient,
    TaskGradients,
)
from metarun.algorithm.proximal import ProximalWeight
from metarun.maths.ranks import ALONE, Ranks
from metarun.maths.trees import Params, axpy, detached, expand
from metarun.problems.base import Problem
from metarun.tasks.types import Examples, TaskBatch

_INNER, _PROXIMAL = "inner/", "proximal_weight/"


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A composition of parts; pairs that make no sense are refused here.

    theta holds the model's parameters and whatever else is meta-learned beside them, under the names `inner/...` (the inner
    solver's rates) and `proximal_weight/...` (the logarithm of lambda).

    Attributes:
        proximal_weight: lambda of the inner objective, >= 0, or by patterns of names (`ProximalWeight`); the implicit
            meta-gradient needs > 0.
        learn_proximal_weight: "never", "scalar", "layer" or "parameter".
        eval_proximal_weight: lambda in evaluation, where it is another; null for the same. iMAML's released code tests with 0.
        adapted: "all", "head" (ANIL), "body" (BOIL), or patterns of parameter names; the others are meta-learned alone.
    """

    inner: InnerSolver
    meta_gradient: MetaGradient
    direction: Direction
    proximal_weight: float | Mapping[str, float]
    learn_proximal_weight: str = "never"
    eval_proximal_weight: float | None = None
    adapted: str | Sequence[str] = "all"

    def __post_init__(self) -> None:
        if self.eval_proximal_weight is not None:
            checks.number("eval_proximal_weight", self.eval_proximal_weight, minimum=0)
        refuse_impossible(self.inner, self.meta_gradient, self.direction, self._proximal, self.adapted)

    @property
    def _proximal(self) -> ProximalWeight:
        return ProximalWeight(self.proximal_weight, self.learn_proximal_weight)

    def check(self, problem: Problem, theta: Params) -> None:
        """Refuse what does not fit the model or the problem; `theta` are the model's parameters.

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
        taken = sorted(name for name in theta if name.startswith((_INNER, _PROXIMAL)))
        if taken:
            raise ValueError(f"the model's parameter {taken[0]} has a name that the algorithm uses itself; rename it")
        names = self.adapted_names(problem, theta)
        self._proximal.check(names)
        self.inner.check(problem, {name: theta[name] for name in names})

    def start(self) -> dict[str, Any]:
        """What `meta_step` is given as `state` in the first step."""
        return self.direction.start()

    def adapted_names(self, problem: Problem, theta: Params) -> list[str]:
        """Which of the model's parameters are adapted."""
        head = problem.learner.head_parameters if self.adapted in ("head", "body") else ()
        return adapted_names(self.adapted, list(theta), head)

    def meta_parameters(self, problem: Problem, theta: Params) -> Params:
        """All meta-parameters before the first step, from the model's."""
        adapted = {name: theta[name] for name in self.adapted_names(problem, theta)}
        learned = {_INNER + name: leaf for name, leaf in self.inner.meta_parameters(adapted).items()}
        learned |= {_PROXIMAL + name: leaf for name, leaf in self._proximal.meta_parameters(adapted).items()}
        return theta | learned

    def adapt(self, theta: Params, problem: Problem, support: Examples, steps: int | None = None) -> InnerSolution:
        """phi for every task, without graph, adapted and frozen leaves together; all that evaluation needs.

        Args:
            theta: all meta-parameters, leaves without task axis.
            support: [B, S, ...].
            steps: inner steps, in place of the solver's own number; 0 leaves theta as it is.
        """
        proximal = self._proximal
        if self.eval_proximal_weight is not None:
            proximal = ProximalWeight(self.eval_proximal_weight)
        theta = expand(detached(theta), len(support.inputs))
        inner, learned = self._set_up(theta, problem, support, proximal)
        solution = self.inner.solve(inner, learned, steps)
        return InnerSolution(detached(solution.params | inner.frozen), solution.stats)

    def episode(self, problem: Problem, tasks: TaskBatch, step: int = 0) -> Episode:
        """The tasks as estimators see them."""
        proximal = self._proximal
        return Episode(
            problem,
            tasks,
            self.inner,
            lambda theta: self._set_up(theta, problem, tasks.support, proximal),
            lambda theta, by_parameter: {
                _PROXIMAL + name: leaf
                for name, leaf in proximal.gradient(_inside(theta, _PROXIMAL), by_parameter).items()
            },
            step,
        )

    def estimate(self, theta: Params, problem: Problem, tasks: TaskBatch, step: int = 0) -> TaskGradients:
        """Each task's meta-gradient; theta are all meta-parameters, leaves without task axis."""
        return self.meta_gradient.estimate(expand(detached(theta), len(tasks)), self.episode(problem, tasks, step))

    def meta_step(
        self,
        theta: Params,
        problem: Problem,
        tasks: TaskBatch,
        task_chunk: int | None = None,
        state: dict[str, Any] | None = None,
        step: int = 0,
        ranks: Ranks = ALONE,
        estimate: Estimate | None = None,
    ) -> MetaEstimate:
        """What the optimizer is to be given for this batch of tasks.

        Args:
            theta: all meta-parameters, leaves without task axis.
            tasks: B tasks, on the device; where several ranks share the step, this rank's part of them, at least one.
            task_chunk: work on at most so many tasks at once; bounds memory, and changes the result by rounding alone.
            state: what the last step returned; None for the first.
            step: the outer step's number, for what changes in the course of training.
            ranks: who else works on the step.
            estimate: in place of the method: the same, compiled.
        Returns:
            MetaEstimate: `gradient` is the direction, of the tasks of all ranks; losses and statistics are of these tasks.
        """
        state = self.start() if state is None else state
        total: Params | None = None
        losses: list[Tensor] = []
        stats: list[dict[str, Tensor]] = []
        chunks: list[Adapted] = []
        for piece in tasks.chunks(task_chunk or len(tasks)):
            gradients = (estimate or self.estimate)(theta, problem, piece, step)
            mean = {name: gradients.gradient[name].mean(0) for name in theta}
            share = len(piece) / len(tasks)
            total = {n: share * leaf for n, leaf in mean.items()} if total is None else axpy(share, mean, total)
            losses.append(gradients.query_loss)
            stats.append(gradients.stats)
            if self.direction.needs_tasks:
                episode = self.episode(problem, piece, step)
                chunks.append(Adapted(episode, expand(detached(theta), len(piece)), gradients))
        total = _mean_over_ranks(total, len(tasks), ranks)
        direction, direction_stats, state = self.direction.direction(total, chunks, self.meta_gradient, state, ranks)
        joined = {name: torch.cat([piece[name] for piece in stats]) for name in stats[0]}
        return MetaEstimate(direction, torch.cat(losses), joined | direction_stats, state)

    def advice(self, means: Mapping[str, float]) -> str | None:
        """A warning in words, from the means of a run's statistics, where a number is not what its name says."""
        return self.meta_gradient.advice(means)

    def _set_up(
        self, theta: Params, problem: Problem, support: Examples, proximal: ProximalWeight
    ) -> tuple[InnerProblem, Params]:
        """The inner problems anchored at theta, leaves [B, ...], and the solver's own meta-parameters."""
        model = {name: leaf for name, leaf in theta.items() if not name.startswith((_INNER, _PROXIMAL))}
        anchor = {name: model[name] for name in self.adapted_names(problem, model)}
        frozen = {name: leaf for name, leaf in model.items() if name not in anchor}
        weight = proximal.weight(_inside(theta, _PROXIMAL), anchor)
        return InnerProblem(problem, support, anchor, weight, frozen), _inside(theta, _INNER)


def _mean_over_ranks(mean: Params, num_tasks: int, ranks: Ranks) -> Params:
    """The mean over all tasks from each rank's own, by one sum of one vector."""
    if ranks.size == 1:
        return mean
    count = next(iter(mean.values())).new_tensor([float(num_tasks)])
    flat = ranks.sum(torch.cat([*(num_tasks * leaf.flatten() for leaf in mean.values()), count]))
    pieces = (flat[:-1] / flat[-1]).split([leaf.numel() for leaf in mean.values()])
    return {name: piece.view(leaf.shape) for (name, leaf), piece in zip(mean.items(), pieces, strict=True)}


def _inside(theta: Params, prefix: str) -> Params:
    return {name.removeprefix(prefix): leaf for name, leaf in theta.items() if name.startswith(prefix)}
