"""Meta-gradient by the implicit function theorem (iMAML)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarun import checks
from metarun.algorithm.first_order import adapt_and_differentiate
from metarun.algorithm.inner_problem import CURVATURES, Curvature, InnerProblem, kinks, kinks_in_words
from metarun.algorithm.linear_solver import LinearSolver, System
from metarun.algorithm.parts import Episode, Jacobian, TaskGradients
from metarun.maths.cg import Status
from metarun.maths.operators import LinearOperator
from metarun.maths.trees import Params, axpy, detached, ravel, unravel

_FAR_FROM_STATIONARY = 0.3
_OFTEN = 0.5


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """Solve (I + (C + damping I) / lambda) g = query gradient at phi, for each task.

    Only phi matters and not the way there, so memory does not grow with inner steps and any inner solver will do. Exact where
    phi is a stationary point of the inner objective (`inner/residual` says how far it is, measured at phi: one gradient more,
    unless the solver has it) and C the Hessian.

    Where each parameter has a lambda of its own, d phi / d theta = (C + L)^-1 L with L = diag(lambda) is not symmetric. The
    system solved is then I + L^-1/2 C L^-1/2, which is, with L^-1/2 (query gradient) on the right; g = L^1/2 times its solution.

    Attributes:
        curvature: C, of the support loss at phi (`InnerProblem.curvature`): "hessian" is the paper's.
        solver: of the linear system.
        damping: added to C.
        identity: the factor of I; iMAML's released code has 2 (its option cg_damping plus one).
        weight_offset: added to lambda in the system alone; iMAML's released code has 10 (its option lam_damping).
    Source: Rajeswaran et al. 2019, lemma 1 and algorithm 2; gradients of lambda and of frozen leaves by the same theorem.
    """

    curvature: Curvature
    solver: LinearSolver
    damping: float
    identity: float = 1.0
    weight_offset: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"minimum", "proximal term"})
    gives: ClassVar[frozenset[str]] = frozenset({"gradient", "jacobian", "proximal_weight"})

    def __post_init__(self) -> None:
        checks.one_of("curvature", self.curvature, CURVATURES)
        checks.number("damping", self.damping, minimum=0)
        checks.number("identity", self.identity, minimum=0, exclusive=True)
        checks.number("weight_offset", self.weight_offset, minimum=0)

    def estimate(self, theta: Params, episode: Episode) -> TaskGradients:
        """Adapt without graph, differentiate the query loss at phi, solve."""
        adapted = adapt_and_differentiate(theta, episode)
        inner, phi = adapted.inner, adapted.solution.params
        slope = {name: adapted.slope[name] for name in phi}
        disagreements: list[Tensor] = []
        system, root = self._system(inner, phi, disagreements)
        result = self.solver.solve(system(ravel(slope) / root))
        solution = root * result.solution
        stats = dict(adapted.solution.stats)
        if "inner/residual" not in stats:
            stats["inner/residual"] = inner.residual(phi, adapted.solution.first_norm)
        stats |= {
            "system/steps": result.steps,
            "system/residual": result.residual_norm,
            "system/not_finite": result.status == Status.NOT_FINITE,
        }
        if self.solver.sees_curvature:
            stats["system/min_curvature"] = result.min_curvature
            negative = (result.min_curvature <= 0) | (result.status == Status.NEGATIVE_CURVATURE)
            stats["system/negative_curvature"] = negative
        stats |= kinks(disagreements)
        gradient = unravel(solution, slope)
        if inner.frozen or isinstance(inner.proximal_weight, dict):
            # z = L^-1 g: what the frozen leaves and lambda see of the query loss through phi.
            through = unravel(solution / inner.weights(phi), slope)
            direct = {name: adapted.slope[name] for name in inner.frozen}
            gradient |= axpy(-1.0, inner.mixed(phi, through, self.curvature), direct)
            away = axpy(-1.0, inner.anchor, phi)
            gradient |= episode.weight_gradient(detached(theta), {name: -through[name] * away[name] for name in phi})
        return TaskGradients(gradient, adapted.query_loss, adapted.params, stats)

    def jacobian(self, theta: Params, episode: Episode, params: Params) -> Jacobian:
        """(C + L)^-1 L by the same solver; exact only as far as it is."""
        inner, _ = episode.set_up(detached(theta))
        system, root = self._system(inner, {name: params[name] for name in inner.anchor})
        return Jacobian(
            push=lambda vectors: self.solver.solve(system(root * vectors)).solution / root,
            pull=lambda vectors: root * self.solver.solve(system(vectors / root)).solution,
        )

    def advice(self, means: Mapping[str, float]) -> str | None:
        """Where phi is far from stationary, the Hessian indefinite in most tasks, or its differences mostly error."""
        left = means["train/inner/residual"]
        if left > _FAR_FROM_STATIONARY:
            searched = "train/inner/backtracks" in means
            causes = (
                "too few inner steps (algorithm.inner.steps), or a small lambda (algorithm.proximal_weight), with which the "
                "minimum lies farther away"
                if searched
                else "inner steps too large for the curvature (algorithm.inner.step_size) or too few (algorithm.inner.steps), "
                "or a large lambda with large steps (algorithm.proximal_weight); algorithm/inner=backtracking_descent and "
                "newton_cg search their step lengths"
            )
            return (
                f"the implicit meta-gradient holds at a stationary point of the inner objective, and its gradient is still "
                f"{left:.2f} times that at the start. Likely causes: {causes}."
            )
        if means.get("train/system/negative_curvature", 0.0) > _OFTEN:
            return (
                f"the implicit system is indefinite in {100 * means['train/system/negative_curvature']:.0f} % of the tasks, so "
                "what is solved there is another one (algorithm.meta_gradient.solver.negative_curvature). "
                "algorithm.meta_gradient.curvature=gauss_newton never is, and a larger algorithm.proximal_weight helps."
            )
        return kinks_in_words(means)

    def _system(
        self, inner: InnerProblem, phi: Params, disagreements: list[Tensor] | None = None
    ) -> tuple[Callable[[Tensor], System], float | Tensor]:
        """The systems for given right-hand sides, and the square root of lambda that scales them; 1 where it is one number."""
        weight = inner.weights(phi) + self.weight_offset
        is_number = isinstance(weight, float | int)
        root = 1.0 if is_number else weight.sqrt()

        def operator(curvature: Curvature) -> LinearOperator:
            damped = inner.curvature(phi, curvature, disagreements)
            damped = damped.shifted(self.damping) if self.damping else damped
            scaled = damped.scaled(1 / weight) if is_number else damped.between(1 / root)
            return scaled.shifted(self.identity)

        chosen = operator(self.curvature)
        return lambda rhs: System(chosen, rhs, lambda: operator("gauss_newton")), root
