"""N-way classification by softmax cross-entropy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.models.learner import Learner
from metarun.problems.base import Supervised


@dataclass(frozen=True)
class Classification(Supervised):
    """Targets are class ids [S]; outputs are logits [S, N]; losses are in nats."""

    learner: Learner
    score: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, mean over examples."""
        return F.cross_entropy(outputs, targets)

    def divergence(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> Tensor:
        """KL(reference || outputs), mean over examples; its Hessian at the reference is that of the cross-entropy."""
        log_reference = F.log_softmax(reference, dim=-1)
        return (log_reference.exp() * (log_reference - F.log_softmax(outputs, dim=-1))).sum(-1).mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Accuracy in [0, 1] and the loss.

        A task whose loss is not finite counts as wrong as a whole: logits that are NaN have class 0 for their largest.
        """
        loss = self.loss(outputs, targets)
        accuracy = (outputs.argmax(-1) == targets).to(outputs.dtype).mean()
        return {"accuracy": torch.where(torch.isfinite(loss), accuracy, torch.zeros_like(accuracy)), "loss": loss}
