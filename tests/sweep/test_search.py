"""Searches: the proposals follow from the seed and the scores, failures do not end them, the best is a command."""

import importlib.util
import json
import math
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.sweep.plan import direction
from metarun.sweep.search import to_distribution
from metarun.sweep.state import DONE, JobState

from ..training.small import run_here
from .small_sweeps import SHORT, attempts, only_sweep

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="the extra [optuna] is not installed"
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


def study_of(sweep: Path):
    """What `metarun` left of a search, read as anybody would with Optuna alone."""
    optuna = pytest.importorskip("optuna")
    assert not (sweep / "study.journal.lock").exists()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(sweep / "study.journal")))
    return optuna.load_study(study_name=sweep.name, storage=storage)


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
    study = study_of(only_sweep(tmp_path))
    assert [trial.params["optimizer.lr"] for trial in study.trials] == proposed[0]
    assert [trial.value for trial in study.trials] == [score(rate) for rate in proposed[0]]
    assert [trial.state.name for trial in study.trials] == ["FAIL" if r > 0.05 else "COMPLETE" for r in proposed[0]]


@needs_optuna
@pytest.mark.scenario
@pytest.mark.timeout(600)
def test_the_study_says_what_the_results_say_and_goes_on(tmp_path):
    """Real runs; the same command for more trials runs the new one alone, and the study has the old ones unchanged."""
    words = (
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "algorithm=choice(maml,fomaml)",
        "schedule.tasks_per_step=2,4",
    )
    search = ("-m", "hydra/sweeper=random", "hydra.sweeper.n_jobs=2", *SHORT, f"run.root={tmp_path}")
    seen = []
    for number in (2, 3):
        assert run_here(*search, f"hydra.sweeper.n_trials={number}", *words) == 0
        study = study_of(only_sweep(tmp_path))
        assert study.direction.name == "MINIMIZE"
        assert len(study.trials) == number
        for trial in study.trials:
            result = json.loads((Path(trial.user_attrs["folder"]) / "result.json").read_text())
            config = json.loads((Path(trial.user_attrs["folder"]) / "config.json").read_text())
            assert trial.value == result["validation"]["best_score"]
            assert trial.params == {
                "optimizer.lr": config["optimizer"]["lr"],
                "algorithm": config["choices"]["algorithm"],
                "schedule.tasks_per_step": config["schedule"]["tasks_per_step"],
            }
        seen.append([(trial.params, trial.value, trial.user_attrs) for trial in study.trials])
    assert seen[1][:2] == seen[0]
    assert [attempts(only_sweep(tmp_path), index) for index in range(3)] == [1, 1, 1]


@needs_optuna
def test_a_search_that_was_killed_proposes_the_same_again(scores, tmp_path):
    """What lies in the study in between has ended; the trials at hand are not in it."""
    words = (*SEARCH, "optimizer.lr=tag(log,interval(1e-4,1))", *SHORT, f"run.root={tmp_path}")
    is_killed = True

    def score(lr: float) -> float:
        if is_killed and len(rates) == 8:
            raise KeyboardInterrupt
        return abs(math.log10(lr) + 2)

    rates = scores(score)
    assert run_here(*words) == 130
    cut_off, before = list(rates), study_of(only_sweep(tmp_path)).trials
    assert [trial.state.name for trial in before] == ["COMPLETE"] * 4
    is_killed = False
    rates.clear()
    assert run_here(*words) == 0
    assert rates == cut_off
    after = study_of(only_sweep(tmp_path)).trials
    assert [trial.params["optimizer.lr"] for trial in after] == rates
    assert [(t.number, t.params, t.value) for t in after[:4]] == [(t.number, t.params, t.value) for t in before]


@needs_optuna
@pytest.mark.parametrize(
    ("text", "kind", "arguments"),
    [
        ("interval(1,5)", "Float", {"low": 1.0, "high": 5.0}),
        ("int(interval(1,5))", "Int", {"low": 1, "high": 5}),
        ("tag(log,interval(1e-4,1e-1))", "Float", {"low": 1e-4, "high": 1e-1, "log": True}),
        ("tag(log,int(interval(1,64)))", "Int", {"low": 1, "high": 64, "log": True}),
        ("range(1,5)", "Int", {"low": 1, "high": 4}),
        ("range(10,1,-4)", "Int", {"low": 2, "high": 10, "step": 4}),
        ("range(0,0.35,0.1)", "Float", {"low": 0.0, "high": 0.3, "step": 0.1}),
        ("shuffle(range(5))", "Int", {"low": 0, "high": 4}),
        ("maml,imaml", "Categorical", {"choices": ["maml", "imaml"]}),
        ("1,null,'a b'", "Categorical", {"choices": [1, None, "a b"]}),
        ("[40,40],[80]", "Categorical", {"choices": ["[40,40]", "[80]"]}),
        ("1,1.0,true", "Categorical", {"choices": ["1", "1.0", "True"]}),
        ("sort(shuffle(3,1,2))", "Categorical", {"choices": [1, 2, 3]}),
    ],
)
def test_ranges_as_optuna_has_them(text, kind, arguments):
    from optuna import distributions

    distribution, _ = to_distribution(OverridesParser.create().parse_override(f"key={text}"))
    assert distribution == getattr(distributions, f"{kind}Distribution")(**arguments)


@needs_optuna
def test_a_drawn_choice_is_written_as_it_was_given():
    _, text = to_distribution(OverridesParser.create().parse_override("key=null,1,'a b',[40,40]"))
    assert [text(value) for value in (None, 1, "a b", "[40,40]")] == ["null", "1", "'a b'", "[40,40]"]


@needs_optuna
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["optimizer.lr=interval(2,1)"], "optimizer.lr=interval(2,1) cannot be searched"),
        (["optimizer.lr=interval(0,inf)"], "optimizer.lr=interval(0,inf) cannot be searched"),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)) cannot be searched"),
        (["seed=tag(log,range(1,9,2))"], "seed=tag(log,range(1,9,2)) cannot be searched"),
        (["optimizer.lr=range(0.0,1.0,0)"], "optimizer.lr=range(0.0,1.0,0)"),
        (
            ["+hydra.sweeper.params={optimizer.lr: 'range(0.0,1.0,0)'}"],
            "optimizer.lr=range(0.0,1.0,0) cannot be searched",
        ),
        (["seed=1"], "a search needs a range"),
    ],
)
def test_ranges_that_cannot_be(words, named, tmp_path, capsys):
    assert run_here(*SEARCH, *words, *SHORT, f"run.root={tmp_path / 'runs'}") == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


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
