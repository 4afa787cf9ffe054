import math
import struct

import pytest

from metarun.tracking.base import RunInfo
from metarun.tracking.tensorboard import TensorBoardTracker

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

ROWS = [(10, {"train/loss": 0.1 + 0.2, "cg": 5}), (20, {"train/loss": 1e-3}), (20, {"val/mse": 1e300})]


def rounded(number):
    """A double as the nearest single: what a scalar of TensorBoard's holds."""
    return struct.unpack("<f", struct.pack("<f", number))[0] if abs(number) < 3e38 else math.copysign(math.inf, number)


def info(folder, **changes):
    fields = dict(name="sinusoid-maml", group="sweep7", job_type="train", tags=("maml", "sinusoid"), run_id="cafe0001")
    config = {"seed": 3, "model": {"hidden": [40, 40], "head": None}, "profile": True, "run": {"root": "out"}}
    return RunInfo(folder=folder, **{"config": config, **fields, **changes})


def settings(folder=None):
    return TensorBoardTracker(folder=folder, finish_timeout_s=10)


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def points(accumulator):
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def hparams(accumulator, tag):
    content = accumulator.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return HParamsPluginData.FromString(content)


def test_the_event_file_holds_the_record_in_single_precision_and_the_results_at_the_last_step(tmp_path):
    tracker = settings().open(info(tmp_path))
    for row in ROWS:
        tracker.log(*row)
    tracker.summarize({"test/mse": 0.7})
    tracker.close(0)
    tracker.close(0)
    held = read(tmp_path / "tensorboard")
    assert points(held) == {
        "train/loss": [(10, rounded(0.1 + 0.2)), (20, rounded(1e-3))],
        "cg": [(10, 5.0)],
        "val/mse": [(20, math.inf)],
        "test/mse": [(20, rounded(0.7))],
    }
    start = hparams(held, "session_start_info").session_start_info
    values = {
        name: value.WhichOneof("kind") and getattr(value, value.WhichOneof("kind"))
        for name, value in start.hparams.items()
    }
    assert start.group_name == "sinusoid-maml"
    assert values == {
        "seed": 3.0, "model.hidden": "[40, 40]", "model.head": "null",
        "id": "cafe0001", "sweep": "sweep7", "tags": "maml, sinusoid",
    }  # fmt: skip
    assert hparams(held, "session_end_info").session_end_info.status == 1  # STATUS_SUCCESS


def test_each_line_can_be_read_once_it_is_logged(tmp_path):
    tracker = settings().open(info(tmp_path))
    tracker.log(*ROWS[0])
    assert points(read(tmp_path / "tensorboard"))["cg"] == [(10, 5.0)]
    tracker.close(1)
    assert hparams(read(tmp_path / "tensorboard"), "session_end_info").session_end_info.status == 2  # STATUS_FAILURE


def test_a_run_that_goes_on_leaves_one_file_without_a_point_twice(tmp_path):
    settings().open(info(tmp_path)).close(1)
    killed = settings().open(info(tmp_path))
    for row in ROWS:
        killed.log(*row)  # and no close
    tracker = settings().open(info(tmp_path))
    for row in (*ROWS, (30, {"train/loss": 2.0})):
        tracker.log(*row)
    tracker.close(0)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "tensorboard").iterdir())]
    assert sizes[:-1] == [0] and sizes[-1] > 0
    assert points(read(tmp_path / "tensorboard"))["train/loss"] == [
        (10, rounded(0.1 + 0.2)),
        (20, rounded(1e-3)),
        (30, 2.0),
    ]


def test_a_reader_that_was_looking_drops_what_it_had_read(tmp_path):
    killed = settings().open(info(tmp_path))
    for row in ROWS:
        killed.log(*row)
    looking = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    looking.Reload()
    tracker = settings().open(info(tmp_path))
    tracker.log(*ROWS[0])
    looking.Reload()
    assert points(looking)["train/loss"] == [(10, rounded(0.1 + 0.2))]
    tracker.close(0)


def test_a_folder_of_ones_own_has_a_folder_for_each_run(tmp_path):
    settings(str(tmp_path / "logs")).open(info(tmp_path / "run")).close(0)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["sinusoid-maml"]
    assert not (tmp_path / "run").exists()


def test_a_missing_tensorboard_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^tensorboard is not installed: pip install 'metarun\[tensorboard\]'"):
        settings()
