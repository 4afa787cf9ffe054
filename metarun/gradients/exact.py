"""The exact meta-gradient: solve the inner problem to rounding, then the implicit system to rounding."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun.algorithm import Algorithm, ConjugateGradient, Dense, Implicit, Minres, NewtonCG
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.inner.loop import solve
from metarun.algorithm.inner_problem import InnerProblem
from metarun.algorithm.meta_gradient.solver.system import LinearSolver
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import InnerSolution
from metarun.maths.trees import Params, detached
from metarun.problems.base import Problem
from metarun.tasks.types import TaskBatch

MAX_DENSE = 2000
"""Adapted parameters up to which the system is factorised; four tasks of this size take half a minute on one core."""
_MAX_CG_STEPS = 1000
_CG_RTOL = 1e-10
_SOLVED = 1e-8


@dataclass(frozen=True)
class Exact:
    """The exact meta-gradients of B tasks, and how exact they are.

    Attributes:
        gradient: leaves [B, ...] of the model's parameters.
        params: phi*, adapted leaves [B, ...].
        residual: [B], the inner objective's gradient at phi* over that at theta.
        solved: [B], whether phi* is a stationary point to rounding (1e-8 in float64).
        system_residual: [B], of the linear system, relative to the query gradient.
        min_curvature: [B], the smallest curvature of I + H / lambda met ("dense": its smallest eigenvalue).
        method: "dense", "cg" or "minres".
    """

    gradient: Params
    params: Params
    residual: Tensor
    solved: Tensor
    system_residual: Tensor
    min_curvature: Tensor
    method: str


@dataclass(frozen=True)
class _At:
    """An inner solver that has its answer already."""

    params: Params
    steps: int = 0
    is_differentiable: ClassVar[bool] = False
    descends: ClassVar[bool] = True

    def start(self, inner: InnerProblem, phi: Params) -> "_At":
        """The answer."""
        return self

    def step(self, inner: InnerProblem, state: "_At", number: int) -> "_At":
        """None."""
        return state

    def solution(self, inner: InnerProblem, state: "_At", steps: int) -> InnerSolution:
        """The answer."""
        return InnerSolution(self.params, {})


def exact_gradient(
    algorithm: Algorithm,
    theta: MetaParameters,
    problem: Problem,
    tasks: TaskBatch,
    *,
    solver_steps: int,
    newton_steps: int,
) -> Exact:
    """d query loss(phi*) / d theta = (H + L)^-1 L dloss/dphi, with phi* the minimiser of the inner objective and L = lambda.

    Where the inner objective has several minima, the one in whose basin the algorithm's own inner solver ends is meant: its
    steps come first, Newton's with the exact Hessian go on from there. Where kinks (ReLU) keep Newton from a stationary
    point, the point of smallest gradient stands, and `solved` says so. The system is factorised up to `MAX_DENSE` adapted
    parameters, else solved by conjugate gradients, or by MINRES where these meet negative curvature.

    Args:
        algorithm: with a proximal term.
        theta: leaves without task axis.
        solver_steps: of the algorithm's own inner solver, >= 0.
        newton_steps: at most.
    """
    bilevel = algorithm.bilevel(theta, problem, tasks)
    phi, residual = _minimiser(algorithm, bilevel.inner, solver_steps, newton_steps)
    if sum(leaf[0].numel() for leaf in phi.values()) <= MAX_DENSE:
        # One task at a time: a matrix of 2 000 x 2 000 is 32 MB.
        method = "dense"
        found = [
            _at(
                algorithm.bilevel(theta, problem, tasks[b : b + 1]),
                {n: leaf[b : b + 1] for n, leaf in phi.items()},
                Dense(),
            )
            for b in range(len(tasks))
        ]
    else:
        gradients, method = solved_to_the_end(lambda solver: _at(bilevel, phi, solver))
        found = [gradients]
    stats = {name: torch.cat([piece.stats[name] for piece in found]) for name in found[0].stats}
    return Exact(
        gradient={name: torch.cat([piece.gradient[name] for piece in found]) for name in (*phi, *bilevel.theta.fixed)},
        params=phi,
        residual=residual,
        solved=residual <= max(_SOLVED, 100 * torch.finfo(residual.dtype).eps),
        system_residual=stats["system/residual"],
        min_curvature=stats["system/min_curvature"],
        method=method,
    )


def solved_to_the_end(estimate: Callable[[LinearSolver], TaskGradients]) -> tuple[TaskGradients, str]:
    """An implicit gradient whose systems are solved to a relative residual of 1e-10, and by what: "cg" or "minres".

    Args:
        estimate: the gradient by a given linear solver. MINRES is asked where conjugate gradients meet negative curvature.
    """
    by_cg = ConjugateGradient(steps=_MAX_CG_STEPS, rtol=_CG_RTOL, atol=0.0, negative_curvature="stop")
    found = estimate(by_cg)
    if not found.stats["system/negative_curvature"].any():
        return found, "cg"
    end = estimate(Minres(steps=_MAX_CG_STEPS, rtol=_CG_RTOL))
    # Each sees the curvature along its own vectors alone; the smaller of the two is known.
    lowest = torch.minimum(end.stats["system/min_curvature"], found.stats["system/min_curvature"])
    return dataclasses.replace(end, stats=end.stats | {"system/min_curvature": lowest}), "minres"


def _minimiser(
    algorithm: Algorithm, inner: InnerProblem, solver_steps: int, newton_steps: int
) -> tuple[Params, Tensor]:
    """The adapted leaves where the objective's gradient is smallest, and how small it is, relative to theta's."""
    start = detached(inner.start)
    if solver_steps:
        moved = detached(solve(algorithm.inner, inner, solver_steps).params)
        with torch.no_grad():
            better = inner.value(moved) < inner.value(start)  # False where the steps diverged
        start = _chosen(better, moved, start)
    newton = NewtonCG(
        steps=newton_steps,
        cg_steps=200,
        curvature="hessian",
        damping=0.0,
        adapt_damping=True,
        rtol=0.0,
        forcing=True,
        progress_rtol=0.0,
        warm_start=0.0,
        max_backtracks=30,
        tolerance=10 * torch.finfo(next(iter(start.values())).dtype).eps,
    )
    end = solve(newton, inner, phi=start).params
    before, after = inner.residual(start), inner.residual(end)
    better = after < before
    return _chosen(better, end, start), torch.where(better, after, before)


def _chosen(choice: Tensor, one: Params, other: Params) -> Params:
    """Each task's leaves from `one` where `choice` [B] is true, else from `other`."""
    return {
        name: torch.where(choice.reshape(-1, *[1] * (leaf.dim() - 1)), leaf, other[name]) for name, leaf in one.items()
    }


def _at(bilevel: Bilevel, phi: Params, solver: LinearSolver) -> TaskGradients:
    """The implicit gradient with the exact Hessian at phi."""
    there = dataclasses.replace(bilevel, solver=_At(phi), steps=0)
    return Implicit(curvature="hessian", solver=solver, damping=0.0).estimate(there)
