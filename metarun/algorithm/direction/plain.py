"""What the optimizer is given: the meta-gradient itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from metarun.algorithm.protocols import AdaptedTasks, MetaGradient
from metarun.device.ranks import Ranks
from metarun.maths.trees import Params


@dataclass(frozen=True)
class Plain:
    """The meta-gradient itself."""

    transforms_gradient: ClassVar[bool] = False
    without_jacobian: ClassVar[str | None] = None
    is_step: ClassVar[bool] = False
    num_fresh_tasks: ClassVar[int] = 0
    needs_tasks: ClassVar[bool] = False

    @property
    def needs_jacobian(self) -> bool:
        """No."""
        return False

    def start(self) -> dict[str, Any]:
        """Nothing to remember."""
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
        """The gradient, unchanged."""
        return gradient, {}, state
