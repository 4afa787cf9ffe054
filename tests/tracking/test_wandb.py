import contextlib
import http.server
import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from metarun.tracking.base import NullTracker, RunInfo
from metarun.tracking.wandb import WandbTracker

pytest.importorskip("wandb", reason="wandb is an optional dependency")
from .wandb_reader import read_offline_run

REPOSITORY = Path(__file__).resolve().parents[2]


def settings(**changes):
    defaults = dict(
        project="metarun", entity=None, mode="offline", group=None, tags=[], init_timeout_s=10, finish_timeout_s=30
    )
    return WandbTracker(**{**defaults, **changes})


def info(folder, run_id="cafe0001", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"seed": 0, "algorithm": {"inner": {"steps": 5, "step_size": 0.4}, "name": "maml"}, "hidden": [64, 64]}
    fields = dict(name="sinusoid-maml", config=config, group="sweep7", job_type="train", tags=("maml", "sinusoid"))
    return RunInfo(folder=folder, run_id=run_id, **{**fields, **changes})


def said(caplog):
    """What metarun logged (wandb's own records go to its files, but pytest catches them)."""
    return [(record.levelname, record.message) for record in caplog.records if record.name.startswith("metarun")]


def stored(folder):
    """The one closed run under `folder` that was written offline.

    wandb's own process writes the file and now and then is still at it when `finish` has returned (seen: once in 60 times,
    7 bytes, whole within two seconds), so the record of the exit is waited for.
    """
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 20
    while (held := read_offline_run(path)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def test_an_offline_run_holds_everything(tmp_path, caplog, capfd):
    tracker = settings(tags=["mine"]).open(info(tmp_path))
    for step in (10, 20, 35):
        tracker.log(step, {"train/query_loss": 1 / step, "train/cg/steps": 5})
    tracker.summarize({"test/accuracy": 0.75})
    tracker.close(0)
    tracker.close(0)
    held = stored(tmp_path)
    assert {key: value for key, value in held.config.items() if key != "_wandb"} == {
        "seed": 0,
        "algorithm.inner.steps": 5,
        "algorithm.inner.step_size": 0.4,
        "algorithm.name": "maml",
        "hidden": [64, 64],
    }
    rows = [{key: value for key, value in row.items() if key in ("_step", "train/query_loss")} for row in held.history]
    assert rows == [{"_step": step, "train/query_loss": 1 / step} for step in (10, 20, 35)]
    assert held.summary["test/accuracy"] == 0.75
    assert held.exit_code == 0
    assert (held.run.run_id, held.run.project, held.run.display_name) == ("cafe0001", "metarun", "sinusoid-maml")
    assert (held.run.run_group, held.run.job_type) == ("sweep7", "train")
    assert sorted(held.run.tags) == ["maml", "mine", "sinusoid"]
    assert said(caplog) == []
    assert capfd.readouterr() == ("", "")


def test_runs_of_one_process_are_runs_of_their_own_with_their_exit_codes(tmp_path):
    first = settings().open(info(tmp_path / "a", "cafe000a", config={"seed": 1}))
    second = settings(group="mine").open(info(tmp_path / "b", "cafe000b", config={"seed": 2}))
    first.log(1, {"x": 1.0})
    second.log(1, {"x": 2.0})
    first.close(1)
    second.close(0)
    a, b = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert [(run.run.run_id, run.config["seed"], run.history[0]["x"], run.exit_code) for run in (a, b)] == [
        ("cafe000a", 1, 1.0, 1),
        ("cafe000b", 2, 2.0, 0),
    ]
    assert (a.run.run_group, b.run.run_group) == ("sweep7", "mine")


def test_an_overlong_tag_is_cut_to_what_wandb_takes(tmp_path, caplog):
    settings().open(info(tmp_path, "cafe000c", tags=("t" * 70,))).close(0)
    assert list(stored(tmp_path).run.tags) == ["t" * 64]
    assert said(caplog) == []


def test_steps_that_wandb_has_are_passed_over(tmp_path):
    """Of a run that W&B knows already, wandb says at which step it goes on; offline it knows of none."""
    tracker = settings().open(info(tmp_path, "cafe000d"))
    assert tracker._first_step == 0
    tracker._first_step = 5
    for step in (3, 4, 5, 8):
        tracker.log(step, {"x": 0.5})
    tracker.close(0)
    assert [row["_step"] for row in stored(tmp_path).history] == [5, 8]


def test_a_run_that_was_begun_anew_says_what_wandb_keeps_of_the_other(tmp_path, caplog, monkeypatch):
    started = types.SimpleNamespace(url="https://wandb.ai/run", starting_step=7)
    monkeypatch.setattr("metarun.tracking.wandb._start", lambda *_: started)
    assert settings().open(info(tmp_path))._first_step == 7
    assert said(caplog) == []
    settings().open(info(tmp_path, is_new=True))
    words = "W&B has steps of this run from before it was begun anew, and those below 7 are not sent. Delete the run there, "
    assert said(caplog) == [("WARNING", f"{words}and send it whole: metarun sync {tmp_path} --to wandb")]


def test_a_missing_wandb_is_an_error_for_the_guard_to_tell(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="import of wandb halted"):
        settings().open(info(tmp_path))


def test_disabled_does_not_import_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert isinstance(settings(mode="disabled").open(info(tmp_path)), NullTracker)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"^mode must be one of auto, online, offline, disabled, got 'on'"):
        settings(mode="on")
    with pytest.raises(ValueError, match=r"^finish_timeout_s must be a number > 0, got 0$"):
        settings(finish_timeout_s=0)


