"""A small network for sweeps under test: as slow as asked, and failing or waiting when a file says so. Not for import by tests.

It is given to the command line as `model._target_`, so that a process of its own must find it: see `stubborn` in
small_sweeps.py.
"""

import os
import sys
import time

from torch import Tensor, nn


class Net(nn.Sequential):
    calls = 0  # the first are those of the checks

    def __init__(self, hidden: int) -> None:
        super().__init__(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.hidden = hidden

    def forward(self, inputs: Tensor) -> Tensor:
        Net.calls += 1
        if "_job" in sys.argv and Net.calls > 20:  # in a job's process, once it trains
            time.sleep(float(os.environ.get("STUBBORN_PAUSE_S", "0")))
            # After the checkpoint of step 10 of the 40 that small_sweeps.SHORT asks for.
            while Net.calls > 30 and os.path.exists(f"{os.environ['STUBBORN_FOLDER']}/wait-{self.hidden}"):
                time.sleep(0.02)
            if os.path.exists(f"{os.environ['STUBBORN_FOLDER']}/fail-{self.hidden}"):
                raise RuntimeError("the machine is on fire")
        return super().forward(inputs)
