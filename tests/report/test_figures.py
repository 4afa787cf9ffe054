"""metarun.report.figures: what a learning curve has on its axes."""

import pytest

from metarun.report import figures

ROWS = [
    {"step": 1, "train/loss": 0.5, "train/query/return": -40.0, "train/environment_steps_so_far": 600.0},
    {"step": 1, "val/return": -20.0, "val/return_ci95": 4.0},
    {"step": 2, "train/loss": 0.25, "train/query/return": -10.0, "train/environment_steps_so_far": 1100.0},
    {"step": 2, "val/return": -5.0, "val/return_ci95": 1.0},
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, and give the figure."""

    def draw(**settings):
        kept = []
        monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
        figures.learning_curve(tmp_path / "curve.png", ROWS, "return", "maml", **settings)
        return kept[0]

    return draw


def test_a_return_in_training_and_in_validation_is_on_one_scale(drawn):
    """Against environment steps: a validation is where the training had come to."""
    (axes,) = drawn(watched="query/return", counted="environment_steps").axes
    training, validation = (line.get_xydata().tolist() for line in axes.lines)
    assert training == [[600, -40], [1100, -10]] and validation == [[600, -20], [1100, -5]]
    low, high = axes.get_ylim()
    assert low < -40 and high > -4
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "return (validation: 95 % over tasks)")


def test_a_loss_and_a_score_have_an_axis_each(drawn):
    left, right = drawn().axes
    assert left.lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.25]]
    assert right.lines[0].get_xydata().tolist() == [[1, -20], [2, -5]]
    assert (left.get_ylabel(), right.get_ylabel()) == ("training query loss", "validation return (95 % over tasks)")
    assert left.get_xlabel() == "outer step"
