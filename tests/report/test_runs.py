"""metarun.report.runs: what a folder says, whatever state its files are in."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

import pytest

from metarun.errors import ConfigurationError
from metarun.report.runs import ABSENT, duration, read_runs, selected, word

from .made import write_run

SCORES = {0: [0.1, 0.2, 0.3, 0.4], 5: [0.5, 0.6, 0.7, 0.8]}


def only(root: Path):
    (run,) = read_runs([root])
    return run


def test_a_finished_run(tmp_path):
    folder = write_run(tmp_path, SCORES, seed=3, **{"optimizer.lr": 0.5})
    run = only(tmp_path)
    assert (run.path, run.state, run.detail, run.seed) == (folder, "finished", "", 3)
    assert (run.value("algorithm"), run.value("optimizer.lr"), run.value("nothing")) == ("maml", 0.5, ABSENT)
    assert run.command == "metarun algorithm=maml seed=3 optimizer.lr=0.5"
    assert run.scores()[5]["mean"] == pytest.approx(0.65)
    assert run.task_scores(5) == SCORES[5] and run.task_scores(0) == SCORES[0]
    assert run.changed == (folder / "result.json").stat().st_mtime


def test_what_decides_no_number_is_no_setting(tmp_path):
    write_run(tmp_path / "a", SCORES)
    moved = {
        "data.root": "/elsewhere",
        "dataset.source.store": {"root": "/elsewhere"},
        "run.root": "b",
        "device.threads": 8,
    }
    write_run(tmp_path / "b", SCORES, seed=1, name="b", **moved, **{"schedule.log_every": 1})
    write_run(tmp_path / "c", SCORES, name="c", **{"device.dtype": "float64"})
    by_name = {run.path.name: run.settings for run in read_runs([tmp_path])}
    assert by_name["maml-seed0"] == by_name["b"]
    assert by_name["maml-seed0"] != by_name["c"]


def test_runs_are_found_at_any_depth_once_and_newest_first(tmp_path):
    for age, place in enumerate(("sweeps/one", "sweeps/deep/er", ".")):
        folder = write_run(tmp_path / place, SCORES, seed=age)
        os.utime(folder / "result.json", (time.time() - 100 * age, time.time() - 100 * age))
        # what lies inside of a run is not another one
        (folder / "evaluations").mkdir()
        (folder / "evaluations" / "config.json").write_text("{}")
        (folder / "evaluations" / "result.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    write_run(tmp_path / ".hidden", SCORES)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.json").write_text("{}")  # somebody's, but of no run
    assert [run.seed for run in read_runs([tmp_path, tmp_path / "sweeps", tmp_path / "maml-seed2"])] == [0, 1, 2]
    assert [run.seed for run in read_runs([tmp_path / "maml-seed2"])] == [2]


def test_a_run_without_its_configuration_is_listed(tmp_path):
    folder = write_run(tmp_path, {})
    (folder / "status.json").write_text(json.dumps({"state": "running", "updated": 0}))
    (folder / "config.json").unlink()
    assert (only(tmp_path).state, only(tmp_path).detail) == ("damaged", "config.json is missing")


def test_a_folder_that_is_none(tmp_path):
    assert read_runs([tmp_path]) == []
    with pytest.raises(ConfigurationError, match=r"nowhere must be a folder"):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("result.json", '{"score": "accur', "result.json cannot be read (Unterminated string"),
        ("result.json", "", "result.json cannot be read (Expecting value"),
        ("result.json", b"\xff\xfe\x00", "result.json cannot be read ("),
        ("result.json", "[]", "result.json cannot be read (it must be an object, and is a list)"),
        ("result.json", "{}", "result.json cannot be read (it has no score)"),
        ("result.json", '{"score": "accuracy", "results": []}', "(it has no protocol)"),
        ("result.json", "[" * 100_000, "(maximum recursion depth exceeded"),
        ("config.json", "{", "config.json cannot be read ("),
        ("config.json", None, "config.json is missing"),
    ],
)
def test_half_written_files_are_named(tmp_path, name, content, detail):
    file = write_run(tmp_path, SCORES) / name
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content)
    run = only(tmp_path)
    assert (run.state, run.result) == ("damaged", None)
    assert detail in run.detail


def test_a_result_without_the_steps_that_count(tmp_path):
    file = write_run(tmp_path, SCORES) / "result.json"
    result = json.loads(file.read_text())
    result["protocol"]["headline_inner_steps"] = 7
    file.write_text(json.dumps(result))
    assert only(tmp_path).detail == "result.json cannot be read (it states no score after the inner steps that count)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: None, r"tasks\.csv cannot be read"),
        (lambda text: text[: len(text) // 2 + 20], r"tasks\.csv has \d of 4 tasks"),
        (lambda text: "", r"tasks\.csv cannot be read"),
        (lambda text: text.replace("0.8", "0.9"), r"tasks\.csv has mean 0\.675, result\.json 0\.65"),
        (lambda text: text.replace("accuracy", "mse"), r"tasks\.csv cannot be read"),
        (lambda text: text.replace("0.8", "x"), r"tasks\.csv cannot be read"),
    ],
)
def test_tasks_that_are_not_those_of_the_result_are_refused(tmp_path, change, words):
    file = write_run(tmp_path, SCORES) / "tasks.csv"
    text = change(file.read_text())
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(ValueError, match=words):
        only(tmp_path).task_scores(5)


def test_a_diverged_task_is_a_number_like_another(tmp_path):
    values = [1.0, float("nan"), 2.0, 3.0]
    write_run(tmp_path, {5: values}, score="mse")
    run = only(tmp_path)
    assert run.state == "finished"
    assert str(run.task_scores(5)) == str(values)


# --- states ----------------------------------------------------------------------------------------------------------


def test_an_unfinished_run_under_its_lock_is_running(tmp_path):
    if not Path("/proc/locks").exists():
        pytest.skip("needs /proc/locks, which Linux has")
    folder = write_run(tmp_path, {})
    with open(folder / ".lock", "w") as lock:
        assert only(tmp_path).state == "unfinished"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert only(tmp_path).state == "running"
    assert only(tmp_path).state == "unfinished"


def test_a_run_that_failed_says_why_in_its_log(tmp_path):
    folder = write_run(tmp_path, {})
    begun = "2026-01-01 00:00:00,000 INFO metarun 0.1.0, metarun seed=1\n"
    (folder / "log.txt").write_text(begun + "2026-01-01 00:00:01,000 ERROR the run ended by MemoryError: no room\n")
    assert (only(tmp_path).state, only(tmp_path).detail) == ("failed", "MemoryError: no room")
    with open(folder / "log.txt", "a") as log:
        log.write(begun)  # and was begun again
    assert (only(tmp_path).state, only(tmp_path).detail) == ("unfinished", "")


@pytest.mark.parametrize(
    ("changes", "state", "detail"),
    [
        ({"state": "running"}, "running", "step 30/60"),
        ({"state": "running", "updated": -600.0}, "killed", "step 30/60, silent for 10 min"),
        (
            {"state": "running", "host": socket.gethostname()},
            "killed",
            "step 30/60, silent for 0 s",
        ),  # nobody has the lock
        ({"state": "preempted"}, "preempted", "step 30/60"),
        ({"state": "failed", "error": "MemoryError: no room"}, "failed", "MemoryError: no room"),
        ({"state": "finished"}, "unfinished", "no result.json"),
    ],
)
def test_the_status_file_is_believed_as_far_as_it_can_be(tmp_path, changes, state, detail):
    if "host" in changes and not Path("/proc/locks").exists():
        pytest.skip("needs /proc/locks, which Linux has")
    status = {"host": "elsewhere", "updated": 0.0, "step": 30, "steps": 60, "error": None} | changes
    status["updated"] += time.time()
    folder = write_run(tmp_path, {})
    (folder / "status.json").write_text(json.dumps(status))
    assert (only(tmp_path).state, only(tmp_path).detail) == (state, detail)
    assert only(tmp_path).changed == pytest.approx(status["updated"])


def test_a_result_is_worth_more_than_a_status(tmp_path):
    folder = write_run(tmp_path, SCORES)
    (folder / "status.json").write_text(json.dumps({"state": "running", "updated": 0}))
    assert only(tmp_path).state == "finished"


# --- choosing --------------------------------------------------------------------------------------------------------


def test_runs_are_chosen_by_their_keys(tmp_path):
    for seed in (0, 1):
        for lr in (0.1, 0.001):
            write_run(tmp_path, SCORES, seed=seed, **{"optimizer.lr": lr})
    runs = read_runs([tmp_path])
    assert {run.seed for run in selected(runs, ["seed=1"])} == {1}
    assert len(selected(runs, ["seed=0,1", "optimizer.lr=0.1"])) == 2
    for condition, words in [
        ("seed", "has no '='"),
        ("sed=1", "did you mean seed"),
        ("lr=1", "did you mean optimizer.lr"),
        ("optimizer=sgd", "no run has optimizer=sgd; the runs have optimizer = adam"),
        ("algorithm.inner=3", "is not one value; it has algorithm.inner._target_, algorithm.inner.steps"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            selected(runs, [condition])


def test_words():
    assert [word(value) for value in ("a b", 0.001, 1e-5, 0.10000001, 3, True, None, [1, 2])] == [
        "a b", "0.001", "1e-05", "0.10000001", "3", "true", "null", "[1,2]",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0.4, 99, 101, 7200, 47 * 3600, 5 * 86400)] == [
        "0 s", "99 s", "2 min", "2 h", "47 h", "5 days",
    ]  # fmt: skip
