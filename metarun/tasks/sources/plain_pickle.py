"""Pickles of data, read without running anything in them: plain containers, and NumPy arrays of numbers or bytes.

NumPy's own functions for pickles trust what they are given: `dtype.__setstate__` makes an array whose bytes are followed as
pointers. So none of them is called with what the file says. Stand-ins take their places, and pass on what they have checked.
"""

import io
import math
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np

from metarun.tasks.sources.archives import reading

_KINDS = "biufcSU"
"""Of dtypes whose bytes are values: truth, integers, numbers, bytes, text."""
_ATOMS = (str, bytes, bytearray, int, float, complex, type(None), np.generic)
_NO_PICKLE = (
    *(KeyError, IndexError, TypeError, AttributeError, AssertionError, struct.error),  # by what damaged bytes spell
    *(MemoryError, OverflowError, RecursionError),
)
_ARRAY = object()  # what `numpy.ndarray` becomes: good for naming it to `_reconstruct`, and for nothing else


def unpickled(file: IO[bytes] | bytes, where: Path, what: str) -> Any:
    """What a pickle of Python 2 or 3 holds, if that is plain containers and NumPy arrays of numbers or bytes.

    Anything else in it is refused, as loading it could run whatever its maker wished.

    Raises:
        ValueError: the pickle is damaged or holds something else.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    with reading(where, what):
        try:
            value = _PlainUnpickler(stream, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise ValueError(str(error)) from error
        except _NO_PICKLE as error:
            raise ValueError(f"it is no whole pickle ({type(error).__name__}: {error})") from error
        _check_plain(value)
        return value


class _DType:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        self.value = _plain(np.dtype(str(code)))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):  # a subarray, names and fields
            raise ValueError("it holds an array of records, which no data file needs")
        self.value = _plain(self.value.newbyteorder(order))


class _Array(np.ndarray):
    """An array that is filled from a pickle's state after a check of all of it."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, is_fortran, data = state
        shape, dtype = _checked(shape, dtype, data)
        whole = (1, shape, dtype, bool(is_fortran), _bytes(data))
        # NumPy's stub wants a numpy.bool there, which NumPy itself refuses.
        np.ndarray.__setstate__(self, whole)  # pyright: ignore[reportArgumentType]


def _reconstruct(kind: object, *_: object) -> np.ndarray:
    if kind is not _ARRAY:
        raise ValueError("it makes an array of something that is none")
    return np.ndarray.__new__(_Array, (0,), "u1")


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    shape, value = _checked((1,), dtype, data)
    return np.frombuffer(_bytes(data), value).reshape(shape)[0]


def _from_buffer(data: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    shape, value = _checked(shape, dtype, data)
    return np.frombuffer(_bytes(data), value).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes text as {encoding!r}, which no data file needs")
    return text.encode("latin1")


def _checked(shape: Any, dtype: Any, data: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype, if the data have just as many bytes."""
    if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray | str):
        raise ValueError("it holds an array of something else than numbers or bytes")
    shape = tuple(int(side) for side in shape)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.value.itemsize != len(data):
        raise ValueError(f"it holds an array of {len(data)} bytes that should be {dtype.value} {shape}")
    return shape, dtype.value


def _bytes(data: bytes | bytearray | str) -> bytes:
    """Python 2's strings are bytes, and come as Latin-1."""
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in _KINDS:
        raise ValueError(f"it holds an array of {dtype}; numbers and bytes alone are read")
    return dtype


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes them where there are none
    ("collections", "OrderedDict"): OrderedDict,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer),
    )
}


class _PlainUnpickler(pickle._Unpickler):
    """The one in Python, which a few wrong bytes cannot make fill the memory: C's keeps a table up to the largest index.

    It takes 0.04 ms more for an array: 30 s for the 779,165 images of tiered-ImageNet.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which no data file needs")
        return _STAND_INS[module, name]


def _check_plain(value: Any) -> None:
    """Raise `ValueError` unless all that is reached from `value` is plain."""
    waiting, seen = [value], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, np.ndarray):
            _plain(node.dtype)
        elif isinstance(node, dict | list | tuple | set | frozenset):
            if id(node) not in seen:
                seen.add(id(node))
                waiting += [*node.keys(), *node.values()] if isinstance(node, dict) else node
        elif not isinstance(node, _ATOMS):
            raise ValueError(f"it holds {type(node).__name__}, which no data file needs")
