"""Batch normalisation that may be differentiated twice, with a task axis outside.

PyTorch's fused batch norm gives silently wrong derivatives when it is lifted by `vmap` and differentiated from outside
(pytorch/functorch#534: 1-10 % on small conv nets). Spelled in elementary operations it is right in every order of nesting.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_ROWS: ContextVar[int | None] = ContextVar("statistics_rows", default=None)


@contextlib.contextmanager
def statistics_of_first(rows: int | None) -> Iterator[None]:
    """Within the block, batch norms take their statistics of the first `rows` of their inputs alone; None: of all.

    That is how query examples are normalised by the support set: both are given, the support set first.
    """
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


def batch_norm(inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise each channel by the mean and variance of the batch at hand, or of its first rows (`statistics_of_first`).

    Args:
        inputs: [S, C, ...].
        weight, bias: [C], or None for 1 and 0.
        eps: added to the variance.
    Returns:
        [S, C, ...].
    """
    statistics_rows = _ROWS.get()
    axes = (0, *range(2, inputs.dim()))
    shape = (-1,) + (1,) * (inputs.dim() - 2)
    source = inputs if statistics_rows is None else inputs[:statistics_rows]
    mean = source.mean(axes, keepdim=True)
    centred = inputs - mean
    spread = centred if statistics_rows is None else centred[:statistics_rows]
    variance = (spread * spread).mean(axes, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight.reshape(shape)
    normalised = centred * scale
    return normalised if bias is None else normalised + bias.reshape(shape)


class TaskBatchNorm(nn.Module):
    """`batch_norm` as a layer; no running statistics.

    Args:
        num_features: channels; axis 1 of the input, whatever axes follow.
        eps: added to the variance.
        affine: whether there are weights and biases.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.eps = eps

    def forward(self, inputs: Tensor) -> Tensor:
        """[S, C, ...] -> the same shape."""
        return batch_norm(inputs, self.weight, self.bias, self.eps)
