"""metarun.report.curves: means and bands over seeds, the clock that metrics.jsonl holds, and the scales of the axes."""

import json

import pytest

from metarun.report.comparison import compare
from metarun.report.curves import figures
from metarun.report.evaluations import evaluations_of
from metarun.report.runs import read_runs

from .made import write_evaluation, write_run

SCORES = {0: [0.1, 0.3], 5: [0.5, 0.7]}
TWO = {"evaluation.tasks": 2}


def drawn(root):
    (grid,) = compare(read_runs([root])).grids
    return {figure.file: figure for figure in figures(grid)}


def test_learning_curves_are_means_between_the_lowest_and_the_highest_seed(tmp_path):
    write_run(tmp_path, SCORES, seed=0, validations={10: 0.2, 20: 0.4}, **TWO)
    write_run(tmp_path, SCORES, seed=1, validations={10: 0.4, 20: 0.8, 30: 0.9}, **TWO)
    (curve,) = drawn(tmp_path)["learning_curves"].curves
    assert (curve.name, curve.seeds, curve.x) == ("maml", 2, (10.0, 20.0))  # steps that both seeds have
    assert curve.y == pytest.approx((0.3, 0.6))
    assert (curve.low, curve.high) == ((0.2, 0.4), (0.4, 0.8))


def test_wall_time_adds_up_the_steps(tmp_path):
    """10 steps of 10 ms and 10 more; the other seed takes 30 ms a step: means of 0.2 and 0.4 seconds."""
    write_run(tmp_path, SCORES, seed=0, validations={10: 0.2, 20: 0.4}, step_s=0.01, **TWO)
    write_run(tmp_path, SCORES, seed=1, validations={10: 0.4, 20: 0.8}, step_s=0.03, **TWO)
    (curve,) = drawn(tmp_path)["wall_time"].curves
    assert curve.x == pytest.approx((0.2, 0.4))
    assert curve.y == pytest.approx((0.3, 0.6))


def test_a_validation_between_two_lines_of_the_record_gets_a_time_between_theirs(tmp_path):
    folder = write_run(tmp_path, SCORES, **TWO)
    rows = [
        {"step": 4, "val/accuracy": 0.1},  # 4 of the first 8 steps
        {"step": 8, "time/step_s": 0.5},
        {"step": 10, "val/accuracy": 0.2},  # 2 of the next 8
        {"step": 16, "time/step_s": 1.0},
        {"step": 20, "val/accuracy": 0.3},  # 4 more at the last speed known
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert drawn(tmp_path)["wall_time"].curves[0].x == pytest.approx((2.0, 4.0 + 2.0, 12.0 + 4.0))


def test_scores_against_what_a_run_has_counted(tmp_path):
    """100 and 300 after two lines of the record; a validation half way between them has seen 200."""
    assert "counted" not in drawn_of(tmp_path / "none", counted=None)
    figure = drawn_of(tmp_path / "counted", counted={"environment_steps": 300.0})["counted"]
    assert (figure.x_label, figure.title) == ("environment steps", "Accuracy against environment steps")
    (curve,) = figure.curves
    assert (curve.x, curve.y) == ((100.0, 200.0, 300.0), (0.1, 0.2, 0.3))


def drawn_of(root, counted):
    folder = write_run(root, SCORES, **TWO)
    rows = [
        {"step": 2, "train/environment_steps_so_far": 100.0},
        {"step": 2, "val/accuracy": 0.1},
        {"step": 4, "val/accuracy": 0.2},
        {"step": 6, "train/environment_steps_so_far": 300.0},
        {"step": 6, "val/accuracy": 0.3},
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"counted": counted}))
    return drawn(root)


def test_inner_steps(tmp_path):
    write_run(tmp_path, SCORES, seed=0, **TWO)
    write_run(tmp_path, {0: [0.2, 0.4], 5: [0.7, 0.9]}, seed=1, **TWO)
    (curve,) = drawn(tmp_path)["inner_steps"].curves
    assert (curve.x, curve.y) == ((0.0, 5.0), pytest.approx((0.25, 0.7)))
    assert (curve.low, curve.high) == (pytest.approx((0.2, 0.6)), pytest.approx((0.3, 0.8)))


