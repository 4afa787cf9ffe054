"""The longest step along the natural gradient that a divergence allows and that lowers the loss (TRPO)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.direction.adapted_models import change_and_divergence, fisher
from metarun.algorithm.protocols import AdaptedTasks, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.cg import conjugate_gradient
from metarun.maths.loops import repeat
from metarun.maths.trees import Params, ravel, unravel


@dataclass(frozen=True)
class _Tries:
    """The last length tried, whether it was accepted, and what it led to; scalars but `accepted`, [1]."""

    length: Tensor
    accepted: Tensor
    change: Tensor
    divergence: Tensor


@dataclass(frozen=True, kw_only=True)
class TrustRegion:
    """The step s, (F + damping I) s ~ meta-gradient by conjugate gradients, as long as s' F s / 2 = max_divergence allows.

    It is shortened until the tasks, adapted again, have a lower query loss and have really diverged no further; else theta stays.
    F is the Fisher matrix of the adapted models as functions of theta: the pull-back P' F P, with the Jacobian P that the
    estimator has, symmetric however early its solver stops. Adapting again is on the same data: where data are collected, on those
    of this step. The optimizer must be plain SGD of rate 1, so that the direction is the step.

    Attributes:
        max_divergence: delta > 0, of the adapted models' outputs, mean over tasks and examples.
        damping: >= 0.
        steps: CG steps.
        rtol: CG stops at this residual, relative to the meta-gradient.
        shrink: from one try to the next, in (0, 1).
        tries: lengths, at most.
        recompute: as of `NaturalGradient`.
    Source: Schulman et al. 2015, appendix C; Finn et al. 2017, section 5.3 with its code: 10 CG steps, damping 1e-5, delta 0.01,
        0.8 to the power 0 to 14.
    """

    max_divergence: float
    damping: float
    steps: int
    rtol: float
    shrink: float
    tries: int
    recompute: bool
    transforms_gradient: ClassVar[bool] = True
    needs_jacobian: ClassVar[bool] = True
    without_jacobian: ClassVar[str | None] = None
    is_step: ClassVar[bool] = True
    num_fresh_tasks: ClassVar[int] = 0
    needs_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.number("max_divergence", self.max_divergence, minimum=0, exclusive=True)
        checks.number("damping", self.damping, minimum=0)
        checks.integer("steps", self.steps, minimum=1)
        checks.number("rtol", self.rtol, minimum=0, below=1)
        checks.number("shrink", self.shrink, minimum=0, exclusive=True, below=1)
        checks.integer("tries", self.tries, minimum=1)
        checks.boolean("recompute", self.recompute)

    def start(self) -> dict[str, Any]:
        """Nothing is carried from step to step."""
        return {}

    def direction(
        self,
        gradient: Params,
        chunks: Sequence[AdaptedTasks],
        meta_gradient: MetaGradient,
        state: dict[str, Any],
        ranks: Ranks,
        fresh: Sequence[AdaptedTasks] = (),
    ) -> tuple[Params, dict[str, Tensor], dict[str, Any]]:
        """The accepted step, or zeros; `direction/divergence` and `direction/change` (of the loss) are what it really led to.

        `direction/length` is its share of the longest one, 0 where none was accepted. A system that is not finite gives a direction
        of NaN.
        """
        row = {name: leaf[None] for name, leaf in gradient.items()}
        rhs = ravel(row)
        metric = fisher(chunks, meta_gradient, ranks, point="pullback", recompute=self.recompute)
        found = conjugate_gradient(metric.shifted(self.damping), rhs, max_steps=self.steps, rtol=self.rtol)
        # s'Fs without one more product: CG's residual is orthogonal to its solution.
        squared = (found.solution * rhs).sum() - self.damping * (found.solution * found.solution).sum()
        # A step that no output feels has no length that the divergence could tell.
        longest = torch.where(squared > 0, (2 * self.max_divergence / squared).sqrt(), torch.zeros_like(squared))
        # Rounding alone must not refuse a step whose divergence is the radius itself.
        allowed = self.max_divergence * (1 + 10 * torch.finfo(rhs.dtype).eps ** 0.5)

        def along(length: Tensor) -> Params:
            return {name: leaf[0] for name, leaf in unravel(length * longest * found.solution, row).items()}

        def tried(tries: _Tries, number: int | Tensor) -> _Tries:
            length = torch.where(tries.accepted[0], tries.length, torch.ones_like(squared) * self.shrink**number)
            change, divergence = change_and_divergence(along(length), chunks, ranks)
            accepted = (change < 0) & (divergence <= allowed)
            return replace(tries, length=length, accepted=accepted.expand(1), change=change, divergence=divergence)

        nothing = torch.zeros_like(squared)
        begin = _Tries(nothing, torch.zeros(1, dtype=torch.bool, device=rhs.device), nothing, nothing)
        end = repeat(tried, begin, self.tries, ended=lambda tries: tries.accepted, is_dear=True)
        accepted = end.accepted[0]
        length = torch.where(accepted, end.length, nothing)
        step = along(length)
        is_sound = torch.isfinite(found.solution).all()
        step = {name: torch.where(accepted, leaf, torch.where(is_sound, 0, torch.nan)) for name, leaf in step.items()}
        return (
            step,
            {
                "direction/cg_steps": found.steps[0],
                "direction/length": length,
                "direction/change": torch.where(accepted, end.change, nothing),
                "direction/divergence": torch.where(accepted, end.divergence, nothing),
            },
            state,
        )
