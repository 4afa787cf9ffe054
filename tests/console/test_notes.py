"""metarun.console.notes: what the package logs is shown once, in its own words, and logging is left as it was."""

import fcntl
import io
import logging
import threading

import pytest
from rich.console import Console

from metarun.console.notes import shown

from ..tasks.test_folder import write_classes
from ..training.small import QUICK, python, run_here

LOGGER = logging.getLogger("metarun.tasks.anything")


def test_each_level_has_its_word_and_errors_have_none(tmp_path):
    out, root = io.StringIO(), logging.StreamHandler(heard := io.StringIO())
    file = logging.FileHandler(tmp_path / "log.txt")
    logging.root.addHandler(root)
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in ("metarun", "")}
    try:
        with shown(Console(file=out), file):
            LOGGER.debug("a")
            LOGGER.info("b in %s", "[red]c[/]")
            LOGGER.warning("d")
            LOGGER.error("e")
        with shown(Console(file=out), level=logging.WARNING):
            LOGGER.info("f")
            LOGGER.warning("g")
        LOGGER.warning("h")
    finally:
        logging.root.removeHandler(root)
    assert out.getvalue() == "note: b in [red]c[/]\nwarning: d\nwarning: g\n"
    assert (tmp_path / "log.txt").read_text() == "b in [red]c[/]\nd\ne\n"
    assert heard.getvalue() == "h\n"
    assert before == {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in before}
    assert logging.getLogger("metarun").handlers == []


@pytest.mark.scenario
def test_a_run_that_waits_for_another_says_so_in_its_own_words(tmp_path):
    write_classes(tmp_path / "pets", {f"class {c:02d}": 3 for c in range(30)})
    words = ("dataset=folder", f"dataset.path={tmp_path / 'pets'}", "dataset.image_size=16", f"data.cache={tmp_path}")
    assert run_here("data", "prepare", "folder", *words[1:]) == 0
    (packed,) = tmp_path.glob("*.classes")
    packed.unlink()
    (tmp_path / "pets" / "class 00" / "notes.txt").write_text("no image")
    short = (
        "schedule.steps=1",
        "dataset.queries=1",
        "model.width=4",
        "algorithm.inner.steps=1",
        "dataset.test_queries=1",
    )
    with open(f"{packed}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = python("-m", "metarun", *words, *QUICK, *short, f"run.root={tmp_path / 'runs'}", HOME=str(tmp_path))
        timer = threading.Timer(120, run.kill)  # a run that says nothing would be waited for without end
        timer.start()
        said = [run.stdout.readline(), run.stdout.readline()]
    out, err = run.communicate(timeout=120)
    timer.cancel()
    assert said == [
        f"warning: {tmp_path / 'pets'}: not used: no image (1): class 00/notes.txt\n",
        f"note: Waiting for another process that is preparing {packed}\n",
    ]
    assert run.returncode == 0, err
    assert "HYDRA" not in out + err
