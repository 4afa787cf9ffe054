"""Convolutions as products of matrices, which a GPU works out fast for many tasks, each with weights of its own.

`vmap` makes batched products of them. Of B tasks' convolutions it makes one grouped convolution, for which cuDNN, asked for float32
and for the same bits each time, takes slow kernels. On a CPU oneDNN's grouped convolution is the faster of the two.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (torch.conv1d, torch.conv2d, torch.conv3d)
"""PyTorch's own, by which a module's call is known; `torch.nn.functional` has the same objects."""
_MOST_COPIES = 25
"""Of each number of the input, in the matrix of windows: that of a 5x5 kernel with stride 1. Larger ones would cost memory."""


def faster_as_products(device: torch.device) -> bool:
    """Whether convolutions on a device are worked out as products; the one place that decides it."""
    return device.type == "cuda"


def by_products(
    native: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """What `native`, one of `CONVOLUTIONS`, gives for these arguments, but for rounding.

    The windows of the input, one row each, make a matrix [S L, k C] (L places of a window, k numbers of the kernel in each of C
    channels), k shifted slices beside each other; its product with the kernel, [k C, O], is the output. The matrix holds each
    number of the input k times, less what a stride leaves out, and is kept for the backward pass. All of it are slices, copies and
    one product: differentiable as often as one likes, forward too, and added up in an order of its own, always the same.

    `native` itself is called for what this does not do: groups, kernels so large that the matrix would cost memory
    (`_MOST_COPIES`), numbers that are not real, and arguments that do not fit, to which PyTorch has its own words.

    Args:
        input: [S, C, *sizes], or [C, *sizes].
        weight: [O, C, *kernel].
        bias: [O].
        stride, padding, dilation: as `native` takes them.
    Returns:
        [S, O, *places], contiguous as a convolution's is: what follows may `view` it.
    """
    dims = CONVOLUTIONS.index(native) + 1
    asked = (stride, padding, dilation, groups)
    geometry = _geometry(dims, input, weight, *asked)
    if geometry is None:
        return native(input, weight, bias, *asked)
    steps, pads, apart, places = geometry
    images = input if input.dim() == dims + 2 else input[None]
    # Channels last. Padding copies into that order; without it the copy is made here, once rather than in each slice.
    images = images.movedim(1, -1)
    images = F.pad(images, (0, 0, *itertools.chain(*reversed(pads)))) if any(map(any, pads)) else images.contiguous()
    slices = [
        images[
            (
                slice(None),
                *(slice(at, at + s * (n - 1) + 1, s) for at, s, n in zip(offsets, steps, places, strict=True)),
            )
        ]
        for offsets in itertools.product(
            *(range(0, size * d, d) for size, d in zip(weight.shape[2:], apart, strict=True))
        )
    ]
    windows = slices[0] if len(slices) == 1 else torch.cat(slices, -1)
    kernel = weight.movedim((0, 1), (-1, -2))
    outputs = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, weight.shape[0])
    outputs = outputs if bias is None else outputs + bias
    outputs = outputs.view(len(images), *places, weight.shape[0]).movedim(-1, 1).contiguous()
    return outputs if input.dim() == dims + 2 else outputs[0]


_Geometry = tuple[list[int], list[tuple[int, int]], list[int], list[int]]


def _geometry(
    dims: int,
    inputs: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> _Geometry | None:
    """Along each axis of the image: stride, padding before and after, distance of a kernel's numbers, places of a window.

    None for what is `native`'s business.
    """
    if groups != 1 or weight.dim() != dims + 2 or inputs.dim() not in (dims + 1, dims + 2):
        return None
    if inputs.dtype != weight.dtype or not inputs.is_floating_point() or inputs.shape[-dims - 1] != weight.shape[1]:
        return None
    kernel, sizes = list(weight.shape[2:]), list(inputs.shape[-dims:])
    steps, apart = _of_each_axis(stride, dims), _of_each_axis(dilation, dims)
    if len(steps) != dims or len(apart) != dims or min((*steps, *apart)) < 1:
        return None
    if isinstance(padding, str):
        if padding not in ("same", "valid") or (padding == "same" and steps != [1] * dims):
            return None
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(apart, kernel, strict=True)]
        pads = [(each // 2, each - each // 2) for each in whole]  # an odd one has more after than before
    else:
        pads = [(each, each) for each in _of_each_axis(padding, dims)]
        if len(pads) != dims or min(map(min, pads)) < 0:
            return None
    spare = [size + sum(pad) - d * (k - 1) - 1 for size, pad, d, k in zip(sizes, pads, apart, kernel, strict=True)]
    if min(spare) < 0 or 0 in (*inputs.shape, *weight.shape):
        return None
    places = [left // step + 1 for left, step in zip(spare, steps, strict=True)]
    if _product(kernel) * _product(places) > _MOST_COPIES * _product(sizes):
        return None
    return steps, pads, apart, places


def _of_each_axis(value: int | Sequence[int], dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else [*value]
    return values * dims if len(values) == 1 else values


def _product(numbers: Sequence[int]) -> int:
    return int(torch.Size(numbers).numel())
