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

    def draw(rows=ROWS, score="return", **settings):
        kept = []
        monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
        figures.learning_curve(tmp_path / "curve.png", rows, score, "maml", **settings)
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


def record(*, losses=(), scores=(), score="accuracy"):
    """Of steps 10, 20 and so on; scores with an interval of 0.01."""
    rows = [{"step": 10 * (place + 1), "train/loss": loss} for place, loss in enumerate(losses)]
    return rows + [
        {"step": 10 * (place + 1), f"val/{score}": value, f"val/{score}_ci95": 0.01}
        for place, value in enumerate(scores)
    ]


def legend(figure) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def test_the_selected_step_is_in_a_ring(drawn):
    rows = record(losses=[2.0, 1.0, 0.5], scores=[0.2, 0.5, 0.4])
    figure = drawn(rows, "accuracy", selected=20)
    curve, ring = figure.axes[1].lines
    assert curve.get_xydata().tolist() == [[10, 0.2], [20, 0.5], [30, 0.4]]
    assert (ring.get_xydata().tolist(), ring.get_markerfacecolor()) == ([[20, 0.5]], "none")
    assert legend(figure) == ["training: query loss", "validation: accuracy", "selected: step 20"]
    assert legend(drawn(rows, "accuracy")) == ["training: query loss", "validation: accuracy"]


def test_a_single_validation_is_a_point_with_its_number(drawn):
    figure = drawn(record(losses=[2.0, 1.0], scores=[0.934]), "accuracy", selected=10)
    point = figure.axes[1].lines[0]
    assert (point.get_xydata().tolist(), point.get_linestyle()) == ([[10, 0.934]], "None")
    assert [text.get_text() for text in figure.axes[1].texts] == ["93.4 ± 1.0 %"]
    assert figure.axes[1].yaxis.get_major_formatter()(0.5) == "50.00 %"
    assert legend(figure) == ["training: query loss", "validation: accuracy"]


def test_there_is_no_axis_and_no_legend_for_what_was_not_recorded(drawn):
    figure = drawn(record(losses=[2.0, 1.0]), "accuracy")
    (axes,) = figure.axes
    assert (axes.get_ylabel(), legend(figure)) == ("training query loss", ["training: query loss"])
    figure = drawn(record(scores=[0.2, 0.3]), "accuracy")
    (axes,) = figure.axes
    assert (axes.get_ylabel(), legend(figure)) == ("validation accuracy (95 % over tasks)", ["validation: accuracy"])
    figure = drawn([], "accuracy")
    assert (len(figure.axes), legend(figure)) == (1, [])


@pytest.mark.parametrize(
    ("losses", "scores", "score", "expected"),
    [
        ([32.0, 1.0], [0.4, 0.2], "mse", ["log", "linear"]),
        ([31.0, 1.0], [9.0, 0.2], "mse", ["linear", "log"]),
        ([31.0, 0.0], [0.9, 0.02], "accuracy", ["linear", "linear"]),  # 45 times, of a scale that ends at 1
    ],
)
def test_scales_turn_logarithmic_each_for_itself(drawn, losses, scores, score, expected):
    figure = drawn(record(losses=losses, scores=scores, score=score), score)
    assert [axes.get_yscale() for axes in figure.axes] == expected


def test_one_scale_is_chosen_for_both(drawn):
    """The return before adaptation is negative: no logarithm of it, however far the validations lie apart."""
    rows = [
        {"step": 1, "train/query/return": -1.0, "val/return": 1.0, "val/return_ci95": 0.1},
        {"step": 2, "train/query/return": 2.0, "val/return": 90.0, "val/return_ci95": 0.1},
    ]
    (axes,) = drawn(rows, watched="query/return").axes
    assert axes.get_yscale() == "linear"
    rows[0]["train/query/return"] = 0.5
    (axes,) = drawn(rows, watched="query/return").axes
    assert axes.get_yscale() == "log"
