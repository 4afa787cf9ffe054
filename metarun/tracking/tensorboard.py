"""TensorBoard's event files: one file that holds the record, begun anew whenever a run goes on.

So no point is there twice, and the file is whole even where an earlier attempt was killed or had another tracker. Numbers are
rounded to single precision: of doubles TensorBoard 2.21 shows no curve, unless it is started with --load_fast=false. `tensorboard`
is imported when a run is opened, not before.
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

_NO_COLUMNS = ("run", "tracker", "data", "gradients", "profile", "figures", "reference")
"""Keys of the configuration that decide nothing, and would be columns of the HPARAMS page."""


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
        """Begin the run's event file and empty earlier ones.

        Raises:
            OSError: the folder cannot be written.
        """
        return _EventFile(Path(self.folder) / run.name if self.folder else run.folder / "tensorboard", run)


class _EventFile:
    """The one event file of a run."""

    def __init__(self, folder: Path, run: RunInfo):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # The classes of messages are made when their modules are imported, so that a type checker sees none.
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        self._hparams: Any = plugin_data_pb2
        self._statuses: Any = api_pb2
        self._tags = metadata
        folder.mkdir(parents=True, exist_ok=True)
        earlier = list(folder.glob("events.out.tfevents.*"))
        seconds, rest = divmod(time.time_ns(), 10**9)  # TensorBoard reads files in the order of their names
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest:09d}"
        self._file = open(folder / name, "xb")  # noqa: SIM115 (closed in close)
        for path in earlier:
            if path.stat().st_size:
                os.truncate(path, 0)  # and not taken away: a TensorBoard that reads it would not go on to the next
            else:
                path.unlink()
        self._writer = RecordWriter(self._file)
        self._step = 0
        self._write(file_version="brain.Event:2")
        # A TensorBoard that is looking drops what it has read of the run before.
        self._write(step=0, session_log=self._events.SessionLog(status=self._events.SessionLog.START))
        self._write_settings(run)
        self._file.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = step
        values = [self._summaries.Summary.Value(tag=name, simple_value=number) for name, number in metrics.items()]
        self._write(step=step, summary=self._summaries.Summary(value=values))
        self._file.flush()

    def summarize(self, results: Mapping[str, float]) -> None:
        self.log(self._step, results)

    def close(self, exit_code: int) -> None:
        if self._file.closed:
            return
        status = self._statuses.STATUS_SUCCESS if exit_code == 0 else self._statuses.STATUS_FAILURE
        end = self._hparams.SessionEndInfo(status=status, end_time_secs=time.time())
        self._write_hparams(self._tags.SESSION_END_INFO_TAG, session_end_info=end)
        self._file.close()

    def _write_settings(self, run: RunInfo) -> None:
        """The configuration, the sweep and the tags as the hyperparameters of TensorBoard's HPARAMS page."""
        start = self._hparams.SessionStartInfo(group_name=run.name, start_time_secs=time.time())
        config = {key: value for key, value in run.config.items() if key not in _NO_COLUMNS}
        settings = flat(config) | {"id": run.run_id, "sweep": run.group or "", "tags": ", ".join(run.tags)}
        for name, value in sorted(settings.items()):
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = "null" if value is None else str(value)
        self._write_hparams(self._tags.SESSION_START_INFO_TAG, session_start_info=start)

    def _write_hparams(self, tag: str, **content: Any) -> None:
        metadata = self._tags.create_summary_metadata(self._hparams.HParamsPluginData(**content))
        value = self._summaries.Summary.Value(tag=tag, metadata=metadata, tensor=self._tags.NULL_TENSOR)
        self._write(summary=self._summaries.Summary(value=[value]))

    def _write(self, **content: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), **content).SerializeToString())