@pytest.mark.parametrize("damage", ["torn", "wrong", "gone"])
def test_a_record_that_cannot_be_read_costs_one_curve_and_a_note(tmp_path, damage):
    write_run(tmp_path, SCORES, seed=0, validations={10: 0.2, 20: 0.4, 30: 0.5}, **TWO)
    folder = write_run(tmp_path, SCORES, seed=1, validations={10: 0.4, 20: 0.8, 30: 0.9}, **TWO)
    file = folder / "metrics.jsonl"
    if damage == "gone":
        file.unlink()
    else:
        file.write_text(file.read_text()[:-10] if damage == "torn" else "nonsense\n" + file.read_text())
    (grid,) = compare(read_runs([tmp_path])).grids
    (curve,) = figures(grid)[0].curves
    # torn in its last line, as a live run's may be: the validation before it still counts
    assert (curve.seeds, curve.x) == ((2, (10.0, 20.0)) if damage == "torn" else (1, (10.0, 20.0, 30.0)))
    assert [f"{folder}: no curve" in problem for problem in grid.cells[0].problems] == (
        [] if damage == "torn" else [True]
    )


def test_one_point_is_no_curve(tmp_path):
    """A single validation, and scores after one number of inner steps: their numbers are in the tables."""
    write_run(tmp_path, {5: [0.5, 0.7]}, seed=0, validations={10: 0.2}, **TWO)
    assert drawn(tmp_path) == {}
    # Beside a curve it is a point of the figure.
    write_run(tmp_path, {5: [0.5, 0.7]}, algorithm="fomaml", validations={10: 0.2, 20: 0.3}, **TWO)
    curves = drawn(tmp_path)["learning_curves"].curves
    assert [(curve.name, curve.x) for curve in curves] == [("fomaml", (10.0, 20.0)), ("maml", (10.0,))]


def test_the_selected_steps_of_all_seeds_are_marked(tmp_path):
    """`write_run` selects step 10 of seed 0 and 11 of seed 1, which no validation of this record is at."""
    for seed in (0, 1):
        write_run(tmp_path, SCORES, seed=seed, validations={10: 0.2, 20: 0.4}, step_s=0.02, **TWO)
    found = drawn(tmp_path)
    assert found["learning_curves"].curves[0].selected == (10.0,)
    assert found["wall_time"].curves[0].selected == pytest.approx((0.2,))
    assert found["inner_steps"].curves[0].selected == ()
    assert [found[name].has_selected for name in ("learning_curves", "inner_steps")] == [True, False]


@pytest.mark.parametrize(
    ("low", "score", "is_log"),
    [(0.02, "mse", True), (0.04, "mse", False), (0.0, "mse", False), (0.02, "accuracy", False)],
)
def test_a_score_that_spans_decades_has_a_logarithmic_axis(tmp_path, low, score, is_log):
    """0.9 is 45 or 22.5 times the lowest, and 10 ** 1.5 is 31.6; a percentage keeps its own scale."""
    write_run(tmp_path, SCORES, score=score, validations={10: 0.9, 20: low}, **TWO)
    figure = drawn(tmp_path)["learning_curves"]
    assert (figure.y_is_log, figure.x_is_log) == (is_log, False)


def test_time_is_logarithmic_where_curves_end_decades_apart(tmp_path):
    """0.2 s against 20 s; both have the same outer steps, and inner steps begin at zero."""
    for algorithm, step_s in (("maml", 1.0), ("fomaml", 0.01)):
        write_run(tmp_path, SCORES, algorithm=algorithm, validations={10: 0.2, 20: 0.4}, step_s=step_s, **TWO)
    assert {name: figure.x_is_log for name, figure in drawn(tmp_path).items()} == {
        "learning_curves": False, "inner_steps": False, "wall_time": True,
    }  # fmt: skip


def test_an_evaluation_has_no_learning_curve_of_its_own(tmp_path):
    folder = write_run(tmp_path, SCORES, validations={10: 0.2, 20: 0.4}, **TWO)
    write_evaluation(folder, SCORES, "cub")
    runs = read_runs([tmp_path])
    (grid,) = compare([*runs, *evaluations_of(runs[0])]).grids
    numbers = {figure.file: [curve.number for curve in figure.curves] for figure in figures(grid)}
    assert numbers == {"learning_curves": [1], "inner_steps": [0, 1], "wall_time": [1]}  # cub comes before glyphs
