"""metarun.tracking.guard and follow: no tracker of whatever kind slows, stops or fails a run, or changes what it records."""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from metarun.tracking.base import RunInfo
from metarun.tracking.guard import Follower, GuardedTrackers
from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.wandb import WandbTracker

from ..training.small import QUICK, SIX_STEPS, assert_same_runs, only_folder, python, run_here
from .hostile import Hostile, beside_us
from .test_wandb import KEY, black_hole, stored

CALLS = ("open", "log", "summarize", "close")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    beside_us(monkeypatch)
    monkeypatch.setattr("metarun.tracking.guard._GRACE_S", 0.2)
    monkeypatch.setattr("metarun.tracking.guard._LOOK_S", 0.1)


def run_in(folder):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"seed": 0}')
    return RunInfo(folder=folder, name="n", config={}, group=None, job_type="train", tags=("maml",), run_id="cafe0001")


def guarded(folder, settings, **node):
    node = {key: value for key, value in vars(settings).items()} | node
    return GuardedTrackers({"hostile": node}, {"hostile": settings}, run_in(folder), folder / "log.txt")


def hostile(folder, at, how, finish_timeout_s):
    return guarded(folder, Hostile(at=at, how=how, finish_timeout_s=finish_timeout_s), _target_="hostile.Hostile")


def said(caplog):
    return [(record.levelname, record.message) for record in caplog.records]


def warning(folder, why):
    words = f"The local files in {folder} are complete; send them later: metarun sync {folder} --to hostile"
    return [("WARNING", f"tracker hostile stopped: {why}. {words}")]


@pytest.mark.parametrize("at", CALLS)
def test_an_error_is_one_warning(tmp_path, caplog, capfd, at):
    tracker, record = hostile(tmp_path, at, "raise", 60), MetricsFile(tmp_path / "metrics.jsonl", -1)
    for step in range(3):
        record.log(step, {"x": 1.0})
        tracker.log(step, {"x": 1.0})
    tracker.summarize({"y": 1.0})
    tracker.close(0)
    tracker.close(0)
    assert said(caplog) == warning(tmp_path, "the pipe is broken")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("at", CALLS)
def test_what_hangs_is_waited_for_at_the_end_alone_and_not_for_long(tmp_path, caplog, at):
    started = time.monotonic()
    tracker, record = hostile(tmp_path, at, "hang", 1.5), MetricsFile(tmp_path / "metrics.jsonl", -1)
    for step in range(1000):
        record.log(step, {"x": 1.0})
        tracker.log(step, {"x": 1.0})
    assert time.monotonic() - started < 1.5
    process = tracker._followers[0]._process
    started = time.monotonic()
    tracker.close(0) if at == "close" else (tracker.summarize({"y": 1.0}), tracker.close(0))
    assert 1.5 < time.monotonic() - started < 5
    assert said(caplog) == warning(tmp_path, "it did not end within 1.5 s (tracker.hostile.finish_timeout_s)")
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("how, why", [("exit", "its process ended with status 7"), ("leave", "0")])
def test_the_end_of_a_trackers_process_is_found_while_the_run_goes_on(tmp_path, caplog, how, why):
    tracker = hostile(tmp_path, "open", how, 60)
    for step in itertools.count():
        tracker.log(step, {})
        if said(caplog):
            break
        time.sleep(0.05)
    assert said(caplog) == warning(tmp_path, why)
    tracker.close(0)
    assert len(said(caplog)) == 1


