"""The meta-gradient in the geometry of the models' predictions (natural gradient)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.direction.adapted_models import change_and_divergence, change_of_loss
from metarun.algorithm.direction.metric.base import Asked, Metric
from metarun.algorithm.direction.metric.task_empirical import TaskEmpirical
from metarun.algorithm.protocols import AdaptedTasks, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.loops import repeat
from metarun.maths.trees import Params, ravel, unravel

_SAFETY = 0.9
"""Tried is this share of the length at which the divergence would be the bound, were it as the last one tells."""
_SHORTEST = 0.1
"""And at no less than this share of its length, as divergences are no quadratics far away."""


@dataclass(frozen=True)
class _Tries:
    """The last length tried, as a share of the step; whether it was accepted, [1]; where it led; how many were tried."""

    length: Tensor
    accepted: Tensor
    divergence: Tensor
    number: Tensor


@dataclass(frozen=True, kw_only=True)
class NaturalGradient:
    """Step along (F + damping I)^-1 meta-gradient, or towards it where the metric solves no further.

    F is a Fisher (Gauss-Newton) matrix of the adapted models, as `metric` makes it. The optimizer must be plain SGD: Adam would
    rescale the coordinates, and with them what F measures.

    Attributes:
        metric: where F comes from, and how well the system is solved (`direction/metric/`).
        step_size: eta > 0; the optimizer's learning rate multiplies the step once more (1 by default).
        damping: > 0 unless F is known to be regular; at the start, where it is adapted.
        max_divergence: of one step, in the loss's units; null: unbounded. The step is shortened until s' F s / 2, which is what F
            predicts, is no larger, and then by `tries`.
        tries: lengths at which the step's tasks are really adapted once more, until their predictions are no further from what
            they were than `max_divergence` (mean over tasks and query examples); where the last one still is, theta stays. 0: the
            prediction alone counts, and real steps may be longer: kinks make them so. How far prediction and truth are apart is
            remembered, so that the next step's first try is rarely its last but one.
        adapt_damping: Levenberg and Marquardt: after each step the tasks are adapted once more, and the damping is raised by
            3/2 where a quarter of the predicted decrease came, lowered by 2/3 where three quarters did.
        momentum: g is replaced by momentum * (the last step's) + (1 - momentum) * g before the system is solved. A gradient of
            few tasks is mostly noise that their own F fits; an average over steps is not. The optimizer's momentum would
            average the solutions instead, and let the steps exceed `max_divergence`.
    Source: Amari 1998; Martens 2020; the trust region as in Schulman et al. 2015, section 6 and appendix C. No published
        algorithm is called I-MAML-NG; this is the definition used here.
    """

    metric: Metric
    step_size: float
    damping: float
    max_divergence: float | None
    tries: int
    adapt_damping: bool
    momentum: float
    transforms_gradient: ClassVar[bool] = True
    without_jacobian: ClassVar[str | None] = "algorithm.direction.metric.point=phi"
    is_step: ClassVar[bool] = True
    needs_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.number("damping", self.damping, minimum=0, exclusive=isinstance(self.metric, TaskEmpirical))
        if self.max_divergence is not None:
            checks.number("max_divergence", self.max_divergence, minimum=0, exclusive=True)
        checks.integer("tries", self.tries, minimum=0)
        checks.number("momentum", self.momentum, minimum=0, below=1)
        checks.boolean("adapt_damping", self.adapt_damping)

    @property
    def needs_jacobian(self) -> bool:
        """Where the metric does."""
        return self.metric.needs_jacobian

    @property
    def num_fresh_tasks(self) -> int:
        """As many as the metric asks for."""
        return self.metric.num_fresh_tasks

    def start(self) -> dict[str, Any]:
        """The damping, where it is adapted; the averages begin with the first step."""
        return {"damping": torch.tensor(self.damping, dtype=torch.float64)} if self.adapt_damping else {}

    def direction(
        self,
        gradient: Params,
        chunks: Sequence[AdaptedTasks],
        meta_gradient: MetaGradient,
        state: dict[str, Any],
        ranks: Ranks,
        fresh: Sequence[AdaptedTasks] = (),
    ) -> tuple[Params, dict[str, Tensor], dict[str, Any]]:
        """The natural direction; `direction/divergence` is that of the step: predicted, or with `tries` the real one.

        `direction/shortened` is the share of the step that was taken, `direction/tries` how many lengths were tried. A system that
        is not finite gives a direction of NaN.
        """
        damping = state.get("damping", self.damping)
        row = {name: leaf[None] for name, leaf in gradient.items()}
        now = ravel(row)
        rhs = torch.lerp(state["mean"].to(now), now, 1 - self.momentum) if "mean" in state else now
        matrix, after = self.metric.at(Asked(row, chunks, fresh, meta_gradient, ranks), state)
        after = after | ({"mean": rhs} if self.momentum else {})
        solved = matrix.solve(rhs, damping)
        stats = dict(solved.stats)
        step, squared = self.step_size * solved.solution, self.step_size**2 * solved.squared
        cut, divergence = torch.ones_like(squared), squared / 2
        if self.max_divergence is not None and self.tries:
            found, after["excess"] = self._tried(step, divergence, row, chunks, state, ranks)
            cut, divergence = found.length, found.divergence
            stats |= {"direction/tries": found.number, "direction/excess": after["excess"]}
        elif self.max_divergence is not None:
            cut = _cut(divergence, self.max_divergence)
            divergence = cut**2 * divergence
        # A step of no length is none; one that is no number stays what it is.
        step = torch.where(torch.isfinite(step).all() & (cut == 0), 0, cut * step)
        direction = {name: leaf[0] for name, leaf in unravel(step, row).items()}
        stats |= {"direction/divergence": divergence, "direction/shortened": cut}
        if not self.adapt_damping:
            return direction, stats, after
        predicted = -(now * step).sum() + 0.5 * (cut**2 * squared + damping * (step * step).sum())
        stats |= {"direction/damping": _scalar(damping, rhs)}
        adapted = {"damping": _adapted(damping, change_of_loss(direction, chunks, ranks) / predicted)}
        return direction, stats, after | adapted

    def _tried(
        self,
        step: Tensor,
        predicted: Tensor,
        row: Params,
        chunks: Sequence[AdaptedTasks],
        state: dict[str, Any],
        ranks: Ranks,
    ) -> tuple[_Tries, Tensor]:
        """The first length, from the one that should be right down, at which the adapted models diverge no further than they may.

        Returns:
            That length, 0 where there is none, and what it led to; and by what factor more than predicted, for the next step.
        """
        assert self.max_divergence is not None
        bound, like = self.max_divergence, torch.ones_like(predicted)
        excess = state["excess"].to(predicted) if "excess" in state else like
        # Rounding alone must not refuse a step whose divergence is the bound itself.
        allowed = bound * (1 + 10 * torch.finfo(step.dtype).eps ** 0.5)

        def tried(tries: _Tries, number: int | Tensor) -> _Tries:
            shorter = (_SAFETY * (bound / tries.divergence).sqrt()).nan_to_num(0.0).clamp(_SHORTEST, _SAFETY)
            length = tries.length * torch.where((tries.number == 0) | tries.accepted[0], like, shorter)
            there = {name: leaf[0] for name, leaf in unravel(length * step, row).items()}
            _, found = change_and_divergence(there, chunks, ranks)
            divergence = torch.where(tries.accepted[0], tries.divergence, found)
            more = (~tries.accepted[0]).to(tries.number)
            return _Tries(length, (divergence <= allowed).expand(1), divergence, tries.number + more)

        longest = _cut(predicted * excess, bound) * (_SAFETY if "excess" in state else 1.0)
        begin = _Tries(longest, torch.zeros(1, dtype=torch.bool, device=step.device), 0 * like, 0 * like)
        end = repeat(tried, begin, self.tries, ended=lambda tries: tries.accepted, is_dear=True)
        factor = end.divergence / (end.length**2 * predicted)
        excess = torch.where(factor.isfinite(), factor.clamp(min=1), excess)
        is_there = end.accepted[0]
        return replace(
            end, length=torch.where(is_there, end.length, 0), divergence=torch.where(is_there, end.divergence, 0)
        ), excess


def _cut(divergence: Tensor, bound: float) -> Tensor:
    """The share of a step, at most 1, at which a quadratic divergence is the bound."""
    allowed = torch.full_like(divergence, bound)
    return torch.where(divergence > allowed, (allowed / divergence).sqrt(), torch.ones_like(divergence))


def _adapted(damping: float | Tensor, ratio: Tensor) -> Tensor:
    """The next damping, a number in float64, from the decrease that came over that predicted."""
    now = _scalar(damping, ratio.double())
    return torch.where(ratio < 0.25, 1.5 * now, torch.where(ratio > 0.75, now / 1.5, now))


def _scalar(number: float | Tensor, like: Tensor) -> Tensor:
    """A number as a scalar like `like`, made where that is: a copy from the host cannot be captured."""
    return number.to(like) if isinstance(number, Tensor) else like.new_full((), number)
