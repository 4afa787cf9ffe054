import math
import os

import pytest

from metarun.tracking.base import NullTracker, TeeTracker
from metarun.tracking.jsonl import MetricsFile, MetricsReader, read_metrics


def write(path, steps, last_step=-1):
    record = MetricsFile(path, last_step)
    for step in steps:
        record.log(step, {"train/query_loss": 1 / (step + 1), "train/cg/steps": step})
    record.close(0)


def test_each_line_is_in_the_file_when_log_returns(tmp_path):
    record = MetricsFile(tmp_path / "metrics.jsonl", -1)
    record.log(3, {"a": 0.1, "b": 2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 3, "a": 0.1, "b": 2}\n'
    record.close(0)
    record.close(0)


@pytest.mark.parametrize("tail", [b"", b'{"step": 9, "train/que', b'{"st', b"\0\0\0\0", b'{"step": 9, "a": 1}'])
def test_resume_gives_the_bytes_of_an_uninterrupted_run(tmp_path, tail):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write(whole, range(1, 13))
    write(resumed, range(1, 9))  # killed at step 8, last checkpoint at step 5
    with resumed.open("ab") as file:
        file.write(tail)
    write(resumed, range(6, 13), last_step=5)
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["resumed.jsonl", "whole.jsonl"]


def test_resume_from_the_last_line_leaves_the_file_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 6))
    before = path.stat()
    write(path, (), last_step=5)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_complete_last_line_without_its_newline_is_kept_and_completed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "a": 1.5}')
    write(path, (), last_step=2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2, "a": 1.5}\n'


def test_a_fresh_start_drops_everything(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    write(path, ())
    assert path.read_bytes() == b""


def test_what_json_has_no_word_for_is_null(tmp_path):
    record = MetricsFile(tmp_path / "metrics.jsonl", -1)
    record.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.25})
    record.close(1)
    said = '"not_finite": {"a": "nan", "b": "inf", "c": "-inf"}'
    line = f'{{"step": 1, "a": null, "b": null, "c": null, "d": 0.25, {said}}}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == line
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert {key: row[key] for key in "abcd"} == {"a": None, "b": None, "c": None, "d": 0.25}


def test_only_a_torn_last_line_is_forgiven(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        read_metrics(path)
    with pytest.raises(ValueError, match="line 2"):
        MetricsFile(path, 3)
    assert path.read_bytes() == b'{"step": 1}\n{"st\n{"step": 3}\n'


def test_a_metric_must_not_be_named_step(tmp_path):
    record = MetricsFile(tmp_path / "metrics.jsonl", -1)
    with pytest.raises(ValueError, match='must not be named "step"'):
        record.log(1, {"step": 2.0})
    record.close(1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device on which every write fails")
def test_a_full_disk_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = MetricsFile(path, -1)
    with open("/dev/full", "ab", buffering=0) as full:
        os.dup2(full.fileno(), record._file.fileno())
    with pytest.raises(OSError, match="No space left"):
        record.log(1, {"a": 1.0})


def test_tee_hands_on_every_call_and_closes_all_when_one_fails():
    calls = []

    class Listener(NullTracker):
        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def log(self, step, metrics):
            calls.append((self.name, step, metrics))

        def summarize(self, results):
            calls.append((self.name, results))

        def close(self, exit_code):
            calls.append((self.name, exit_code))
            if self.error:
                raise self.error

    tee = TeeTracker((Listener("a", OSError("disk full")), Listener("b")))
    tee.log(7, {"x": 1.0})
    tee.summarize({"y": 2.0})
    with pytest.raises(OSError, match="disk full"):
        tee.close(1)
    assert calls == [
        ("a", 7, {"x": 1.0}),
        ("b", 7, {"x": 1.0}),
        ("a", {"y": 2.0}),
        ("b", {"y": 2.0}),
        ("a", 1),
        ("b", 1),
    ]


def test_a_reader_gives_each_complete_line_once_as_it_was_logged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert reader.new() == []
    record = MetricsFile(path, -1)
    record.log(1, {"a": 0.1 + 0.2, "n": 5, "b": -math.inf})
    record.log(2, {"a": 1e-320, "b": math.inf})
    assert reader.new() == [(1, {"a": 0.1 + 0.2, "n": 5, "b": -math.inf}), (2, {"a": 1e-320, "b": math.inf})]
    assert reader.new() == []
    with path.open("ab") as file:  # a line that is being written
        file.write(b'{"step": 3, "a": 0.')
        file.flush()
        assert reader.new() == []
        file.write(b"5}\n")
    assert reader.new() == [(3, {"a": 0.5})]
    record.log(4, {"a": math.nan})
    ((step, metrics),) = reader.new()
    assert step == 4 and math.isnan(metrics["a"])
    record.close(0)