def test_a_run_that_was_told_to_stop_waits_for_a_shorter_time(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("metarun.tracking.guard._STOPPED_S", 1.0)
    tracker = hostile(tmp_path, "open", "hang", 60)
    started = time.monotonic()
    tracker.close(143)
    assert 1 < time.monotonic() - started < 5
    assert said(caplog) == warning(tmp_path, "it did not end within 1 s (tracker.hostile.finish_timeout_s)")


def test_ctrl_c_while_a_run_waits_ends_every_tracker(tmp_path, monkeypatch):
    settings = Hostile(at="close", how="hang", finish_timeout_s=60)
    node = {**vars(settings), "_target_": "hostile.Hostile"}
    run = run_in(tmp_path)
    tracker = GuardedTrackers({"a": node, "b": node}, {"a": settings, "b": settings}, run, tmp_path / "log.txt")
    processes = [follower._process for follower in tracker._followers]

    def interrupted(self, wait_s=0.0):
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "hear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracker.close(0)
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


def test_a_damaged_record_stops_a_tracker_and_not_the_run(tmp_path, caplog):
    tracker = hostile(tmp_path, "", "", 60)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"st\n')
    tracker.close(0)
    ((level, words),) = said(caplog)
    assert (level, "metrics.jsonl, line 1: expected a JSON object" in words) == ("WARNING", True)


def test_a_missing_extra_is_an_error_before_anything_is_written(tmp_path, capsys, monkeypatch):
    def missing(extra, *packages):
        raise ImportError(f"{extra} is not installed: pip install 'metarun[{extra}]', or leave this tracker out")

    monkeypatch.setattr("metarun.tracking.tensorboard.require_extra", missing)
    command = [word for word in SIX_STEPS if not word.startswith("tracker")]
    assert run_here(*command, "tracker=[wandb,tensorboard]", f"run.root={tmp_path / 'runs'}") == 2
    assert capsys.readouterr().err == (
        "metarun: error: tracker.tensorboard: tensorboard is not installed: pip install 'metarun[tensorboard]', "
        "or leave this tracker out\n"
    )
    assert not (tmp_path / "runs").exists()


def test_what_a_tracker_prints_goes_to_the_log(tmp_path, caplog, capfd):
    hostile(tmp_path, "open", "print", 60).close(0)
    assert said(caplog) == []
    assert capfd.readouterr() == ("", "")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert sorted(lines) == ["noise on standard error", "noise on standard output"]


def test_a_process_that_cannot_be_started_is_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "nowhere"))
    tracker = hostile(tmp_path, "", "", 60)
    tracker.log(1, {})
    tracker.close(0)
    assert said(caplog) == warning(tmp_path, "its process cannot be started (No such file or directory)")


def test_whoever_is_left_alone_ends(tmp_path):
    """When the run is killed, its end of the pipe closes: a tracker ends, even where it hangs."""
    run = run_in(tmp_path)
    node = {"_target_": "hostile.Hostile", "at": "open", "how": "hang", "finish_timeout_s": 60}
    follower = Follower("hostile", node, run, tmp_path / "log.txt", 60.0)
    process = follower._process
    time.sleep(0.5)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(20) == 1
    follower.kill()


def test_a_run_with_every_hostile_tracker_at_once_is_the_run_without(tmp_path, capsys, monkeypatch):
    (tmp_path / "conf" / "tracker").mkdir(parents=True)
    names = []
    for at, how in itertools.product(CALLS, ("raise", "hang")):
        names.append(f"{how}_{at}")
        lines = [f"# @package tracker.{names[-1]}", "_target_: hostile.Hostile", f"at: {at}", f"how: {how}"]
        lines.append("finish_timeout_s: " + ("60" if how == "raise" else "3"))
        (tmp_path / "conf" / "tracker" / f"{names[-1]}.yaml").write_text("\n".join(lines))
    command = [word for word in SIX_STEPS if not word.startswith("tracker")] + ["device.program=eager"]
    assert run_here(*command, "tracker=none", f"run.root={tmp_path / 'without'}") == 0
    chosen = [f"tracker=[{','.join(names)}]", f"run.root={tmp_path / 'with'}"]
    capsys.readouterr()
    assert run_here(*command, *chosen, "--config-dir", str(tmp_path / "conf")) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for name in names:
        assert printed.out.replace("\n", "").count(f"warning: tracker {name} stopped: ") == 1
    folders = [only_folder(tmp_path / root) for root in ("without", "with")]
    chosen = []
    for folder in folders:  # which of them was chosen is all that tells the two apart
        result = json.loads((folder / "result.json").read_text())
        chosen.append(result["choices"].pop("tracker"))
        (folder / "result.json").write_text(json.dumps(result))
    assert chosen == ["none", names]
    assert_same_runs(*folders)


