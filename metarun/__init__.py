"""metarun: train, evaluate, sweep and compare meta-learning algorithms from one command.

From Python: `metarun.train`, `metarun.load`, `metarun.compose` and `metarun.results`. Nothing is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarun.interface import compose, results, train
    from metarun.trained.adapted import AdaptedModel
    from metarun.trained.run import TrainedRun, load

__version__ = "0.1.0"
__all__ = ["AdaptedModel", "TrainedRun", "__version__", "compose", "load", "results", "train"]

_HOMES = {
    "AdaptedModel": "metarun.trained.adapted",
    "TrainedRun": "metarun.trained.run",
    "compose": "metarun.interface",
    "load": "metarun.trained.run",
    "results": "metarun.interface",
    "train": "metarun.interface",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'metarun' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
