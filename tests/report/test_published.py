"""metarun.report.published: a figure of the literature stands beside a measured one of the same tasks, and no other."""

import pytest

from metarun.report.published import compared
from metarun.run_folder.folder import flatten
from tests.training.small import configuration

OMNIGLOT, SINUSOID = "experiment=maml_omniglot", "experiment=maml_sinusoid"


def told(score: str, *overrides: str) -> dict:
    config = configuration(*overrides)
    return compared(config["reference"], config, score)


def test_a_run_of_the_published_settings():
    """What is not the same here by our own protocol is in words."""
    found = told("accuracy", OMNIGLOT)
    assert (found["source"], found["values"]) == (
        "Finn, Abbeel and Levine 2017, table 1 (Omniglot, 5-way 1-shot)",
        {"3": 0.987},
    )
    assert found["differences"].startswith("Not the same: evaluation.queries is 15 here and 1 there. Theirs splits ")
    assert told("accuracy", OMNIGLOT, "evaluation.queries=1")["differences"].startswith("Theirs splits ")


@pytest.mark.parametrize(
    ("score", "overrides", "words"),
    [
        ("accuracy", (OMNIGLOT, "dataset.ways=20"), "dataset.test_ways is 20 here and 5 there"),
        ("accuracy", (OMNIGLOT, "dataset.test_ways=4"), "dataset.test_ways is 4 here and 5 there"),
        ("accuracy", (OMNIGLOT, "dataset.shots=5"), "evaluation.shots is 5 here and 1 there"),
        ("accuracy", (OMNIGLOT, "dataset=glyphs"), "dataset is glyphs here and omniglot there"),
        ("mse", (SINUSOID, "evaluation.shots=10"), "evaluation.shots is 10 here and 5 there"),
        ("loss", (SINUSOID,), "the score is loss here and mse there"),
    ],
)
def test_no_figure_of_other_tasks(score, overrides, words):
    found = told(score, *overrides)
    assert (found["values"], found["differences"]) == ({}, f"Not compared: {words}.")


def test_what_else_differs_is_in_words():
    found = told("mse", SINUSOID, "schedule.steps=600", "algorithm=fomaml", "algorithm.inner.steps=5")
    assert found["values"] == {"1": 0.67, "5": 0.38, "10": 0.35}
    assert found["differences"] == (
        "Not the same: algorithm is fomaml here and maml there; algorithm.inner.steps is 5 here and 1 there; "
        "schedule.steps is 600 here and 70000 there; evaluation.queries is 100 here and 5 there. "
        "Theirs takes the last state, this selects it by validation."
    )


def test_figures_of_settings_that_are_not_stated_are_not_compared():
    """As those in the configurations of earlier versions."""
    config = configuration(SINUSOID)
    del config["reference"]["settings"]
    found = compared(config["reference"], config, "mse")
    assert found["differences"] == (
        "Not compared: reference.settings.choices.dataset is missing; reference.settings.evaluation.shots is missing."
    )
    assert compared(None, config, "mse") is None


@pytest.mark.parametrize("experiment", [OMNIGLOT, SINUSOID, "experiment=imaml_omniglot"])
def test_the_settings_of_an_experiment_are_keys_of_it(experiment):
    """And it runs the published setting, but for the queries of the test."""
    config = configuration(experiment)
    ours = flatten(config)
    theirs = flatten(config["reference"]["settings"])
    assert {key for key, value in theirs.items() if ours[key] != value} <= {"evaluation.queries"}
