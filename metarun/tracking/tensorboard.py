"""TensorBoard's event files: one file that holds the record, begun anew whenever a run goes on.

So no point is there twice, and the file is whole even where an earlier attempt was killed or had another tracker. Numbers are
written as doubles, exactly as in metrics.jsonl; TensorBoard's curves show them in single precision. `tensorboard` is imported
when a run is opened, not before, and torch's writer, which rounds to single precision, is not used.
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun import checks
from metarun.tracking.base import RunInfo, Tracker, flat, require_extra


@dataclass(frozen=True, kw_only=True)
class TensorBoardTracker:
    """Settings of the tracker (conf/tracker/tensorboard.yaml).

    Args:
        folder: event files lie in a folder in it that is named as the run; None for `tensorboard/` in the run's own folder.
        finish_timeout_s: as `TrackerSettings` says.
    """

    folder: str | None
    finish_timeout_s: float

    def __post_init__(self):
        if self.folder == "":
            raise ValueError("folder must be a path, got ''")
        checks.number("finish_timeout_s", self.finish_timeout_s, minimum=0, exclusive=True)
        require_extra("tensorboard", "tensorboard")

    def open(self, run: RunInfo) -> Tracker:
        """Begin the run's event file and take earlier ones away.

        Raises:
            OSError: the folder cannot be written.
        """
        return _EventFile(Path(self.folder) / run.name if self.folder else run.folder / "tensorboard", run)


class _EventFile:
    """The one event file of a run."""

    def __init__(self, folder: Path, run: RunInfo):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        earlier = list(folder.glob("events.out.tfevents.*"))
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = open(folder / name, "wb")  # noqa: SIM115 (closed in close)
        for path in earlier:
            if path.name != name:
                path.unlink(missing_ok=True)
        self._writer = RecordWriter(self._file)
        self._step = 0
        self._described: set[str] = set()
        self._write(file_version="brain.Event:2")
        # A TensorBoard that is looking drops what it has read of the run before.
        self._write(step=0, session_log=SessionLog(status=SessionLog.START))
        self._write_settings(run)
        self._file.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = step
        self._write(step=step, summary=Summary(value=[self._scalar(*each) for each in metrics.items()]))
        self._file.flush()

    def summarize(self, results: Mapping[str, float]) -> None:
        self.log(self._step, results)

    def close(self, exit_code: int) -> None:
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
        from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG

        if self._file.closed:
            return
        status = api_pb2.STATUS_SUCCESS if exit_code == 0 else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._write_hparams(SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
        self._file.close()

    def _write_settings(self, run: RunInfo) -> None:
        """The configuration, the sweep and the tags as the hyperparameters of TensorBoard's HPARAMS page."""
        from tensorboard.plugins.hparams import plugin_data_pb2
        from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG

        start = plugin_data_pb2.SessionStartInfo(group_name=run.name, start_time_secs=time.time())
        settings = flat(run.config) | {"id": run.run_id, "sweep": run.group or "", "tags": ", ".join(run.tags)}
        for name, value in sorted(settings.items()):
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = "null" if value is None else str(value)
        self._write_hparams(SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))

    def _write_hparams(self, tag: str, content: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

        value = Summary.Value(tag=tag, metadata=create_summary_metadata(content), tensor=NULL_TENSOR)
        self._write(summary=Summary(value=[value]))

    def _scalar(self, tag: str, number: float) -> Any:
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_DOUBLE
        from tensorboard.plugins.scalar.metadata import create_summary_metadata

        value = Summary.Value(tag=tag, tensor=TensorProto(dtype=DT_DOUBLE, double_val=[number]))
        value.tensor.tensor_shape.SetInParent()  # a scalar, not a tensor of unknown shape
        if tag not in self._described:  # readers look for it in the first value of a tag alone
            metadata = create_summary_metadata("", "")
            metadata.data_class = DATA_CLASS_SCALAR
            value.metadata.CopyFrom(metadata)
            self._described.add(tag)
        return value

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
