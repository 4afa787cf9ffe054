"""Batch normalisation that may be differentiated twice, with a task axis outside.

PyTorch's fused batch norm gives silently wrong derivatives when it is lifted by `vmap` and differentiated from outside
(pytorch/functorch#534: 1-10 % on small conv nets). Spelled in elementary operations it is right in every order of nesting.
"""

import torch
from torch import Tensor, nn


class TaskBatchNorm(nn.Module):
    """Normalise each channel by the mean and variance of the batch at hand; no running statistics.

    With `statistics_rows` = S (set by `Learner` for the length of one call) the statistics come from the first S rows alone:
    that is how query examples are normalised by the support set.

    Args:
        num_features: channels; axis 1 of the input, whatever axes follow.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.eps = eps
        self.statistics_rows: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """[S, C, ...] -> the same shape."""
        axes = (0, *range(2, inputs.dim()))
        shape = (-1,) + (1,) * (inputs.dim() - 2)
        source = inputs if self.statistics_rows is None else inputs[: self.statistics_rows]
        mean = source.mean(axes, keepdim=True)
        centred = inputs - mean
        spread = centred if self.statistics_rows is None else centred[: self.statistics_rows]
        variance = (spread * spread).mean(axes, keepdim=True)
        scale = torch.rsqrt(variance + self.eps) * self.weight.reshape(shape)
        return centred * scale + self.bias.reshape(shape)
