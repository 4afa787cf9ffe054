"""What directions ask of a step's adapted models: their Fisher matrix, and what becomes of them when theta moves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from metarun.algorithm.bilevel import Bilevel
from metarun.algorithm.protocols import AdaptedTasks, HasJacobian, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.operators import LinearOperator, gauss_newton
from metarun.maths.trees import Params, detached
from metarun.problems.base import divergences_of, outputs_of

Point = Literal["phi", "pullback", "theta"]


def fisher(
    chunks: Sequence[AdaptedTasks],
    meta_gradient: MetaGradient,
    ranks: Ranks,
    *,
    point: Point,
    recompute: bool = False,
) -> LinearOperator:
    """The mean over all tasks of all ranks of the Fisher (Gauss-Newton) matrices on the query inputs, on vectors [1, D].

    Args:
        point: "phi": at the adapted parameters; "pullback": P' F P with P = d phi / d theta, symmetric since the estimator has one
            linear map for P and its transpose, and exact as far as that is (`jacobian` of the estimator says how far);
            "theta": at theta, before adaptation.
        recompute: make the matrices' graphs anew in each product.
    """
    makers = [lambda chunk=chunk: _sum(chunk, meta_gradient, point) for chunk in chunks]
    made = None if recompute else [make() for make in makers]
    count = num_tasks(chunks, ranks)

    def apply(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for product in made or (make() for make in makers):
            total = total + product(vectors)
        return ranks.sum(total) / count

    return LinearOperator(apply)


def num_tasks(chunks: Sequence[AdaptedTasks], ranks: Ranks) -> Tensor:
    """Of all ranks, a scalar."""
    like = next(iter(chunks[0].gradients.params.values()))
    return ranks.sum(like.new_full((), float(sum(len(chunk.bilevel) for chunk in chunks))))


def change_of_loss(direction: Params, chunks: Sequence[AdaptedTasks], ranks: Ranks) -> Tensor:
    """By how much the mean query loss changes when theta moves against the direction by a whole step."""
    changes = []
    for chunk in chunks:
        there = moved(chunk.bilevel, direction)
        phi = there.solve().params
        with torch.no_grad():
            changes.append(there.query_loss(phi) - chunk.gradients.query_loss)
    return ranks.sum(torch.cat(changes).sum()) / num_tasks(chunks, ranks)


def change_and_divergence(direction: Params, chunks: Sequence[AdaptedTasks], ranks: Ranks) -> tuple[Tensor, Tensor]:
    """As `change_of_loss`, and how far the adapted models' outputs are then from what they were (mean over tasks); scalars."""
    totals = []
    for chunk in chunks:
        there = moved(chunk.bilevel, direction)
        problem, tasks, steps = there.inner.problem, there.inner.tasks, there.steps
        params = detached(there.inner.complete(there.solve().params))
        with torch.no_grad():
            data = problem.query(tasks, params, steps)
            before, now = outputs_of(problem, chunk.gradients.params, data), outputs_of(problem, params, data)
            change = there.query_loss_of(params) - chunk.gradients.query_loss
            totals.append(torch.stack([change, divergences_of(problem, now, before, data)]).sum(1))
    change, divergence = ranks.sum(torch.stack(totals).sum(0)) / num_tasks(chunks, ranks)
    return change, divergence


def moved(bilevel: Bilevel, direction: Params) -> Bilevel:
    """The same tasks with theta moved against a direction, leaves without task axis."""
    theta = bilevel.theta
    there = theta.updated({name: torch.sub(leaf, direction[name]) for name, leaf in theta.items()})
    return replace(bilevel, inner=bilevel.inner.at_theta(there))


def _sum(chunk: AdaptedTasks, meta_gradient: MetaGradient, point: Point) -> Callable[[Tensor], Tensor]:
    """Of one chunk's tasks: v [1, D] -> the sum of their products, [1, D]."""
    bilevel, complete = chunk.bilevel, chunk.gradients.params
    inner, theta = bilevel.inner, bilevel.theta
    problem = inner.problem
    if point == "theta":
        complete = detached(inner.complete(inner.start))
    params = {name: complete[name] for name in theta}
    unlearned = {name: complete[name] for name in theta.unlearned}
    data = problem.query(inner.tasks, complete, 0 if point == "theta" else bilevel.steps)
    matrices = gauss_newton(
        lambda p: outputs_of(problem, p | unlearned, data),
        lambda outputs, reference: divergences_of(problem, outputs, reference, data),
        params,
    )
    jacobian = None
    if point == "pullback":
        assert isinstance(meta_gradient, HasJacobian)  # else the composition is refused
        jacobian = meta_gradient.jacobian(bilevel, {name: complete[name] for name in inner.start})

    def product(vectors: Tensor) -> Tensor:
        each = vectors.expand(len(bilevel), -1)
        turned = matrices.apply(each) if jacobian is None else jacobian.pull(matrices.apply(jacobian.push(each)))
        return turned.sum(0, keepdim=True)

    return product