def test_a_server_that_never_answers_costs_the_start_nothing(tmp_path, caplog, monkeypatch):
    """It cost 10 s and more when the run waited for it."""
    settings = WandbTracker(
        project="p", entity=None, mode="auto", group=None, tags=[], init_timeout_s=30, finish_timeout_s=1
    )
    with black_hole() as url:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        started = time.monotonic()
        tracker = guarded(tmp_path, settings, _target_="metarun.tracking.wandb.WandbTracker")
        for step in range(100):
            tracker.log(step, {"x": 1.0})
        assert time.monotonic() - started < 1
        tracker.close(0)
        assert time.monotonic() - started < 10
    ((level, words),) = said(caplog)
    assert (level, words.partition(". ")[0]) == (
        "WARNING",
        "tracker hostile stopped: it did not end within 1 s (tracker.hostile.finish_timeout_s)",
    )


def test_a_tracker_holds_the_record_and_the_results(tmp_path, caplog):
    settings = WandbTracker(
        project="p", entity=None, mode="offline", group=None, tags=[], init_timeout_s=30, finish_timeout_s=60
    )
    record = MetricsFile(tmp_path / "metrics.jsonl", -1)
    record.log(1, {"x": 0.5})  # before the tracker is there
    tracker = guarded(tmp_path, settings, _target_="metarun.tracking.wandb.WandbTracker")
    for step in range(2, 5):
        record.log(step, {"x": 1 / step})
        tracker.log(step, {"x": 1 / step})
    tracker.summarize({"y": 0.25})
    tracker.close(0)
    assert said(caplog) == []
    held = stored(tmp_path)
    assert [(row["_step"], row["x"]) for row in held.history] == [(1, 0.5), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert (held.summary["y"], held.exit_code) == (0.25, 0)
    assert (held.run.run_id, held.run.display_name, list(held.run.tags)) == ("cafe0001", "n", ["maml"])


@pytest.mark.scenario
def test_wandbs_own_process_may_be_killed(tmp_path):
    words = [word for word in QUICK if not word.startswith("tracker")] + ["schedule.steps=900", "schedule.log_every=10"]
    command = ["-m", "metarun", *words, "schedule.eval_every=300", "device.program=eager", f"run.root={tmp_path}"]
    run = python(*command, HOME=str(tmp_path), NETRC="/nonexistent-netrc")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("sinusoid*/wandb/offline-run-*/*.wandb")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (follower,), (core,) = children(run.pid), children(children(run.pid)[0])
    os.kill(core, signal.SIGKILL)
    out, err = run.communicate()
    assert (run.returncode, err) == (0, "")
    (warning,) = [line for line in out.splitlines() if "warning" in line]
    assert warning.startswith("warning: tracker wandb stopped: ")
    assert "Traceback" not in out
    assert not Path(f"/proc/{follower}").exists()


def children(pid):
    """The processes that a process has started."""
    return [
        int(word) for word in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    ]


@pytest.mark.scenario
@pytest.mark.parametrize("home", [None, "/dev/null", "/dev/null/home"])
def test_a_home_that_is_none_or_cannot_be_written_leaves_the_terminal_clean(tmp_path, home):
    words = [word for word in SIX_STEPS if not word.startswith("tracker")]
    change = "del os.environ['HOME']" if home is None else f"os.environ['HOME'] = {home!r}"
    start = f"import os, sys; {change}; from metarun.command_line.main import main; sys.exit(main(sys.argv[1:]))"
    done = python(
        "-c", start, *words, "device.program=eager", "tracker=[wandb,tensorboard]", f"run.root={tmp_path}",
        NETRC="/nonexistent-netrc",
    )  # fmt: skip
    out, err = done.communicate()
    assert (done.returncode, err) == (0, "")
    assert "warning" not in out
    folder = only_folder(tmp_path)
    assert stored(folder).exit_code == 0
    assert len(list((folder / "tensorboard").iterdir())) == 1
