"""A bar in a notebook: a text below the cell that is written anew, without widgets."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType

from metarun.console.terminal import terminal

_EVERY_S = 0.5
_WIDTH = 100


@contextmanager
def shown_in_notebook(shown: Callable[[], RenderableType]) -> Iterator[None]:
    """Show what `shown` gives, twice a second, and once more at the end."""
    from IPython.display import display

    handle = display(_bundle(shown()), raw=True, display_id=True)
    if handle is None:  # IPython without anybody who displays
        yield
        return
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_EVERY_S):
            handle.update(_bundle(shown()), raw=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        handle.update(_bundle(shown()), raw=True)


def _bundle(renderable: RenderableType) -> dict[str, str]:
    text = io.StringIO()
    terminal(file=text, width=_WIDTH, force_terminal=False, force_jupyter=False).print(renderable)
    return {"text/plain": text.getvalue().rstrip()}
