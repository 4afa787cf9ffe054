"""Meta-gradient by the implicit function theorem (iMAML)."""

from dataclasses import dataclass
from typing import ClassVar

from metarun import checks
from metarun.algorithm.first_order import adapt_and_differentiate
from metarun.algorithm.inner_problem import CURVATURES, Curvature
from metarun.algorithm.parts import Episode, MetaEstimate
from metarun.maths.cg import Status, conjugate_gradient
from metarun.maths.trees import Params, mean_over_tasks, ravel, unravel


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """Solve (I + (C + damping I) / lambda) x = query gradient at phi, for each task; the mean of x is the meta-gradient.

    Only phi matters and not the way there, so memory does not grow with inner steps and any inner solver will do. Exact where
    phi is a stationary point of the inner objective (`inner/residual` says how far it is) and C the Hessian.

    Attributes:
        curvature: C, of the support loss at phi: "hessian" (the paper) or "gauss_newton" (never indefinite).
        cg_steps: conjugate gradient steps; 0 gives the first-order gradient.
        rtol: stop a task when its residual is this small, relative to the query gradient.
        damping: added to C.
    Source: Rajeswaran et al. 2019, lemma 1 and algorithm 2.
    """

    curvature: Curvature
    cg_steps: int
    rtol: float
    damping: float
    needs_differentiable_solver: ClassVar[bool] = False
    needs_proximal_term: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.one_of("curvature", self.curvature, CURVATURES)
        checks.integer("cg_steps", self.cg_steps, minimum=0)
        checks.number("rtol", self.rtol, minimum=0)
        checks.number("damping", self.damping, minimum=0)

    def estimate(self, theta: Params, episode: Episode) -> MetaEstimate:
        """Adapt without graph, differentiate the query loss at phi, solve."""
        solution, losses, slope = adapt_and_differentiate(theta, episode)
        if self.cg_steps == 0:
            return MetaEstimate(mean_over_tasks(slope), losses, solution.stats)
        weight = episode.proximal_weight
        system = episode.inner(theta).curvature(solution.params, self.curvature)
        system = system.scaled(1 / weight).shifted(1 + self.damping / weight)
        rhs = ravel(slope)
        # Asking whether all tasks have stopped is free on a CPU and makes a GPU wait.
        early_exit = rhs.device.type == "cpu"
        result = conjugate_gradient(system, rhs, max_steps=self.cg_steps, rtol=self.rtol, early_exit=early_exit)
        stats = solution.stats | {
            "cg/steps": result.steps,
            "cg/residual": result.residual_norm,
            "cg/min_curvature": result.min_curvature,
            "cg/negative_curvature": result.status == Status.NEGATIVE_CURVATURE,
        }
        return MetaEstimate(mean_over_tasks(unravel(result.solution, slope)), losses, stats)
