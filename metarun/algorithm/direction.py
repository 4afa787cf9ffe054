"""What the optimizer is given: the meta-gradient, or a transform of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from metarun.maths.trees import Params


@dataclass(frozen=True)
class Plain:
    """The meta-gradient itself."""

    def direction(self, gradient: Params) -> tuple[Params, Mapping[str, Tensor]]:
        """The gradient, unchanged."""
        return gradient, {}
