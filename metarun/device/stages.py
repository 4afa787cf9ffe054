"""Names for the stages of a step, which cost nothing until somebody listens (`metarun.training.profile`)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Listener = Callable[[str], AbstractContextManager[object]]
"""Given the name of a stage that begins: a context that lasts as long as it."""

FIRST = "drawing"
"""The stage that every step begins with."""
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_NOTHING = nullcontext()


def stage(name: str) -> AbstractContextManager[object]:
    """A context around a part of a step; a stage inside another one is no part of it."""
    listener = _listener.get()
    return _NOTHING if listener is None else listener(name)


def staged(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`stage` around every call of a function."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with stage(name):
                return function(*args, **kwargs)

        return call

    return decorate


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, stages are told to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
