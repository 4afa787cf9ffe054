"""What several test files need: one CPU thread, float64, devices, and the algorithms as `conf/` composes them."""

import copy
import functools
import importlib.util
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from metarun.report import figures
from tests.training.small import DATA

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and test processes run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> None:
    """A script's background job has SIGINT ignored, and so have Python there and every process that it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_python_starts_it() -> None:
    """Hydra configures logging for the whole process: loggers disabled, the root's level raised to ERROR."""
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("metarun") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def omniglot_places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where the real images lie, and a cache that all test processes share: whichever comes first packs, the others wait."""
    if not any((folder / "images_background.zip").is_file() for folder in (DATA, DATA / "omniglot")):
        pytest.skip(f"no Omniglot in {DATA}; set METARUN_DATA")
    if importlib.util.find_spec("torchmeta") is None:
        pytest.skip("torchmeta, which ships the split, is not installed")
    base = tmp_path_factory.getbasetemp()
    return DATA, (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "omniglot"


@pytest.fixture(autouse=True)
def figures_are_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering takes a third of a small run. Figures are made, and those of runs in fixtures of modules are drawn, too."""

    monkeypatch.setattr(figures, "save", lambda figure, path: path.write_bytes(b""))


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors made without a dtype are float64, so that 1e-10 is rounding and not luck."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU and, where there is one, the GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """`composed("algorithm=imaml", ...)` is the configuration that the command line would give; not to be written to."""
    return _composed


@pytest.fixture(scope="session")
def algorithm_of() -> Callable[..., Any]:
    """`algorithm_of("imaml", {"inner": {"steps": 3}})`: conf/algorithm/imaml.yaml with these values, which must be known keys."""

    def build(name: str, values: Mapping[str, Any]) -> Any:
        config = copy.deepcopy(_composed(f"algorithm={name}"))
        config.merge_with({"algorithm": values})
        return instantiate(config.algorithm, _convert_="all")

    return build
