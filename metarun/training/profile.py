"""Where the time of a training step goes, measured on steps that are taken for it and thrown away."""

import copy
import dataclasses
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from metarun.device.stages import FIRST, listening
from metarun.run_folder.state import TrainState
from metarun.tracking.base import NullTracker
from metarun.training.observer import NoObserver
from metarun.training.stop_requests import Stopped
from metarun.training.trainer import Trainer

_WARM_UP, _TIMED, _TRACED = 5, 20, 3
"""Steps: the first ones make what later ones reuse; operations are counted in the last, as counting them takes time."""
_LIMIT_S = 20.0
"""Of the warm-up, and of the timed steps, after one of each."""
_LONG_S = 0.1
"""A step that takes longer is traced once: its operations make a file of many MiB."""
_NEVER = 10**9
OTHER = "other"
_PREFIX = "metarun: "

Span = tuple[str, float, float]
"""A stage's name, beginning and end."""


@dataclass(frozen=True)
class StageCost:
    """Of one stage, without the stages inside it, in the mean step."""

    stage: str
    seconds: float
    share: float
    operations: float


@dataclass(frozen=True)
class Profile:
    """What the mean step is made of; the shares of the stages add up to 1.

    Attributes:
        steps: so many were timed.
        step_s: seconds of one.
        unit: what is counted: "operations" that PyTorch was asked for, or, on a GPU, "kernels" that were launched.
        stages: in the order in which they first end; "other" is last.
    """

    steps: int
    step_s: float
    unit: str
    stages: list[StageCost]


def profiled(trainer: Trainer, state: TrainState, trace: Path) -> Profile:
    """Take some steps from `state`, which is left as it is, and measure them; a trace of the last ones is for Perfetto.

    The steps are those of training, without compiler, at the learning rate of the first of them. Validation, records and
    checkpoints are no part of them. On a GPU the device is waited for at each end of a stage, so that its time is its own.

    Args:
        trace: the file for it; its folder must be there.
    Raises:
        TrainingError: as in training.
    """
    steps = _Steps(trainer.device, trace)
    schedule = dataclasses.replace(
        trainer.schedule, steps=state.step + _NEVER, log_every=_NEVER, eval_every=_NEVER, checkpoint_every=_NEVER
    )
    start = copy.deepcopy(state)
    start.lr_schedule = {}
    with TemporaryDirectory() as nowhere:
        tried = dataclasses.replace(
            trainer,
            schedule=schedule,
            lr_schedule=cast(Any, _Constant),
            tracker=NullTracker(),
            sync_record=dict,
            observer=NoObserver(),
            checkpoints=Path(nowhere),
            program="eager",
        )
        try:
            with listening(steps.stage):
                tried.run(start)
        except _Enough:
            pass
        except Stopped as stopped:
            signal.raise_signal(stopped.signal_number)
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    is_gpu = trainer.device.type == "cuda"
    counts = _launched_kernels(events) if is_gpu else _operations(events)
    operations = {name: count / steps.traced for name, count in counts.items()}
    return made_of(steps.spans, steps.begin, steps.end, steps.timed, operations, "kernels" if is_gpu else "operations")


def made_of(
    spans: Sequence[Span], begin: float, end: float, steps: int, operations: Mapping[str, float], unit: str
) -> Profile:
    """The profile of `steps` steps between two times.

    Args:
        spans: stages, one inside another or apart; only what lies between the times counts.
        operations: of one step, by stage.
    """
    own = own_seconds(spans, begin, end)
    own[OTHER] = end - begin - sum(own.values())
    return Profile(
        steps=steps,
        step_s=(end - begin) / steps,
        unit=unit,
        stages=[
            StageCost(name, seconds / steps, seconds / (end - begin), operations.get(name, 0.0))
            for name, seconds in own.items()
        ],
    )


def own_seconds(spans: Sequence[Span], begin: float, end: float) -> dict[str, float]:
    """Each stage's time between two times, without that of the stages inside it, in the order in which stages end."""
    own = {name: 0.0 for name, _, stop in spans if stop > begin}
    around: list[tuple[str, float]] = []
    for name, start, stop in sorted(spans, key=lambda span: (span[1], -span[2])):
        start, stop = max(start, begin), min(stop, end)
        if stop <= start:
            continue
        while around and around[-1][1] <= start:
            around.pop()
        if around:
            own[around[-1][0]] -= stop - start
        own[name] += stop - start
        around.append((name, stop))
    return own


class _Enough(Exception):
    """All steps have been taken."""


class _Constant:
    """A schedule that leaves the learning rate: any other may end with the training, which these steps may go beyond."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing of it is needed."""

    def step(self) -> None:
        """Nothing changes."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is no state."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class _Steps:
    """Listens to the stages: first for their times, then, with PyTorch's profiler, for what is done in them."""

    def __init__(self, device: torch.device, trace: Path) -> None:
        self.spans: list[Span] = []
        self.begin = self.end = 0.0
        self.timed = 0
        self._is_gpu, self._trace = device.type == "cuda", trace
        self._taken, self._warm_up = -1, 0
        self._started = time.perf_counter()
        self._profiler: profile | None = None
        self.traced = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The listener."""
        if name == FIRST:
            self._step_begins()
        start = self._now()
        with record_function(_PREFIX + name):
            try:
                yield
            finally:
                self.spans.append((name, start, self._now()))

    def _now(self) -> float:
        if self._is_gpu and self._profiler is None:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _step_begins(self) -> None:
        now = self._now()
        self._taken += 1
        if not self._warm_up:
            if self._taken >= _WARM_UP or (self._taken and now - self._started > _LIMIT_S):
                self._warm_up, self.begin = self._taken, now
        elif not self.timed:
            taken = self._taken - self._warm_up
            if taken >= _TIMED or now - self.begin > _LIMIT_S:
                self.timed, self.end = taken, now
                self.traced = _TRACED if now - self.begin <= taken * _LONG_S else 1
                activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._is_gpu else [])]
                self._profiler = profile(activities=activities)
                with _quiet():
                    self._profiler.start()
        elif self._taken - self._warm_up - self.timed >= self.traced and self._profiler is not None:
            with _quiet():
                self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._trace))
            raise _Enough


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that PyTorch's profiler writes to standard error when it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _operations(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """Operations by the stage that they are in; what one calls in turn is part of it."""
    begun: list[float] = []
    last: dict[Any, float] = {}  # thread -> end of its operation
    for event in sorted((e for e in events if e.get("cat") == "cpu_op"), key=lambda e: (e["ts"], -e["dur"])):
        if event["ts"] >= last.get(event["tid"], -1.0):
            last[event["tid"]] = event["ts"] + event["dur"]
            begun.append(event["ts"])
    return _counted(events, begun)


def _launched_kernels(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """Kernels by the stage in which they were launched."""
    calls = (e for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver"))
    return _counted(events, [e["ts"] for e in calls if "LaunchKernel" in e["name"]])


def _counted(events: Sequence[dict[str, Any]], times: Sequence[float]) -> Counter[str]:
    """How many of the times lie in each stage of a trace, the innermost one; `OTHER` is outside of all."""
    spans = [
        (e["ts"], e["ts"] + e["dur"], e["name"].removeprefix(_PREFIX))
        for e in events
        if e.get("cat") == "user_annotation" and e["name"].startswith(_PREFIX)
    ]
    around = ([span for span in spans if span[0] <= at <= span[1]] for at in times)
    return Counter(max(found)[2] if found else OTHER for found in around)
