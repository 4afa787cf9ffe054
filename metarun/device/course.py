"""Which course a computation takes: one that looks at values, or one that is the same whatever they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

from torch import Tensor


class Course(Enum):
    """How loops and searches run.

    LOOKING: they end as soon as values allow; on a GPU, where looking means waiting for it, they run as STATIC.
    STATIC: they are written out in full, and what has ended is kept as it is by masks: one sequence of operations, which can be
    traced, or captured as a CUDA graph.
    ROLLED: the same as loops of the compiled program (`metarun.maths.loops`), which may end early.
    """

    LOOKING = "looking"
    STATIC = "static"
    ROLLED = "rolled"


_COURSE: ContextVar[Course] = ContextVar("course", default=Course.LOOKING)


@contextmanager
def course(chosen: Course) -> Iterator[None]:
    """Within the block computations take this course."""
    token = _COURSE.set(chosen)
    try:
        yield
    finally:
        _COURSE.reset(token)


def may_read_values(like: Tensor) -> bool:
    """Whether values of tensors on the device of `like` may decide what is done next."""
    return _COURSE.get() is Course.LOOKING and like.device.type == "cpu"


def may_wait() -> bool:
    """Whether values may decide wherever they lie, for what costs more than a wait for the device; not within a program."""
    return _COURSE.get() is Course.LOOKING


def is_rolled() -> bool:
    """Whether loops are to be loops of a traced program."""
    return _COURSE.get() is Course.ROLLED
