"""Regression by mean squared error."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from metarun.models.learner import Learner
from metarun.problems.base import Supervised


@dataclass(frozen=True)
class Regression(Supervised):
    """Targets and outputs are [S, *target_shape]; the loss is the mean squared error without a factor of one half."""

    learner: Learner
    score: ClassVar[str] = "mse"
    higher_is_better: ClassVar[bool] = False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over examples and outputs."""
        return F.mse_loss(outputs, targets)

    def divergence(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> Tensor:
        """Mean squared difference: the loss as a Gaussian's negative log-likelihood has variance m/2, m the outputs."""
        return F.mse_loss(outputs, reference)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The mean squared error."""
        return {"mse": self.loss(outputs, targets)}
