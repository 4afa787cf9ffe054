"""metarun.console.notebook: the bar below a cell is written anew, and ends as it was last."""

import io

import IPython.display
import pytest
from rich.console import Console

from metarun.console import progress
from metarun.console.terminal import is_live


class Handle:
    """What IPython gives to change what it displayed."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        self.texts.append(bundle["text/plain"])


@pytest.fixture
def handle(monkeypatch) -> Handle:
    handle = Handle()

    def display(bundle, *, raw, display_id):
        handle.update(bundle, raw=raw)
        return handle

    monkeypatch.setattr(IPython.display, "display", display)
    return handle


def test_the_bar_is_shown_in_a_notebook(handle):
    printed = io.StringIO()
    console = Console(file=printed, force_jupyter=True, width=100)
    watcher = progress.RunConsole(console, score="mse", total=40, done=0)
    with watcher:
        for step in range(1, 41):
            watcher.stepped(step, 0.5, 1.0)
    assert len(handle.texts) >= 2
    assert "0/40" in handle.texts[0]
    assert "40/40" in handle.texts[-1] and "loss 0.500" in handle.texts[-1]
    assert all("\n" not in text and "\x1b" not in text for text in handle.texts)
    assert printed.getvalue() == "", "nothing beside it"


def test_a_quiet_notebook_shows_nothing(handle):
    quiet = Console(force_jupyter=True, quiet=True)
    assert not is_live(quiet)
    with progress.RunConsole(quiet, score="mse", total=2, done=0) as watcher:
        watcher.stepped(1, 0.5, 1.0)
    assert handle.texts == []
