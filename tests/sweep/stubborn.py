"""A small network for sweeps under test: as slow as asked, and failing or waiting when a file says so. Not for import by tests.

It is given to the command line as `model._target_`, so that a process of its own must find it: see `stubborn` in
small_sweeps.py.
"""

import json
import os
import sys
import time
from pathlib import Path

from torch import Tensor, nn


class Net(nn.Sequential):
    is_saved = False

    def __init__(self, hidden: int) -> None:
        super().__init__(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.hidden = hidden

    def forward(self, inputs: Tensor) -> Tensor:
        if "_job" in sys.argv and (
            Net.is_saved or _is_saved()
        ):  # in a job's process, not in the checks before training
            Net.is_saved = True
            folder = Path(os.environ["STUBBORN_FOLDER"])
            time.sleep(float(os.environ.get("STUBBORN_PAUSE_S", "0")))
            while (folder / f"wait-{self.hidden}").exists():
                time.sleep(0.02)
            if (folder / f"fail-{self.hidden}").exists():
                raise RuntimeError("the machine is on fire")
        return super().forward(inputs)


def _is_saved() -> bool:
    """Whether this process's run has written its first checkpoint."""
    for status in Path(os.environ["STUBBORN_FOLDER"]).glob("runs/*/status.json"):
        if json.loads(status.read_text())["pid"] == os.getpid():
            return (status.parent / "checkpoints" / "last.pt").exists()
    return False
