"""What estimators that take curvature by differences of gradients say of how far these can be trusted."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metarun.maths.operators import DISAGREEMENT


def disagreement_of(disagreements: list[Tensor]) -> dict[str, Tensor]:
    """As a statistic, [B]: the largest disagreement of the products by differences; none where there were no such."""
    return {"curvature/disagreement": torch.stack(disagreements).amax(0)} if disagreements else {}


def diagnosis_of_differences(means: Mapping[str, float]) -> str | None:
    """A warning where the means of a run's statistics say that products by differences are mostly error."""
    apart = means.get("train/curvature/disagreement", 0.0)
    if apart <= DISAGREEMENT:
        return None
    return (
        f"curvature by differences of gradients is off by some {100 * apart:.0f} %: the differences ahead of and behind the "
        "parameters disagree. Likely causes: the loss has kinks in every step's way (ReLU, max-pool; many images in a support "
        "set; no norm and biases of zero), or rounding (device.dtype=float64). algorithm.meta_gradient.curvature=hessian "
        "takes second derivatives, and model.activation=tanh, where the model has it, has no kinks."
    )
