"""Signals outside the training loop, and a terminal or a disk that is gone: no run ends without a word."""

import json
import logging
import os
import pty
import signal
from pathlib import Path

import pytest

from metarun.commands import run
from metarun.console.notes import LogFile, shown
from metarun.console.terminal import terminal
from metarun.training.stopping import STOP_SIGNALS, answering_signals, leave_terminal

from .small import SIX_STEPS, metrics_of, only_folder, run_here

ENDING = [number for number in STOP_SIGNALS if number != signal.SIGINT]


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_while_it_tests_is_told_and_the_state_is_not_running(number, tmp_path, monkeypatch, capsys):
    measure = run.measure_test
    monkeypatch.setattr(run, "measure_test", lambda *_: os.kill(os.getpid(), number))
    command = (*SIX_STEPS, f"run.root={tmp_path}")
    assert run_here(*command) == 128 + number
    assert capsys.readouterr().err == f"metarun: stopped by {number.name}\n"
    folder = only_folder(tmp_path)
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["error"], status["step"]) == ("preempted", f"stopped by {number.name}", 6)
    assert "outside training; the same command goes on" in (folder / "log.txt").read_text()
    monkeypatch.setattr(run, "measure_test", measure)
    assert run_here(*command) == 0
    assert all(signal.getsignal(each) is signal.SIG_DFL for each in ENDING)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_while_it_trains_is_a_checkpoint(number, tmp_path, monkeypatch, capsys):
    from metarun.algorithm import Algorithm

    meta_step, calls = Algorithm.meta_step, []

    def signalled(*arguments, **named):
        calls.append(None)
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return meta_step(*arguments, **named)

    monkeypatch.setattr(Algorithm, "meta_step", signalled)
    with pytest.raises(SystemExit) as stopped:
        run_here(*SIX_STEPS, f"run.root={tmp_path}")
    assert stopped.value.code == 128 + number
    assert f"stopped by {number.name} after step 4. A checkpoint is written" in capsys.readouterr().out
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}") == 0
    assert len(calls) == 6
    assert [row["step"] for row in metrics_of(only_folder(tmp_path))] == [2, 3, 4, 6, 6]


def test_what_somebody_ignores_stays_ignored():
    """`nohup metarun ... &` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with answering_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_a_terminal_has_gone_printing_is_no_error():
    """In a process of its own, whose output is a terminal that closes."""
    parent, child = pty.openpty()
    pid = os.fork()
    if pid == 0:  # no pytest here: only what the test is about
        status = 3
        try:
            os.dup2(child, 1), os.dup2(child, 2)
            os.close(parent), os.close(child)
            os.kill(os.getpid(), signal.SIGSTOP)
            try:
                os.write(1, b"x")
            except OSError:
                leave_terminal()
                os.write(1, b"x"), os.write(2, b"x")
                status = 0
        finally:
            os._exit(status)
    os.close(child)
    os.waitpid(pid, os.WUNTRACED)
    os.close(parent)
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, on which every write fails")
def test_a_full_disk_costs_the_log_its_lines_and_says_so_once(capsys):
    with shown(terminal(width=200), LogFile("/dev/full"), level=logging.WARNING):
        for words in ("one", "two"):
            logging.getLogger("metarun").info(words)
    assert capsys.readouterr() == ("warning: /dev/full cannot be written: No space left on device\n", "")


def test_a_terminal_that_is_gone_costs_no_run(tmp_path, monkeypatch):
    """Its observer cannot print; every step is done and saved."""
    from metarun.console.progress import RunConsole

    def gone(*_arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(RunConsole, "stepped", gone)
    monkeypatch.setattr(RunConsole, "validated", gone)
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}") == 0
    assert (only_folder(tmp_path) / "result.json").exists()
