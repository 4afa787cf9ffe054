"""MLflow as a tracker beside the local record: a database file by default, or a server.

An MLflow run is found again by its tag `metarun.id`, and a point that it holds is not sent again. `mlflow` is imported when a run
is opened, not before.
"""

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun import checks
from metarun.files import lock
from metarun.tracking.base import RunInfo, Tracker, flat, require_extra

_ID = "metarun.id"
_SQLITE = "sqlite:///"
_MAX_POINTS, _MAX_PARAMS, _MAX_LENGTH = 1000, 100, 500  # of one request; characters of a value that older stores take
_LARGEST = 1.7976931348623157e308  # in a database, an infinity

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MlflowTracker:
    """Settings of the tracker (conf/tracker/mlflow.yaml).

    Args:
        uri: `sqlite:///FILE`, or a server's address.
        experiment: MLflow's name for the list that the runs stand in; made where there is none.
        tags: further ones.
        request_timeout_s: how long one request to a server may take.
        finish_timeout_s: as `TrackerSettings` says.
    """

    uri: str
    experiment: str
    tags: Mapping[str, str]
    request_timeout_s: float
    finish_timeout_s: float

    def __post_init__(self):
        for name in ("uri", "experiment"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be given, got ''")
        if "://" not in self.uri and not self.uri.startswith("databricks"):
            raise ValueError(
                f"uri must be sqlite:///FILE or a server's address, such as http://HOST:5000, got {self.uri!r}"
            )
        for name in ("request_timeout_s", "finish_timeout_s"):
            checks.number(name, getattr(self, name), minimum=0, exclusive=True)
        require_extra("mlflow", "mlflow", *(("sqlalchemy", "alembic") if self.uri.startswith("sqlite:") else ()))

    def open(self, run: RunInfo) -> Tracker:
        """Find the MLflow run, or begin it.

        Raises:
            Exception: MLflow's own; the store cannot be reached, or is none.
        """
        # MLflow reads these alone; its own are 120 s and 7 tries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(self.request_timeout_s))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow import MlflowClient

        if not self.uri.startswith(_SQLITE):
            client = MlflowClient(tracking_uri=self.uri)
            return _MlflowRun(client, _experiment(client, self.experiment, None), self, run)
        folder = Path(self.uri.removeprefix(_SQLITE).partition("?")[0]).absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        artifacts = (folder / "mlartifacts").as_uri()  # MLflow's own is below the current folder
        # The runs of a sweep begin at once, and MLflow makes a new file's tables without looking whether another does.
        with open(folder / ".mlflow.lock", "w") as file:
            lock(file, folder / ".mlflow.lock", waits=True)
            client = MlflowClient(tracking_uri=self.uri)
            experiment = _experiment(client, self.experiment, artifacts)
        return _MlflowRun(client, experiment, self, run)


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The experiment's id; made where there is none, its artifacts to lie at `artifacts`."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:  # another run of the sweep was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


class _MlflowRun:
    """A run in MLflow."""

    def __init__(self, client: Any, experiment: str, settings: MlflowTracker, run: RunInfo):
        self._client = client
        self._step = 0
        self._is_sync = run.is_sync
        found = client.search_runs([experiment], f"tags.`{_ID}` = '{run.run_id}'")
        if run.is_new:  # what is there is of a run that was begun anew
            for other in found:
                client.delete_run(other.info.run_id)
            found = []
        self._held: dict[str, dict[int, float]] | None = (
            {} if found else None
        )  # points by name and step; None: no request
        tags = {
            "mlflow.source.name": "metarun", "folder": str(run.folder.absolute()), "job_type": run.job_type,
            "group": run.group or "", "tags": ", ".join(run.tags), **settings.tags, _ID: run.run_id,
        }  # fmt: skip
        if found:
            self._id = found[0].info.run_id
            for key, value in tags.items():
                client.set_tag(self._id, key, value)
            client.update_run(self._id, status="RUNNING")
        else:
            self._id = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        self._send_params(flat(run.config), {*found[0].data.params} if found else set())
        _logger.info("mlflow: this run is %s in experiment %s of %s", self._id, settings.experiment, settings.uri)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        self._step = step
        now = time.time_ns() // 10**6
        points = [Metric(_name(key), value, now, step) for key, value in metrics.items()]
        points = [point for point in points if not self._holds(point)]
        for first in range(0, len(points), _MAX_POINTS):
            self._client.log_batch(self._id, metrics=points[first : first + _MAX_POINTS])

    def summarize(self, results: Mapping[str, float]) -> None:
        self.log(self._step, results)

    def close(self, exit_code: int) -> None:
        status = "FINISHED" if exit_code == 0 else "KILLED" if exit_code > 128 else "FAILED"
        self._client.set_terminated(self._id, status=status)

    def _holds(self, point: Any) -> bool:
        """Whether MLflow has a point of this name at this step.

        Of a run that goes on it may be of an attempt that was killed after its last checkpoint: the same but for the clock,
        and MLflow takes no point back.

        Raises:
            ValueError: the run has ended, and the point is another.
        """
        if self._held is None:
            return False
        if point.key not in self._held:
            history = self._client.get_metric_history(self._id, point.key)
            self._held[point.key] = {each.step: each.value for each in history}
        values = self._held[point.key]
        if point.step not in values:
            return False
        if not self._is_sync or point.key.startswith("time/"):
            return True
        before, now = values[point.step], point.value
        clipped = math.copysign(_LARGEST, now) if math.isinf(now) else now
        if before not in (now, clipped) and not (math.isnan(before) and math.isnan(now)):
            raise ValueError(
                f"MLflow holds {point.key} = {before!r} at step {point.step}, and the record {now!r}: the run was made anew. "
                f"Delete MLflow's run {self._id}"
            )
        return True

    def _send_params(self, config: Mapping[str, Any], there: set[str]) -> None:
        """The configuration, of which MLflow takes nothing back: what it has stays as it is."""
        from mlflow.entities import Param

        params = [
            Param(_name(key), str(value)[:_MAX_LENGTH]) for key, value in config.items() if _name(key) not in there
        ]
        for first in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _MAX_PARAMS])


def _name(key: str) -> str:
    """A key with the characters that MLflow takes."""
    return re.sub(r"[^\w./ :-]", "_", key)[:250]
