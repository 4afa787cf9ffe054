"""Searches: the proposals follow from the seed and the scores, failures do not end them, the best is a command."""

import importlib.util
import math
import shlex

import pytest

from metarun.sweep.plan import direction
from metarun.sweep.state import DONE, JobState

from ..train.small import run_here
from .small_sweeps import SHORT

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="the extra [optuna] is not installed"
)
SEARCH = ("-m", "hydra/sweeper=tpe", "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=4", "hydra.sweeper.startup=4")


@pytest.fixture
def scores(monkeypatch):
    """Jobs that do not run: their score is a function of the learning rate. Gives the rates in the order of the trials."""
    rates = []

    def use(score):
        def run(jobs, *_):
            for job in jobs:
                rates.append(job.config["optimizer"]["lr"])
            values = {job.index: score(job.config["optimizer"]["lr"]) for job in jobs}
            return {i: JobState(state=DONE if v is not None else "failed", value=v) for i, v in values.items()}

        monkeypatch.setattr("metarun.sweep.launch.run_locally", run)
        rates.clear()
        return rates

    return use


def command_of(out: str) -> dict[str, str]:
    """The copied command as KEY -> VALUE."""
    (line,) = [line for line in out.splitlines() if line.startswith("metarun optimizer.lr=")]
    return dict(word.split("=", 1) for word in shlex.split(line)[1:])


def test_the_direction_is_that_of_the_score():
    def of(problem: str) -> str:
        return direction({"dataset": {"problem": {"_target_": f"metarun.problems.{problem}"}}})

    assert of("regression.Regression") == "minimize"
    assert of("classification.Classification") == "maximize"


@needs_optuna
def test_the_same_command_proposes_the_same_and_a_failed_trial_does_not_end_it(scores, tmp_path, capsys):
    def score(lr: float) -> float | None:
        return None if lr > 0.05 else abs(math.log10(lr) + 2)

    proposed = []
    for _ in range(2):
        rates = scores(score)
        arguments = ("optimizer.lr=tag(log,interval(1e-4,1))", *SHORT, f"run.root={tmp_path}")
        assert run_here(*SEARCH, *arguments) == 1, "a trial failed"
        proposed.append(list(rates))
        out, err = capsys.readouterr()
        failed = sum(rate > 0.05 for rate in rates)
        assert failed > 0
        assert err.startswith(f"metarun: error: {failed} of 8 jobs gave no result.")
        best = min((rate for rate in rates if rate <= 0.05), key=lambda lr: abs(math.log10(lr) + 2))
        assert float(command_of(out)["optimizer.lr"]) == best
    assert proposed[0] == proposed[1]


@needs_optuna
def test_a_trial_that_cannot_be_counts_as_failed(scores, tmp_path, capsys):
    """A negative learning rate is refused by the optimizer; a search that only proposes such is refused as a whole."""
    rates = scores(lambda lr: lr)
    arguments = ("hydra/sweeper=random", *SHORT, f"run.root={tmp_path}")
    assert run_here(*SEARCH, *arguments, "optimizer.lr=interval(-1.0,1.0)") == 1
    assert 0 < len(rates) < 8 and min(rates) >= 0
    assert f"{8 - len(rates)} of 8 jobs gave no result" in capsys.readouterr().err
    assert run_here(*SEARCH, *arguments, "optimizer.lr=interval(-2.0,-1.0)") == 2
    assert "optimizer: lr must be a number > 0, got -" in capsys.readouterr().err


@needs_optuna
def test_when_every_trial_fails_it_says_so(scores, tmp_path, capsys):
    scores(lambda lr: None)
    assert run_here(*SEARCH, "optimizer.lr=interval(0.1,1)", *SHORT, f"run.root={tmp_path}") == 1
    assert "8 of 8 jobs gave no result" in capsys.readouterr().err


@needs_optuna
def test_a_search_cannot_be_detached(tmp_path, capsys):
    words = ("hydra/sweeper=tpe", "optimizer.lr=interval(0.1,1)", *SHORT, f"run.root={tmp_path / 'runs'}")
    assert run_here("submit", *words) == 2
    assert "with hydra/sweeper=tpe or random use metarun -m, not metarun submit" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert run_here(*SEARCH, "optimizer.lr=interval(0.1,1)", *SHORT, f"run.root={tmp_path}") == 2
    assert "a search needs Optuna, and it is not installed: pip install" in capsys.readouterr().err
