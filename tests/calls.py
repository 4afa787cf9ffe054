"""An algorithm's calls on theta as a dict: the model's leaves, and learned ones by their names."""

from collections.abc import Mapping

from torch import Tensor

from metarun.algorithm import Algorithm
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import MetaEstimate
from metarun.algorithm.proximal import ProximalTerm


def sorted_theta(algorithm: Algorithm, theta: Mapping[str, Tensor], problem) -> MetaParameters:
    """The record of a dict."""
    if isinstance(theta, MetaParameters):
        return theta
    model = {name: leaf for name, leaf in theta.items() if not name.startswith(("inner/", "proximal_weight/"))}
    return algorithm.meta_parameters(problem, model).updated(theta)


def meta_step(
    algorithm: Algorithm, theta, problem, tasks, task_chunk=None, state=None, step=0, **others
) -> MetaEstimate:
    theta = sorted_theta(algorithm, theta, problem)
    return algorithm.meta_step(
        theta=theta, problem=problem, tasks=tasks, task_chunk=task_chunk, state=state, step=step, **others
    )


def task_gradients(algorithm: Algorithm, theta, problem, tasks, step=0) -> TaskGradients:
    return algorithm.estimate(sorted_theta(algorithm, theta, problem), problem, tasks, step)


def adapt(algorithm: Algorithm, theta, problem, tasks, steps=None) -> dict[str, Tensor]:
    return algorithm.adapt(sorted_theta(algorithm, theta, problem), problem, tasks, steps)


def bilevel(algorithm: Algorithm, theta, problem, tasks) -> Bilevel:
    return algorithm.bilevel(sorted_theta(algorithm, theta, problem), problem, tasks)


def inner_problem(problem, tasks, theta: Mapping[str, Tensor], weight=0.0) -> InnerProblem:
    """With every leaf adapted; theta without task axis."""
    record = MetaParameters(tuple(theta), dict(theta), {}).expand(len(tasks))
    return InnerProblem.of(problem, tasks, record, ProximalTerm(weight))
