"""TF32, by which a GPU may round the factors of products to ten bits, and where that is not allowed."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def allow_tf32(allowed: bool) -> None:
    """For products of matrices and convolutions of this process on a GPU; a CPU's are in full precision either way."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def allows_tf32() -> bool:
    """Whether products on a GPU may be in TF32 at present."""
    return bool(torch.backends.cuda.matmul.allow_tf32)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within the block, products are in full precision; afterwards as before."""
    if not allows_tf32():
        yield
        return
    allow_tf32(False)
    try:
        yield
    finally:
        allow_tf32(True)


def precisely(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """`function`, within `full_precision`.

    Curvature products are: conjugate gradients live on the symmetry and the linearity of a map, both of which TF32 leaves at 1e-3,
    and a difference of gradients is smaller than what TF32 rounds away.
    """

    @functools.wraps(function)
    def called(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if not allows_tf32():
            return function(*args, **kwargs)
        with full_precision():
            return function(*args, **kwargs)

    return called
