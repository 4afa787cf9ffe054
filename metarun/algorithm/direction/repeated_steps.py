"""Several steps of an optimizer on the same tasks (PPO, ProMP)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.direction.adapted_models import moved, num_tasks
from metarun.algorithm.protocols import AdaptedTasks, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.trees import Params, ravel, unravel
from metarun.problems.base import Problem


@dataclass(frozen=True, kw_only=True)
class RepeatedSteps:
    """`steps` steps of Adam along the meta-gradient, estimated anew after each on the same tasks; the direction is where they lead.

    All steps are on the data that were collected in this outer step, whose query loss weighs them by how much likelier they have
    become since; `clip` ends what such a weight is worth. The optimizer must be plain SGD of rate 1.

    Attributes:
        steps: >= 1.
        lr: Adam's, > 0; its averages go on from one outer step to the next.
        clip: how far these ratios may be from 1, > 0 (read by the problem).
    Source: Schulman et al. 2017 (PPO); Rothfuss et al. 2019 (ProMP, whose code takes 5 steps of 1e-3 and a clip of 0.3, and holds
        the inner step back by a small KL penalty besides, which is not here).
    """

    steps: int
    lr: float
    clip: float
    transforms_gradient: ClassVar[bool] = False
    needs_jacobian: ClassVar[bool] = False
    without_jacobian: ClassVar[str | None] = None
    is_step: ClassVar[bool] = True
    num_fresh_tasks: ClassVar[int] = 0
    needs_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.number("lr", self.lr, minimum=0, exclusive=True)
        checks.number("clip", self.clip, minimum=0, exclusive=True)

    def check_problem(self, problem: Problem, start: Params) -> None:
        """Raise `ValueError` where nothing is clipped."""
        if not problem.data_depend_on_params:
            raise ValueError(
                "RepeatedSteps clips ratios of densities, and this problem's data are stored: there are none. Choose "
                "algorithm/direction=plain."
            )

    def start(self) -> dict[str, Any]:
        """Adam begins with the first step."""
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
        """By how much theta shall be less; `direction/change` is what the steps but the last did to the query loss."""
        row = {name: leaf[None] for name, leaf in gradient.items()}
        way = torch.zeros_like(ravel(row))
        adam = torch.optim.Adam([way], lr=self.lr)
        if state:
            adam.state[way] = {name: value.to(way.device) for name, value in state.items()}
        now, losses = gradient, []
        for step in range(self.steps):
            if step:
                now, loss = self._estimated(unravel(-way, row), chunks, meta_gradient, ranks)
                losses.append(loss)
            way.grad = ravel({name: now[name][None] for name in row})
            adam.step()
        direction = {name: -leaf[0] for name, leaf in unravel(way, row).items()}
        stats = {}
        if losses:
            first = torch.cat([chunk.gradients.query_loss for chunk in chunks])
            stats["direction/change"] = losses[-1] - ranks.sum(first.sum()) / num_tasks(chunks, ranks)
        return direction, stats, {name: value.detach().cpu() for name, value in adam.state[way].items()}

    @staticmethod
    def _estimated(
        away: Params, chunks: Sequence[AdaptedTasks], meta_gradient: MetaGradient, ranks: Ranks
    ) -> tuple[Params, Tensor]:
        """The mean meta-gradient and query loss where theta is less by `away`, leaves [1, ...], on the same tasks."""
        direction = {name: leaf[0] for name, leaf in away.items()}
        found = [meta_gradient.estimate(moved(chunk.bilevel, direction)) for chunk in chunks]
        gradients = [ravel({name: each.gradient[name] for name in away}).sum(0, keepdim=True) for each in found]
        losses = [each.query_loss.sum() for each in found]
        count = num_tasks(chunks, ranks)
        mean = unravel(ranks.sum(sum(gradients[1:], gradients[0])) / count, away)
        return {name: leaf[0] for name, leaf in mean.items()}, ranks.sum(sum(losses[1:], losses[0])) / count
