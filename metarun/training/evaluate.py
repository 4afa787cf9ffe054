"""Evaluating meta-parameters on a fixed list of tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.func import vmap

from metarun import checks
from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.maths.stats import Summary, diverged, summarize
from metarun.problems.base import Problem, outputs_of
from metarun.tasks.types import Split, TaskSource


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The protocol of validation and test. Task k of a split is a function of (seed, split, k) alone.

    Attributes:
        seed: of the tasks; independent of the run's seed, so results of different runs are paired.
        tasks, val_tasks: number of test and validation tasks.
        shots, queries: support and query examples of a test task, per class where there are classes.
        val_shots, val_queries: of a validation task; None for those of a test task.
        inner_steps: numbers of inner steps to measure after, the largest of them for the result that counts.
    """

    seed: int
    tasks: int
    val_tasks: int
    shots: int
    queries: int
    inner_steps: Sequence[int]
    val_shots: int | None = None
    val_queries: int | None = None

    def __post_init__(self) -> None:
        checks.integer("seed", self.seed, minimum=0)
        for name in ("tasks", "val_tasks"):
            checks.integer(name, getattr(self, name), minimum=2)
        for name in ("shots", "queries", "val_shots", "val_queries"):
            if not (name.startswith("val_") and getattr(self, name) is None):
                checks.integer(name, getattr(self, name), minimum=1)
        if not isinstance(self.inner_steps, Sequence) or isinstance(self.inner_steps, str):
            raise ValueError(f"inner_steps must be a list of integers, such as [0,1,10], got {self.inner_steps!r}")
        for steps in self.inner_steps:
            checks.integer("inner_steps", steps, minimum=0)

    def examples(self, split: Split) -> tuple[int, int]:
        """Support and query examples of a task of `split`, val or test."""
        if split != "val":
            return self.shots, self.queries
        shots = self.shots if self.val_shots is None else self.val_shots
        return shots, self.queries if self.val_queries is None else self.val_queries

    def measured_steps(self, training_steps: int) -> list[int]:
        """`inner_steps` and the training number, ascending and each once."""
        return sorted({*self.inner_steps, training_steps})


@dataclass(frozen=True)
class Measurement:
    """Per-task metrics after one number of inner steps.

    `diverged` are the tasks of which a metric is not finite, or whose score is a loss far beyond that of the others.
    """

    inner_steps: int
    metrics: dict[str, list[float]]
    diverged: list[int]

    def summary(self, metric: str) -> Summary:
        """Mean and interval over tasks."""
        return summarize(self.metrics[metric], len(self.diverged))


@dataclass(frozen=True)
class Evaluator:
    """What an evaluation needs beside theta; holds no state.

    Attributes:
        chunk: tasks worked on at once; changes results by rounding alone.
    """

    algorithm: Algorithm
    problem: Problem
    source: TaskSource
    evaluation: Evaluation
    device: torch.device
    dtype: torch.dtype
    chunk: int

    def __call__(
        self,
        theta: MetaParameters,
        split: Split,
        num_tasks: int,
        inner_steps: Sequence[int],
        advanced: Callable[[float], None] = lambda share: None,
    ) -> list[Measurement]:
        """Metrics of tasks 0 to num_tasks - 1 of `split`, after each number of inner steps, ascending. Leaves theta as it is.

        Args:
            advanced: told the share that is done, from 0 to 1, after each chunk of tasks and number of inner steps.
        """
        collected: list[dict[str, list[float]]] = [{} for _ in inner_steps]
        last = inner_steps[-1]
        for start in range(0, num_tasks, self.chunk):
            indices = torch.arange(start, min(start + self.chunk, num_tasks), device=self.device)
            examples = self.evaluation.examples(split)
            tasks = self.source.sample(self.evaluation.seed, split, indices, *examples).to(self.device, self.dtype)
            adapted = self.algorithm.adaptations(theta, self.problem, tasks, inner_steps)
            for steps, metrics, phi in zip(inner_steps, collected, adapted, strict=True):
                with torch.no_grad():
                    query = self.problem.query(tasks, phi, steps)
                    values = vmap(self.problem.metrics)(outputs_of(self.problem, phi, query), query.targets)
                for name, value in values.items():  # read now: a device has then done what is told to be done
                    metrics.setdefault(name, []).extend(value.tolist())
                advanced((start + len(indices) * (steps / last if last else 1.0)) / num_tasks)
        return [Measurement(s, m, self._diverged(m)) for s, m in zip(inner_steps, collected, strict=True)]

    def _diverged(self, metrics: dict[str, list[float]]) -> list[int]:
        score, is_loss = self.problem.score, not self.problem.higher_is_better
        tasks = {t for name, values in metrics.items() for t in diverged(values, is_loss=is_loss and name == score)}
        return sorted(tasks)
