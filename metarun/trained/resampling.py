"""Pillow's Lanczos resampling of the middle square, as tensor operations: an exported model needs no Pillow."""

import math

import torch
from torch import Tensor

_BITS = 22
"""Of Pillow's fixed-point weights of 8-bit images."""
_SUPPORT = 3.0
"""Of the Lanczos kernel, in pixels of the coarser of the two grids."""


def middle_square(images: Tensor, size: int) -> Tensor:
    """The middle squares of images at another size, to the bit what Pillow's `crop` and `resize` (Lanczos) give.

    Written for `torch.export`: height and width may be symbols, and no value is asked for.

    Args:
        images: uint8 [S, channels, H, W].
        size: pixels per side.
    Returns:
        float64 [S, channels, size, size], whole numbers from 0 to 255.
    Source: Pillow, src/libImaging/Resample.c.
    """
    height, width = images.shape[-2:]
    side = torch.minimum(torch.full((), height, dtype=torch.int64), torch.full((), width, dtype=torch.int64))
    pixels = images.to(torch.float64)
    # Rows first, as Pillow has it: each pass rounds to whole numbers.
    along_rows = _rounded(pixels @ _weights(width, side, size).T)
    return _rounded(_weights(height, side, size) @ along_rows)


def _weights(length: int, side: Tensor, size: int) -> Tensor:
    """[size, length]: the share of each pixel of a line, of which the middle `side` count, in each new pixel; units of 2^-22."""
    first = (length - side) // 2
    scale = side.to(torch.float64) / size
    stretch = scale.clamp(min=1.0)
    reach = _SUPPORT * stretch
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale  # in pixels of the square
    place = (torch.arange(length) - first).to(torch.float64)
    low = (centre - reach + 0.5).floor().clamp(min=0)
    high = torch.minimum((centre + reach + 0.5).floor(), side.to(torch.float64))
    is_within = (place >= low[:, None]) & (place < high[:, None])
    values = torch.where(is_within, _lanczos((place - centre[:, None] + 0.5) / stretch), 0.0)
    shares = values / values.sum(1, keepdim=True) * 2**_BITS
    return torch.where(shares < 0, (shares - 0.5).ceil(), (shares + 0.5).floor())


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < _SUPPORT, _sinc(x) * _sinc(x / _SUPPORT), 0.0)


def _sinc(x: Tensor) -> Tensor:
    angle = math.pi * x
    is_zero = angle == 0
    return torch.where(is_zero, 1.0, angle.sin() / torch.where(is_zero, 1.0, angle))


def _rounded(sums: Tensor) -> Tensor:
    """To 8 bits: the sums are whole numbers below 2^53, so nothing is lost before this."""
    return ((sums + 2 ** (_BITS - 1)) / 2**_BITS).floor().clamp(0, 255)
