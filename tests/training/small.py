"""Small runs for tests: settings, the command line in this process or another, and what two equal runs share."""

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun.algorithm import Algorithm
from metarun.build import Parts, make_parts, make_trainer
from metarun.command_line.main import main
from metarun.configuration.config_folder import config_folder
from metarun.tracking.jsonl import MetricsFile
from metarun.training.observer import NoObserver
from metarun.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("METARUN_DATA", ROOT.parent / "shared" / "data"))

# One thread: a sum's order, and so its last bit, may follow the number of threads.
QUICK = ("device=cpu", "device.threads=1", "tracker=none", "evaluation.tasks=20", "evaluation.val_tasks=10")
SIX_STEPS = (*QUICK, "schedule.steps=6", "schedule.eval_every=3", "schedule.checkpoint_every=3", "schedule.log_every=2")
GLYPHS = (
    "dataset=glyphs",
    "dataset.image_size=14",
    "model.width=8",
    "dataset.source.store.num_classes={train: 12, val: 5, test: 6}",
    "dataset.source.store.drawings=18",
    "dataset.test_queries=5",
)
NAVIGATION = (
    "dataset=navigation2d",
    "dataset.source.horizon=6",
    "dataset.source.reached=0.1",  # some episodes are over before the others
    "dataset.shots=3",
    "dataset.queries=3",
    "dataset.test_shots=3",
    "dataset.test_queries=3",
    "evaluation.inner_steps=[0,1]",
    "schedule.tasks_per_step=5",
    "model.hidden=[6]",
    "algorithm.inner.steps=2",
)
TIMES = ("train_s", "step_s", "test_s", "peak_memory_mib", "training_memory_mib", "record", "checksum")
"""Of a result, what the clock and the machine decide; the last two are of texts that hold such."""


@functools.cache
def _composed(overrides: tuple[str, ...], _environment: tuple[str | None, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", list(overrides), return_hydra_config=True)
    choices = {group: choice for group, choice in composed.hydra.runtime.choices.items() if "hydra/" not in group}
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True) | {"choices": choices}


def configuration(*overrides: str) -> dict[str, Any]:
    """What a run is given: composed, resolved, with the choices."""
    environment = tuple(os.environ.get(f"METARUN_{name}") for name in ("DATA", "CACHE", "OUTPUTS"))
    return copy.deepcopy(_composed(overrides, environment))


def trainer_of(config: dict[str, Any], folder: Path, *, last_step: int = -1) -> tuple[Trainer, Parts]:
    """A trainer that keeps its record and its checkpoints in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = make_parts(config)
    record = MetricsFile(folder / "metrics.jsonl", last_step)
    trainer = make_trainer(
        config,
        parts,
        tracker=record,
        sync_record=lambda: vars(record.sync()),
        observer=NoObserver(),
        checkpoints=folder,
    )
    return trainer, parts


def run_here(*arguments: str) -> int:
    """The command line in this process (seconds less than another one): its exit status."""
    return main(list(arguments))


class Killed(BaseException):
    """Ends a run in this process as a kill would."""


def run_and_kill(step: int, *arguments: str) -> None:
    """The command line in this process, ended without a word when its outer step number `step`, from 1, begins."""
    steps, meta_step = [], Algorithm.meta_step

    def killing(*given: Any, **named: Any) -> Any:
        if "ranks" in named:  # a step of training; trials of the model and of its memory name none
            steps.append(None)
        if len(steps) == step:
            raise Killed
        return meta_step(*given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Algorithm, "meta_step", killing)
        run_here(*arguments)


def python(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    """Another Python, with nothing of ours in its environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("METARUN_", "HYDRA_", "WANDB_"))}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=kept | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def only_folder(root: Path) -> Path:
    """The one run in `root`."""
    (folder,) = root.iterdir()
    return folder


def times_and_bytes(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file with when it was written and what it holds."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The record without what the clock says."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def assert_equal_bits(a: Any, b: Any, where: str = "") -> None:
    """Nested containers hold the same: tensors to the bit, with their dtypes."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal_bits(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_checkpoints(a: Path, b: Path) -> None:
    """`last.pt` and `best.pt` of two folders are equal but for what the clock says."""
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (a, b))
        for content in (one, other):
            for key in ("train_s", "step_s", "record"):
                content.pop(key, None)
            content["sums"] = {k: v for k, v in content.get("sums", {}).items() if not k.startswith("time/")}
        assert_equal_bits(one, other, name)


def assert_same_runs(a: Path, b: Path) -> None:
    """Two finished run folders hold the same numbers: checkpoints, metrics, results, per-task results."""
    assert a.name == b.name
    assert_same_checkpoints(a / "checkpoints", b / "checkpoints")
    assert metrics_of(a) == metrics_of(b)
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (a, b))
    for key in TIMES:
        one.pop(key), other.pop(key)
    assert one == other
    assert (a / "tasks.csv").read_bytes() == (b / "tasks.csv").read_bytes()
