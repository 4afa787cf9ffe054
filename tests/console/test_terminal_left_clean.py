"""A run on a terminal that is interrupted, or fails, leaves no half bar there, and a cursor."""

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest

from ..screens import fits, left_on_terminal
from ..training.small import QUICK, ROOT

WIDTH = 60
LONG = (*QUICK, "device.program=eager", "schedule.steps=100000", "schedule.eval_every=50000")


def on_a_terminal(words, until: str, cwd: Path) -> tuple[int, str]:
    """Exit status and output of a command on a terminal of its own, which is sent a Ctrl-C when it has shown `until`."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        # No other environment: readline, say, sets COLUMNS behind Python's back.
        environment = {"TERM": "xterm", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(cwd)}
        environment |= {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        os.execve(sys.executable, [sys.executable, "-m", "metarun", *words], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    sent = b""
    is_asked = False
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        sent += more
        if not is_asked and until and until.encode() in sent:
            os.write(terminal, b"\x03")
            is_asked = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sent.decode()


@pytest.mark.scenario
@pytest.mark.parametrize(
    ("words", "until", "status", "ending"),
    [
        (LONG, "loss", 130, "metarun: interrupted"),
        ((*LONG, "evaluation.tasks=1000000", "schedule.steps=1"), "% of", 130, "metarun: interrupted"),
        ((*LONG, "optimizer.lr=1e30"), "", 1, "stands."),
        (("-m", "seed=1,2", *LONG), "starting", 130, "metarun: interrupted"),
    ],
    ids=["training", "testing", "failing", "sweep"],
)
def test_a_run_that_is_broken_off_leaves_the_terminal_clean(words, until, status, ending, tmp_path):
    found, sent = on_a_terminal(words, until, tmp_path)
    lines, is_shown = left_on_terminal(sent)
    assert found == status, lines
    assert is_shown and "\n".join(lines).rstrip("\n").endswith(ending), lines
    assert "━" in sent, "there was a bar, or a table"
    text = "\n".join(lines)
    assert "to go" not in text and "╸" not in text
    assert all("1/1" in line for line in lines if "━" in line), "only a bar that came to its end may stay"
    fits(text, WIDTH, str(tmp_path))
