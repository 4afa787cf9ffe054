"""The implicit systems by conjugate gradients, and what to do where a matrix is not positive definite."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from metarun import checks
from metarun.algorithm.meta_gradient.solver.system import System, instead, measured
from metarun.device.course import may_read_values
from metarun.errors import TrainingError
from metarun.maths.cg import CGResult, Status, conjugate_gradient
from metarun.maths.lanczos import Krylov, lanczos, least_residual, pivots, symmetric_inverse, tridiagonal
from metarun.maths.loops import repeat
from metarun.maths.minres import minres
from metarun.maths.operators import LinearOperator
from metarun.maths.structures import tensors_of, with_tensors

POLICIES = ("stop", "damp", "abs", "minres", "gauss_newton", "raise")
_MAX_TRIES = 5
_FIRST_DAMPING = 1e-3


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Conjugate gradients, and what to do where a matrix turns out not to be positive definite.

    Attributes:
        steps: CG steps; 0 gives the first-order gradient.
        rtol: a task stops when its residual is this small, relative to the query gradient.
        atol: or when it is this small in itself (iMAML's released code: 1e-5).
        negative_curvature: "stop" keeps what there is (at the first step the query gradient: first order); "damp" solves
            again with more and more of the identity added, at most five times; "abs" takes the curvature's absolute value;
            "minres" solves the indefinite system; "gauss_newton" solves with that curvature; "raise" ends the run.
    Source: Rajeswaran et al. 2019, algorithm 2; Nocedal & Wright 2006, section 7.1.
    """

    steps: int
    rtol: float
    atol: float
    negative_curvature: Literal["stop", "damp", "abs", "minres", "gauss_newton", "raise"]
    sees_curvature: ClassVar[bool] = True
    fixes_inverse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=0)
        checks.number("rtol", self.rtol, minimum=0, below=1)
        checks.number("atol", self.atol, minimum=0)
        checks.one_of("negative_curvature", self.negative_curvature, POLICIES)

    def solve(self, system: System) -> CGResult:
        """Solve; `status` and `min_curvature` are those of the first try, whatever was done about it.

        `steps` counts those of all tries, and `residual_norm` is that of the solution returned, in the system it solves.

        Raises:
            TrainingError: negative curvature, where `negative_curvature` is "raise" and values may be read; else such a solution
                is NaN.
        """
        return system.finished(self._solve(system, system.operator, system.scaled_rhs))

    def inverse(self, system: System) -> LinearOperator:
        """Symmetric: on the Krylov space of the right-hand sides CG's own, and beyond it one over the identity's factor.

        Beyond it the curvature has not been seen and counts for nothing, as in the first-order gradient. Exact once the steps are
        as many as the curvature has dimensions, and one more. Where A is not positive definite on the space, `negative_curvature`
        decides here too, of each task once: "stop" (and where no damping suffices, "damp") keeps the part of the space before
        that, "raise" gives NaN.
        """
        if self.steps == 0:
            return LinearOperator(lambda vectors: vectors)
        krylov = lanczos(system.operator, system.scaled_rhs, steps=self.steps)
        failed = (krylov.pivots <= krylov.rounding).any(1)
        if self.negative_curvature == "gauss_newton":

            def otherwise(krylov: Krylov, number: int | Tensor) -> Krylov:
                other = lanczos(system.positive_operator, system.scaled_rhs, steps=self.steps)
                pairs = zip(tensors_of(other), tensors_of(krylov), strict=True)
                return with_tensors(krylov, [torch.where(_against(failed, new), new, old) for new, old in pairs])

            krylov = repeat(otherwise, krylov, 1, ended=lambda _: ~failed)
        matrix, kept = self._positive(krylov)
        # With nothing kept it is the first-order gradient, whatever the identity's factor.
        identity = torch.where(kept[:, :1], system.identity, 1.0)
        unseen = identity[:, :, None] * torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        inverse = symmetric_inverse(torch.where(kept[:, :, None] & kept[:, None, :], matrix, unseen))
        if self.negative_curvature == "minres":
            identity = torch.where(failed[:, None], system.identity, identity)
            inverse = torch.where(failed[:, None, None], least_residual(krylov), inverse)
        finite = krylov.matrix.isfinite().all(2).all(1)
        inverse = torch.where(finite[:, None, None], inverse, torch.nan)
        return krylov.completed(inverse, 1 / identity)

    def _positive(self, krylov: Krylov) -> tuple[Tensor, Tensor]:
        """The matrix on the space, [B, K, K], and for which of its vectors, [B, K], the first ones, it is positive definite."""
        matrix, found = krylov.matrix, krylov.pivots
        sound = found > krylov.rounding
        if self.negative_curvature == "raise":
            return torch.where(sound.all(1)[:, None, None], matrix, torch.nan), torch.ones_like(sound)
        if self.negative_curvature == "abs":  # L |D| L' for L D L', as CG with the absolute value of each curvature
            sound = found.abs() > krylov.rounding
            beside = krylov.beside[:, :-1]
            from_before = pad(beside.square() / found[:, :-1].abs(), (1, 0))
            matrix = tridiagonal(found.abs() + from_before, found[:, :-1].sign() * beside)
        kept = sound.cumprod(1).bool()
        if self.negative_curvature == "damp":
            unit = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
            tries = _FIRST_DAMPING * 10.0 ** torch.arange(_MAX_TRIES, dtype=matrix.dtype, device=matrix.device)
            damped = krylov.diagonal + tries[:, None, None]
            suffices = (pivots(damped, krylov.beside[:, :-1].expand(_MAX_TRIES, -1, -1)) > krylov.rounding).all(2)
            first = tries[suffices.int().argmax(0)]
            helps = ~kept.all(1) & suffices.any(0)
            matrix = matrix + torch.where(helps, first, 0)[:, None, None] * unit
            kept = kept | helps[:, None]
        return matrix, kept

    def _solve(self, system: System, operator: LinearOperator, rhs: Tensor) -> CGResult:
        if self.negative_curvature == "damp":
            return self._damped(operator, rhs)
        result = self._cg(operator, rhs)
        failed = result.status == Status.NEGATIVE_CURVATURE
        if self.negative_curvature in ("stop", "abs"):
            return result
        if self.negative_curvature == "raise":
            if not may_read_values(rhs):  # what is no number ends the run at its next look
                return instead(result, failed, replace(result, solution=torch.full_like(rhs, torch.nan)))
            if not failed.any():
                return result
            raise TrainingError(
                f"the implicit system of {int(failed.sum())} of {len(failed)} tasks is not positive definite (smallest "
                f"curvature {result.min_curvature.min():.3g}). Choose algorithm.meta_gradient.curvature=gauss_newton, a larger "
                "algorithm.proximal_weight, or another algorithm.meta_gradient.solver.negative_curvature."
            )

        def otherwise(result: CGResult, number: int | Tensor) -> CGResult:
            if self.negative_curvature == "minres":
                solved = minres(operator, rhs, max_steps=self.steps, rtol=self.rtol)
                return instead(result, failed, measured(operator, rhs, solved))
            return instead(result, failed, self._cg(system.positive_operator, rhs))

        return repeat(otherwise, result, 1, ended=lambda _: ~failed)

    def _damped(self, operator: LinearOperator, rhs: Tensor) -> CGResult:
        """As it is, and again for what failed, with more and more of the identity added."""

        def attempt(state: tuple[CGResult, Tensor], number: int | Tensor) -> tuple[CGResult, Tensor]:
            before, failed = state
            is_first = number == 0
            if isinstance(is_first, Tensor):
                result = self._cg(
                    operator.shifted(torch.where(is_first, 0, _FIRST_DAMPING * 10.0 ** (number - 1))), rhs
                )
            else:
                result = self._cg(
                    operator if is_first else operator.shifted(_FIRST_DAMPING * 10.0 ** (number - 1)), rhs
                )
            fails = result.status == Status.NEGATIVE_CURVATURE
            mended = instead(before, failed, result, ~fails)
            if isinstance(is_first, Tensor):
                pairs = zip(tensors_of(result), tensors_of(mended), strict=True)
                return with_tensors(result, [torch.where(is_first, *pair) for pair in pairs]), failed & fails
            return result if is_first else mended, failed & fails

        # Before the first try all have failed.
        norm = rhs.new_full((len(rhs),), torch.inf)
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        nothing = CGResult(rhs, steps, norm, norm, torch.full_like(steps, Status.NEGATIVE_CURVATURE))
        state = nothing, torch.ones_like(steps, dtype=torch.bool)
        return repeat(attempt, state, 1 + _MAX_TRIES, ended=lambda state: ~state[1])[0]

    def _cg(self, operator: LinearOperator, rhs: Tensor) -> CGResult:
        result = conjugate_gradient(
            operator,
            rhs,
            max_steps=self.steps,
            rtol=self.rtol,
            atol=self.atol,
            absolute_curvature=self.negative_curvature == "abs",
        )
        return measured(operator, rhs, result)


def _against(chosen: Tensor, like: Tensor) -> Tensor:
    """[B] as it broadcasts against [B, ...]."""
    return chosen.view(-1, *[1] * (like.dim() - 1))
