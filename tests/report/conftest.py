"""Comparisons that every format is held against."""

import pytest

from metarun.report.comparison import Comparison, compare
from metarun.report.runs import read_runs

from .made import NASTY, sweep, write_run


@pytest.fixture
def swept(tmp_path) -> Comparison:
    """The sweep, and its differences to fomaml."""
    sweep(tmp_path)
    return compare(read_runs([tmp_path]), baseline="fomaml")


@pytest.fixture
def nasty(tmp_path) -> Comparison:
    """Labels that every format must escape, and a failed cell."""
    scores = {5: [0.5, 0.6, 0.7, 0.8]}
    for seed in (0, 1):
        write_run(tmp_path, scores, seed=seed, name=f"n{seed}", **{"choices.optimizer": NASTY, "optimizer.lr": 0.5})
    write_run(tmp_path, scores, seed=0)
    (write_run(tmp_path, {}, seed=1) / "log.txt").write_text("x ERROR the run ended by OSError: 100% _full_\n")
    return compare(read_runs([tmp_path]), rows=["optimizer"], baseline="adam")
