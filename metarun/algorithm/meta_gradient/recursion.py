"""MAML's meta-gradient by its own recursion, with curvature products in place of a graph (HF-MAML by finite differences)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from metarun import checks
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import need_curvature, need_equal_steps
from metarun.algorithm.inner.loop import trajectory
from metarun.algorithm.inner_problem import CURVATURES, Curvature
from metarun.algorithm.meta_gradient.differences import diagnosis_of_differences, disagreement_of
from metarun.algorithm.protocols import InnerSolver
from metarun.algorithm.proximal import ProximalTerm
from metarun.maths.trees import Params, axpy, detached, norm_per_task, ravel, relative_norm, unravel
from metarun.problems.base import Problem


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """u <- query gradient at phi_K; u <- u - alpha C(phi_k) u for k = K-1, ..., 0; with gradient descent as inner solver.

    With the Hessian this is `Unrolled`, with K copies of the parameters in memory and no graph; by finite differences it is
    HF-MAML, which takes no second derivative; `curvature/disagreement` [B] then says how far to trust it (`differences`).

    Attributes:
        curvature: C, of the support loss (`InnerProblem.curvature`).
    Source: the chain rule of Finn et al. 2017, algorithm 2; Fallah, Mokhtari and Ozdaglar 2020 (HF-MAML), whose three
        independent batches are here one support set, as in MAML.
    """

    curvature: Curvature
    is_gradient: ClassVar[bool] = True
    learns_solver: ClassVar[bool] = False
    learns_regulariser: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.one_of("curvature", self.curvature, CURVATURES)

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` unless the solver's steps are all phi <- phi - alpha * gradient with one alpha."""
        need_equal_steps("Recursion", solver)

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` where the curvature has no meaning."""
        need_curvature("the Recursion meta-gradient", "algorithm.meta_gradient.curvature", self.curvature, problem)

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """One gradient for each step forwards, one product for each step backwards."""
        inner = bilevel.inner
        step_size = need_equal_steps("Recursion", bilevel.solver)
        path: list[Params] = [detached(s.params) for s in trajectory(bilevel.solver, inner, bilevel.steps)]
        losses, gradient = bilevel.query_gradient(path[-1])
        fixed = {name: gradient[name] for name in inner.theta.fixed}
        vector = ravel({name: gradient[name] for name in inner.start})
        pulled = torch.zeros_like(vector)  # what reaches theta through the proximal terms
        weight = inner.regulariser.hessian_diagonal(inner.start)
        disagreements: list[torch.Tensor] = []
        for number, phi in reversed(list(enumerate(path[:-1]))):
            at_step = inner.collected(phi, number)
            if fixed:
                through = at_step.gradient_in_theta(phi, unravel(vector, inner.start), self.curvature)
                fixed = axpy(-step_size, through, fixed)
            pulled = pulled + step_size * weight * vector
            turned = at_step.curvature(phi, self.curvature, disagreements).apply(vector) + weight * vector
            vector = vector - step_size * turned
        # The steps are equal multiples of the gradients, so their ratio is had without taking any gradient again.
        moved = [axpy(-1.0, after, before) for before, after in (path[:2], path[-2:])] if len(path) > 1 else []
        norms = [norm_per_task(leaves) for leaves in moved]
        stats = {"inner/last_step": relative_norm(norms[-1], norms[0])} if moved else {}
        stats |= disagreement_of(disagreements)
        return TaskGradients.of(bilevel, unravel(vector + pulled, inner.start) | fixed, losses, path[-1], stats)

    def diagnosis(self, means: Mapping[str, float]) -> str | None:
        """Where the differences are mostly error."""
        return diagnosis_of_differences(means)
