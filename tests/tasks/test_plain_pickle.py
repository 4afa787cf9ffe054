"""metarun.tasks.sources.plain_pickle: reads what NumPy would, runs nothing, and follows no pointer out of a file."""

import pickle
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from metarun.tasks.sources.plain_pickle import unpickled

ARRAYS = [
    *(np.arange(12).astype(code).reshape(3, 4) for code in ("u1", "<i4", ">i4", "f8", "c16", "?")),
    np.array([b"ab", b"c"]),
    np.array(["xy", "z"]),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.zeros((0, 3)),
    np.array(5.0),
    np.float32(3),
]


def read(data: bytes) -> object:
    return unpickled(data, Path("set.pkl"), "miniimagenet")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_and_containers_come_out_as_numpy_reads_them(protocol):
    content = OrderedDict(a=ARRAYS, b=(1, 2.5, None, b"q", True, 2**70), c={"d": [[], {}]})
    data = pickle.dumps(content, protocol)
    for written in {data, data.replace(b"numpy._core", b"numpy.core") if protocol < 4 else data}:
        found, expected = read(written), pickle.loads(written, encoding="latin1")
        assert (found["b"], found["c"]) == (expected["b"], expected["c"])
        for ours, theirs in zip(found["a"], expected["a"], strict=True):
            assert np.asarray(ours).dtype == theirs.dtype and np.array_equal(ours, theirs)
            assert ours.flags.f_contiguous == theirs.flags.f_contiguous


def op(value: object) -> bytes:
    """The opcodes that push a value."""
    return pickle.dumps(value, 2)[2:-1]


def dtype(code: str, *state: object) -> bytes:
    """A dtype of `code`, given the rest of a state that NumPy itself would never write."""
    built = op((3, "|", *state)) + b"b" if state else b""
    return b"cnumpy\ndtype\n" + op((code, False, True)) + b"R" + built


def array(kind: bytes, shape: tuple[int, ...], data: object) -> bytes:
    """An array of one dtype, over `data`."""
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + op((0,)) + op("b") + b"tR"
    return b"\x80\x02" + made + b"(" + op(1) + op(shape) + kind + op(False) + op(data) + b"tb."


POINTER = "AAAAAAAA"  # 0x4141414141414141, followed by NumPy if it believes that this is a reference


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (array(dtype("O8", None, None, None, -1, -1, 0), (1,), POINTER), "array of object"),
        (array(dtype("O8"), (1,), POINTER), "array of object"),
        (array(dtype("O8"), (1,), [1]), "array of object"),
        (array(dtype("V8", None, None, None, 8, 8, 0x3F), (1,), POINTER), "array of |V8"),
        (array(dtype("u8", ("u8", (1,)), None, None, 8, 8, 0x3F), (1,), POINTER), "array of records"),
        (array(dtype("u8", None, ("a",), {"a": 0}, 8, 8, 0), (1,), POINTER), "array of records"),
        (array(dtype("M8"), (1,), POINTER), "array of datetime64"),
        (array(op("O"), (1,), POINTER), "something else than numbers or bytes"),
        (array(dtype("u1"), (1,), [POINTER]), "something else than numbers or bytes"),
        (array(dtype("u8"), (2,), POINTER), "8 bytes that should be uint64 (2,)"),
        (array(dtype("u1"), (-8, -1), POINTER), "8 bytes that should be uint8 (-8, -1)"),
        (array(dtype("u8"), (2**61, 8, 2**61), POINTER), "8 bytes that should be"),
        (b"\x80\x02cnumpy\nndarray\n.", "it holds object"),
        (b"\x80\x02" + dtype("u1") + b".", "it holds _DType"),
        (b"\x80\x02cnumpy\nndarray\n" + op((8,)) + b"R.", "not callable"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "it holds _DType"),
        (b"\x80\x02c_codecs\nencode\n" + op(("x", "zip")) + b"R.", "encodes text as 'zip'"),
        (b"cos\nsystem\n(S'true'\ntR.", "it wants to load os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__reduce_\x93.", "it wants to load numpy.dtype.__reduce_"),
        (pickle.dumps({1: {2, 3}}, 2), "it wants to load __builtin__.set"),
        (pickle.dumps(np.array([1, "a"], dtype=object)), "array of object"),
        (pickle.dumps(list(range(50)))[:-20], "truncated"),
        (b"", "truncated, or not such a file (EOFError)"),
        (b"\x80\x02_.", "it is no whole pickle (KeyError: 95)"),
        (b"\x80\x02r\xff.", "it is no whole pickle (error: unpack requires a buffer of 4 bytes)"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "truncated, or not such a file (EOFError)"),
    ],
)
def test_anything_else_is_refused_in_one_line(data, words):
    with pytest.raises(ValueError) as caught:
        read(data)
    assert str(caught.value).startswith("set.pkl (") and words in str(caught.value) and "\n" not in str(caught.value)


def test_a_large_index_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(b"\x80\x02]r\xff\xff\xff\x07.") == []  # C's unpickler: 2 GiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_depth_does_not_matter():
    data = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    nested = read(data)
    assert isinstance(nested, list) and len(nested) == 1
    while nested:  # taken apart from the outside: Python would take it apart by recursion
        (nested,) = nested
