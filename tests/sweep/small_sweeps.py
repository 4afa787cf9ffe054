"""What tests of sweeps share: settings of short runs, and a model that is slow or fails when told to."""

import json
from pathlib import Path
from typing import Any

SHORT = (
    "device=cpu",
    "device.threads=1",
    "tracker=none",
    "evaluation.tasks=20",
    "evaluation.val_tasks=10",
    "schedule.tasks_per_step=4",
    "schedule.steps=40",
    "schedule.eval_every=20",
    "schedule.checkpoint_every=5",
    "schedule.log_every=4",
)


def stubborn(folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Words and environment that choose the model of stubborn.py; it fails where `folder/fail-<hidden>` exists."""
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "stubborn.yaml").write_text("_target_: stubborn.Net\nhidden: 10\n")
    here = Path(__file__).resolve().parent
    environment = {"PYTHONPATH": f"{here.parents[1]}:{here}", "STUBBORN_FOLDER": str(folder)}
    return ("--config-dir", str(folder / "conf"), "model=stubborn"), environment


def runs_by_size(root: Path) -> dict[int, Path]:
    """Run folders by the size of their hidden layer."""
    configs = {path.parent: json.loads(path.read_text()) for path in root.glob("*/config.json")}
    return {config["model"]["hidden"]: folder for folder, config in configs.items()}


def status_of(folder: Path) -> dict[str, Any]:
    """A run's status.json."""
    return json.loads((folder / "status.json").read_text())


def only_sweep(root: Path) -> Path:
    """The one sweep below a root of runs."""
    (folder,) = (root / "sweeps").iterdir()
    return folder


def attempts(sweep: Path, index: int) -> int:
    """How often this machine has started a job."""
    return (sweep / f"job-{index}.log").read_text().count("--- 2")