def test_a_run_that_is_sent_later_does_not_fall_back(tmp_path, monkeypatch):
    """There is an offline record already: the local one."""
    with pytest.raises(ValueError, match=r"^W&B is disabled \(tracker\.wandb\.mode, WANDB_MODE\)$"):
        settings(mode="disabled").open(info(tmp_path, is_sync=True))
    monkeypatch.setattr("metarun.tracking.wandb._why_not_online", lambda *_: "no answer")
    with pytest.raises(ConnectionError, match=r"^no answer$"):
        settings(mode="online").open(info(tmp_path, is_sync=True))
    assert list(tmp_path.iterdir()) == []


# What depends on the environment is asked of a new process: wandb reads the environment once.

RUN = """
import json, logging, sys, time
from pathlib import Path
from metarun.tracking.base import RunInfo
from metarun.tracking.wandb import WandbTracker
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)  # as Hydra does
settings = WandbTracker(project="p", entity=None, group=None, tags=[], **json.loads(sys.argv[2]))
for run_id in sys.argv[3:]:
    folder = Path(sys.argv[1], run_id)
    folder.mkdir()
    run = RunInfo(folder=folder, name="n", config={}, group=None, job_type="train", tags=(), run_id=run_id)
    started = time.monotonic()
    tracker = settings.open(run)
    print(round(time.monotonic() - started, 2), flush=True)
    tracker.log(4, {"x": 0.5})
    tracker.close(0)
"""
KEY = "0" * 40


def process(folder, *, ids=("one",), mode="auto", init_timeout_s=1.0, **environment):
    """The command and the environment of a process that opens runs: no key but what is given, no proxy."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("WANDB_") and not key.lower().endswith("_proxy") and key != "NETRC"
    }
    home = folder / "home"
    home.mkdir()
    options = {"mode": mode, "init_timeout_s": init_timeout_s, "finish_timeout_s": 2.0}
    return dict(
        args=[sys.executable, "-c", RUN, str(folder), json.dumps(options), *ids],
        env={**clean, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=home,
    )


def finished(folder, **options):
    """stdout and stderr lines and seconds of such a process, with nothing on its standard input."""
    started = time.monotonic()
    done = subprocess.run(
        **process(folder, **options), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines(), done.stderr.splitlines(), time.monotonic() - started


def assert_complete(run):
    assert [(row["_step"], row["x"]) for row in run.history] == [(4, 0.5)]
    assert run.exit_code == 0


@contextlib.contextmanager
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"  # bound, not listening: connections are refused


@contextlib.contextmanager
def black_hole():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)  # connections are accepted by the kernel and nobody answers
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "server, cause", [(closed_port, "cannot be reached"), (black_hole, "did not answer within 1 s")]
)
def test_a_key_but_no_answer_is_one_warning_and_an_offline_run(tmp_path, server, cause):
    with server() as url:
        _, err, wall_s = finished(tmp_path, ids=("one", "two"), WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    assert len(err) == 1
    assert err[0].startswith(f"WARNING W&B is offline for this run: {url} ")
    assert cause in err[0] or "no answer within 1 s" in err[0]
    assert wall_s < 20  # 3 s on a quiet machine
    assert_complete(stored(tmp_path / "one"))
    assert_complete(stored(tmp_path / "two"))


@pytest.mark.slow
def test_a_server_that_answers_and_then_falls_silent_ends_offline(tmp_path):
    released = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def do_POST(self):
            released.wait(60)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        _, err, wall_s = finished(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
        released.set()
        server.shutdown()
    assert len(err) == 1
    assert err[0].startswith("WARNING W&B is offline for this run: ")
    assert wall_s < 20
    assert_complete(stored(tmp_path / "one"))


def test_a_malformed_key_is_one_warning_that_names_it(tmp_path):
    _, err, _ = finished(tmp_path, WANDB_API_KEY="short")
    assert len(err) == 1
    assert err[0].startswith("WARNING W&B is offline for this run: WANDB_API_KEY invalid: API key must have 40+")
    assert_complete(stored(tmp_path / "one"))


def test_a_key_in_netrc_counts(tmp_path):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\nlogin user\npassword {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    _, err, _ = finished(tmp_path, NETRC=str(tmp_path / "netrc"), WANDB_BASE_URL="http://127.0.0.1:9")
    assert len(err) == 1
    assert err[0].startswith("WARNING W&B is offline for this run: http://127.0.0.1:9 cannot be reached")


def test_the_environment_can_turn_auto_off(tmp_path):
    _, err, _ = finished(tmp_path, WANDB_MODE="disabled", WANDB_API_KEY=KEY)
    assert err == []
    assert list((tmp_path / "one").iterdir()) == []


@pytest.mark.parametrize("mode, warnings", [("auto", 0), ("online", 1)])
def test_without_a_key_nobody_is_asked_even_at_a_terminal(tmp_path, mode, warnings):
    ours, theirs = pty.openpty()
    child = subprocess.Popen(**process(tmp_path, mode=mode), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # Linux's word for the end of a terminal
                break
    assert child.wait(timeout=5) == 0
    os.close(ours)
    lines = shown.decode().split()
    assert shown.decode().count("WARNING W&B is offline for this run: no API key is configured") == warnings
    assert len(shown.decode().splitlines()) == 1 + warnings, lines
    assert_complete(stored(tmp_path / "one"))
