"""Meta-gradient by the implicit function theorem (iMAML)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarun import checks
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import need_curvature, need_descent
from metarun.algorithm.inner_problem import CURVATURES, Curvature, InnerProblem
from metarun.algorithm.meta_gradient.differences import diagnosis_of_differences, disagreement_of
from metarun.algorithm.meta_gradient.solver.system import LinearSolver, System
from metarun.algorithm.protocols import InnerSolver, Jacobian
from metarun.algorithm.proximal import ProximalTerm
from metarun.device.stages import stage
from metarun.maths.cg import Status
from metarun.maths.operators import LinearOperator
from metarun.maths.trees import Params, ravel, unravel
from metarun.problems.base import Problem

_FAR_FROM_STATIONARY = 0.3
_OFTEN = 0.5


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """Solve (C + L) z = query gradient at phi, for each task, and pull z back to theta.

    L is the regulariser's Hessian: lambda, or the diagonal matrix of each parameter's own. The meta-gradient is then minus
    d/d theta <z, gradient of the inner objective at phi>, by one product (`InnerProblem.gradient_in_theta`), whatever in the
    objective depends on theta: the anchor (which gives L z), leaves that are not adapted, lambda.

    Only phi matters and not the way there, so memory does not grow with inner steps and any inner solver will do. Exact where
    phi is a stationary point of the inner objective (`inner/residual` says how far it is, measured at phi: one gradient more,
    unless the solver has it) and C the Hessian.

    The system is solved in units of L, in which it reads I + L^-1/2 C L^-1/2 (`System`), so that the truncated solution, the
    tolerances and the smallest curvature mean the same whatever lambda is.

    Attributes:
        curvature: C, of the support loss at phi (`InnerProblem.curvature`): "hessian" is the paper's.
        solver: of the linear system.
        damping: added to C.
        identity: the factor of L; iMAML's released code has 2 (its option cg_damping plus one).
        weight_offset: added to lambda in the system alone; iMAML's released code has 10 (its option lam_damping), and takes
            what the system gives in units of the larger lambda for the meta-gradient.
    Source: Rajeswaran et al. 2019, lemma 1 and algorithm 2; gradients of lambda and of frozen leaves by the same theorem.
    """

    curvature: Curvature
    solver: LinearSolver
    damping: float
    identity: float = 1.0
    weight_offset: float = 0.0
    is_gradient: ClassVar[bool] = True
    learns_solver: ClassVar[bool] = False
    learns_regulariser: ClassVar[bool] = True
    jacobian_has_fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.one_of("curvature", self.curvature, CURVATURES)
        checks.number("damping", self.damping, minimum=0)
        checks.number("identity", self.identity, minimum=0, exclusive=True)
        checks.number("weight_offset", self.weight_offset, minimum=0)

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` unless the solver descends an objective with a proximal term."""
        if not term.is_there:
            raise ValueError(
                "proximal_weight must be > 0 for the implicit meta-gradient, got 0. "
                "Set algorithm.proximal_weight (iMAML's paper uses 2.0) or choose algorithm/meta_gradient=first_order."
            )
        need_descent("Implicit", solver)

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` where the curvature has no meaning."""
        need_curvature("the implicit meta-gradient", "algorithm.meta_gradient.curvature", self.curvature, problem)

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """Adapt without graph, differentiate the query loss at phi, solve, pull back."""
        solution = bilevel.solve()
        phi, inner = solution.params, bilevel.solved(solution.params)
        losses, direct = bilevel.query_gradient(phi)
        disagreements: list[Tensor] = []
        rhs = ravel({name: direct[name] for name in phi})
        with stage("implicit system"):
            result = self.solver.solve(self._system(inner, phi, disagreements).with_rhs(rhs))
        stats = dict(solution.stats)
        if "inner/residual" not in stats:
            with stage("residual"):
                stats["inner/residual"] = inner.residual(phi, solution.first_norm)
        stats |= {
            "system/steps": result.steps,
            "system/residual": result.residual_norm,
            "system/not_finite": result.status == Status.NOT_FINITE,
        }
        if self.solver.sees_curvature:
            stats["system/min_curvature"] = result.min_curvature
            negative = (result.min_curvature <= 0) | (result.status == Status.NEGATIVE_CURVATURE)
            stats["system/negative_curvature"] = negative
        z = unravel(result.solution, phi)
        with stage("back to theta"):
            pulled = inner.gradient_in_theta(phi, z, self.curvature)
        own = {name: leaf for name, leaf in direct.items() if name in bilevel.theta.fixed}
        gradient = {name: own[name] - leaf if name in own else -leaf for name, leaf in pulled.items()}
        return TaskGradients.of(bilevel, gradient, losses, phi, stats | disagreement_of(disagreements))

    @property
    def jacobian_is_linear(self) -> bool:
        """A solver that iterates is as linear as the products."""
        return self.solver.fixes_inverse or self.curvature != "finite_difference"

    def jacobian(self, bilevel: Bilevel, phi: Params) -> Jacobian:
        """P = L^-1/2 Q L^1/2 and P', with one symmetric Q for both that the solver has in A^-1's place (`LinearSolver.inverse`).

        In place of solving for each vector, which conjugate gradients do by a map that is not linear, nor symmetric, unless they
        solve to the end. P' times the query gradient is the meta-gradient of `estimate`, after as many products. P is
        (C + L)^-1 L itself once the solver's steps suffice for that, and d phi / d theta where moreover phi is a stationary point
        and C the Hessian; under Gauss-Newton it is that of the model made linear at phi.
        """
        inner = bilevel.solved(phi)
        _, direct = bilevel.query_gradient(phi)
        system = self._system(inner, phi).with_rhs(ravel({name: direct[name] for name in phi}))
        inverse = self.solver.inverse(system)
        root = system.weight.sqrt() if isinstance(system.weight, Tensor) else 1.0
        return Jacobian(
            push=lambda vectors: inverse.apply(root * vectors) / root,
            pull=lambda vectors: root * inverse.apply(vectors / root),
        )

    def diagnosis(self, means: Mapping[str, float]) -> str | None:
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
        return diagnosis_of_differences(means)

    def _system(self, inner: InnerProblem, phi: Params, disagreements: list[Tensor] | None = None) -> System:
        """(C + damping + identity * (L + offset)) z = ..., in units of L + offset."""
        weight = inner.regulariser.hessian_diagonal(phi)

        def operator(curvature: Curvature) -> LinearOperator:
            made = inner.curvature(phi, curvature, disagreements)
            return made.shifted(self.damping) if self.damping else made

        return System(
            curvature=operator(self.curvature),
            weight=weight + self.weight_offset,
            unit=weight,
            identity=self.identity,
            positive=lambda: operator("gauss_newton"),
        )
