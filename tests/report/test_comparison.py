"""metarun.report.comparison and cells: which runs meet in which cell, and the numbers of a cell, worked out by hand."""

import json
import math
import shutil

import pytest

from metarun.errors import ConfigurationError
from metarun.report.tables import results

from .made import SCORES, comparison, labels, only_grid, paired, sweep, write_run

T2 = 0.95 / math.sqrt((1 - 0.95**2) / 2)  # Student's quantile for 3 seeds, in closed form
T1 = math.tan(math.pi * 0.95 / 2)  # and for 2
STD4 = math.sqrt(5 / 3)  # of 0, 1, 2, 3


@pytest.fixture
def grid(tmp_path):
    sweep(tmp_path)
    return paired(tmp_path)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_cell_of_three_seeds(grid):
    """Means 0.415, 0.515, 0.615; task k averages 0.5 + 0.01 k."""
    fomaml = grid.cells[0]
    assert (fomaml.row, fomaml.inner_steps, len(fomaml.finished), fomaml.planned, fomaml.missing) == (
        ("fomaml",),
        5,
        3,
        3,
        (),
    )
    assert fomaml.estimate.mean == pytest.approx(0.515, rel=1e-12)
    assert fomaml.estimate.over_seeds == pytest.approx(T2 * 0.1 / math.sqrt(3), rel=1e-9)
    assert fomaml.estimate.over_tasks == pytest.approx(1.96 * 0.01 * STD4 / 2, rel=1e-9)


def test_a_cell_with_a_seed_missing(grid):
    """Means 0.53 and 0.73; task k averages 0.6 + 0.02 k."""
    maml = grid.cells[1]
    assert (len(maml.finished), maml.planned, maml.missing) == (2, 3, ("1",))
    assert maml.estimate.mean == pytest.approx(0.63, rel=1e-12)
    assert maml.estimate.over_seeds == pytest.approx(T1 * 0.2 / math.sqrt(2) / math.sqrt(2), rel=1e-9)
    assert maml.estimate.over_tasks == pytest.approx(1.96 * 0.02 * STD4 / 2, rel=1e-9)


def test_differences_are_paired_by_task_and_by_seed(grid):
    """On seeds 0 and 2, which both have: 0.1 + 0.01 k on task k, 0.115 for either seed.

    Unpaired, the same difference would carry the 12.7 of two seeds; paired, its interval over seeds is nothing.
    """
    assert grid.baseline == ("fomaml",)
    (difference,) = grid.differences
    assert (difference.cell.row, difference.seeds, difference.words) == (("maml",), ("0", "2"), "4 tasks, seeds 0 2")
    assert difference.estimate.mean == pytest.approx(0.115, rel=1e-9)
    assert difference.estimate.over_seeds == pytest.approx(0.0, abs=1e-12)
    assert difference.estimate.over_tasks == pytest.approx(1.96 * 0.01 * STD4 / 2, rel=1e-9)
    assert difference.estimate.is_clear
    assert [cell.row for cell in grid.best(())] == [("maml",)]


def test_the_baseline_is_chosen_by_its_label(tmp_path):
    sweep(tmp_path)
    for baseline in ("maml", "algorithm=maml"):
        grid = only_grid(tmp_path, baseline=baseline)
        assert grid.differences[0].estimate.mean == pytest.approx(-0.115, rel=1e-9)
    with pytest.raises(ConfigurationError, match=r"'imaml' does not; rows: fomaml; maml\."):
        comparison(tmp_path, baseline="imaml")


def test_without_a_baseline_nothing_is_held_against_another(tmp_path):
    sweep(tmp_path)
    grid = only_grid(tmp_path)
    assert (grid.row_labels, grid.baseline, grid.differences) == ([("fomaml",), ("maml",)], None, [])


def test_a_baseline_with_two_keys(tmp_path):
    for algorithm in ("maml", "fomaml"):
        for lr in (0.1, 0.2):
            write_run(tmp_path, SCORES, algorithm=algorithm, **{"optimizer.lr": lr})
    assert only_grid(tmp_path, baseline="maml,optimizer.lr=0.2").baseline == ("maml", "0.2")
    assert only_grid(tmp_path, baseline="0.1, maml").baseline == ("maml", "0.1")
    with pytest.raises(ConfigurationError, match="--baseline must name one row"):
        comparison(tmp_path, baseline="maml")


def test_one_seed_has_no_interval_over_seeds(tmp_path):
    write_run(tmp_path, SCORES)
    (cell,) = only_grid(tmp_path).cells
    assert cell.estimate.over_seeds is None
    assert cell.estimate.over_tasks == json.loads((tmp_path / "maml-seed0" / "result.json").read_text())["results"][0][
        "accuracy"
    ]["ci95"]  # fmt: skip
    assert not cell.estimate.is_clear


def test_no_seed_in_common_leaves_the_tasks_paired(tmp_path):
    write_run(tmp_path, SCORES, algorithm="fomaml", seed=0)
    write_run(tmp_path, {5: [0.6, 0.7, 0.8, 0.9]}, algorithm="maml", seed=1)
    (difference,) = paired(tmp_path).differences
    assert (difference.words, difference.estimate.over_seeds) == ("4 tasks, no seed in common", None)
    assert difference.estimate.mean == pytest.approx(0.1, rel=1e-12)
    assert difference.estimate.over_tasks == pytest.approx(0.0, abs=1e-12)


def test_without_its_tasks_a_run_still_counts_and_the_reader_is_told(tmp_path):
    sweep(tmp_path)
    (tmp_path / "fomaml-seed1" / "tasks.csv").unlink()
    grid = paired(tmp_path)
    fomaml = grid.cells[0]
    assert fomaml.estimate.mean == pytest.approx(0.515, rel=1e-12)
    assert fomaml.estimate.over_tasks is None
    assert "fomaml-seed1: tasks.csv cannot be read" in fomaml.problems[0]
    assert grid.differences[0].estimate is not None  # seeds 0 and 2 have theirs


def test_the_lower_error_is_the_better(tmp_path):
    write_run(tmp_path, {5: [1.0, 2.0]}, algorithm="fomaml", score="mse", **{"evaluation.tasks": 2})
    write_run(tmp_path, {5: [1.0, 1.5]}, algorithm="maml", score="mse", **{"evaluation.tasks": 2})
    assert [cell.row for cell in only_grid(tmp_path).best(())] == [("maml",)]


@pytest.mark.parametrize(("is_higher", "best"), [(True, [("fomaml",)]), (False, [("maml",)]), (None, [])])
def test_a_result_says_which_way_its_score_is_better(is_higher, best, tmp_path):
    for algorithm, second in (("fomaml", 2.0), ("maml", 1.5)):
        write_run(
            tmp_path, {5: [1.0, second]}, algorithm=algorithm, score="own", higher_is_better=is_higher,
            **{"evaluation.tasks": 2},
        )  # fmt: skip
    assert [cell.row for cell in only_grid(tmp_path).best(())] == best


def test_a_diverged_run_is_not_dropped(tmp_path):
    write_run(tmp_path, {5: [1.0, float("nan")]}, seed=0, score="mse", **{"evaluation.tasks": 2})
    write_run(tmp_path, {5: [1.0, 2.0]}, seed=1, score="mse", **{"evaluation.tasks": 2})
    for seed in (0, 1):
        write_run(tmp_path, {5: [1.0, 2.0]}, seed=seed, algorithm="fomaml", score="mse", **{"evaluation.tasks": 2})
    grid = paired(tmp_path)
    assert math.isnan(grid.cells[1].estimate.mean) and math.isnan(grid.cells[1].estimate.over_seeds)
    assert math.isnan(grid.differences[0].estimate.mean) and not grid.differences[0].estimate.is_clear
    assert grid.best(()) == []  # one row with a mean is nothing to be the best of


@pytest.mark.parametrize("version", ["now", "before diverged tasks were counted"])
def test_one_diverged_task_makes_nothing_the_best(version, tmp_path):
    """One of 600 at 1e13 against 600 at 2: the mean says 1.7e10, the median 0.35; by the mean reptile would be best."""
    diverged, well = [*[0.35] * 133, 1e13, *[0.35] * 466], [2.0] * 600
    for name, scores in (("fomaml", well), ("maml", diverged)):
        folder = write_run(tmp_path, {5: scores}, algorithm=name, score="mse", **{"evaluation.tasks": 600})
        if version != "now":
            result = json.loads((folder / "result.json").read_text())
            for row in result["results"]:
                del row["diverged"], row["mse"]["median"], row["mse"]["num_diverged"]
            (folder / "result.json").write_text(json.dumps(result))
    grid = paired(tmp_path)
    fomaml, maml = grid.cells
    assert (maml.median, fomaml.median, fomaml.diverged) == (0.35, None, {})
    assert maml.estimate.mean == pytest.approx(1e13 / 600, rel=1e-9)
    assert grid.best(()) == []
    (difference,) = grid.differences
    assert (difference.words, difference.is_clear) == ("600 tasks, seed 0; tasks diverged", False)
    table = results(grid)
    assert [(entry.text, entry.note, entry.kind) for row in table.rows for entry in row[3:4]] == [
        ("2.000", "", ""),
        ("1.67e+10", "median 0.350", ""),
    ]
    assert (
        "tasks diverged (maml, seed 0: 1 of 600 tasks: 133): they decide the mean, the median stands beside it, "
        "and nothing is marked best beside such a mean"
    ) in table.notes


def test_the_median_is_over_all_seeds(tmp_path):
    for seed, scores in ((0, [1.0, 1.0, 1.0, 1e6]), (1, [2.0] * 4)):
        write_run(tmp_path, {5: scores}, seed=seed, score="mse")
    (cell,) = only_grid(tmp_path).cells
    assert cell.median == 1.5
    assert [diverged.tasks for diverged in cell.diverged.values()] == [[3], []]


# --- rows and columns ------------------------------------------------------------------------------------------------


def test_rows_are_as_few_keys_as_tell_the_runs_apart(tmp_path):
    """The algorithm brings four keys and its inner solver's steps; the option alone says it all."""
    for algorithm in ("maml", "imaml"):
        for seed in (0, 1):
            write_run(tmp_path, SCORES, algorithm=algorithm, seed=seed)
    assert only_grid(tmp_path).rows == ("algorithm",)
    write_run(tmp_path, SCORES, algorithm="maml", overrides=["optimizer.lr=0.1"], **{"optimizer.lr": 0.1})
    grid = only_grid(tmp_path)
    assert grid.rows == ("algorithm", "optimizer.lr")
    assert grid.row_labels == [("imaml", "0.001"), ("maml", "0.001"), ("maml", "0.1")]


def test_rows_prefer_what_the_user_typed(tmp_path):
    """schedule.steps and schedule.eval_every change together; the one on the command line is named."""
    for steps in (20, 40):
        write_run(tmp_path, SCORES, name=f"r{steps}", **{"schedule.eval_every": steps // 2, "schedule.steps": steps})
    assert only_grid(tmp_path).rows == ("schedule.eval_every",)
    for file in tmp_path.rglob("overrides.json"):
        file.write_text(json.dumps({"overrides": [f"schedule.steps={file.parent.name[1:]}"], "command": ""}))
    assert only_grid(tmp_path).rows == ("schedule.steps",)


def test_one_kind_of_run_makes_one_row(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, SCORES, seed=seed)
    grid = only_grid(tmp_path)
    assert (grid.rows, grid.row_labels, grid.baseline, grid.differences) == (("algorithm",), [("maml",)], None, [])


def test_columns_and_an_empty_cell(tmp_path):
    for algorithm, lr in (("maml", 1.0), ("maml", 10.0), ("maml", 2.0), ("fomaml", 2.0)):
        write_run(tmp_path, SCORES, algorithm=algorithm, **{"optimizer.lr": lr})
    grid = paired(tmp_path, rows=["algorithm"], columns=["optimizer.lr"])
    assert labels(grid) == ([("fomaml",), ("maml",)], [("1",), ("2",), ("10",)])  # by size, not by alphabet
    assert [len(cell.finished) for cell in grid.cells] == [0, 1, 0, 1, 1, 1]
    empty = grid.cells[0]
    assert (empty.estimate, empty.missing, empty.planned) == (None, ("0",), 1)
    assert [difference.words for difference in grid.differences] == [
        "the baseline has no result", "4 tasks, seed 0", "the baseline has no result",
    ]  # fmt: skip


def test_inner_steps_as_columns(tmp_path):
    write_run(tmp_path, {0: [0.1] * 4, 1: [0.2] * 4, 5: [0.5] * 4})
    write_run(tmp_path, {0: [0.1] * 4, 1: [0.3] * 4, 16: [0.9] * 4}, algorithm="imaml")
    grid = only_grid(tmp_path, columns=["inner_steps"])
    assert labels(grid) == ([("imaml",), ("maml",)], [("0",), ("1",), ("5",), ("16",)])
    means = [None if cell.estimate is None else round(cell.estimate.mean, 9) for cell in grid.cells]
    assert means == [0.1, 0.3, None, 0.9, 0.1, 0.2, 0.5, None]
    assert [len(cell.others) for cell in grid.cells] == [0, 0, 1, 0, 0, 0, 0, 1]  # there, and not measured after these
    assert [grid.run_name(cell) for cell in grid.run_cells] == ["imaml", "maml"]


def test_one_number_of_inner_steps_for_all(tmp_path):
    write_run(tmp_path, {1: [0.2] * 4, 5: [0.5] * 4})
    write_run(tmp_path, {1: [0.3] * 4, 16: [0.9] * 4}, algorithm="imaml")
    assert [cell.inner_steps for cell in only_grid(tmp_path).cells] == [16, 5]
    assert [cell.inner_steps for cell in only_grid(tmp_path, inner_steps=1).cells] == [1, 1]
    assert [cell.inner_steps for cell in only_grid(tmp_path, inner_steps=5).cells] == [None, 5]
    with pytest.raises(ConfigurationError, match="no run was measured after 7 inner steps; there are 1, 5, 16"):
        comparison(tmp_path, inner_steps=7)
    with pytest.raises(ConfigurationError, match="--steps chooses one number"):
        comparison(tmp_path, inner_steps=1, columns=["inner_steps"])


def test_a_cell_may_not_average_over_settings(tmp_path):
    for lr in (0.1, 0.2):
        write_run(tmp_path, SCORES, seed=int(10 * lr), **{"optimizer.lr": lr})
    with pytest.raises(
        ConfigurationError, match=r"those of maml differ in optimizer\.lr: 0\.\d and 0\.\d\. Add it to --rows"
    ):
        comparison(tmp_path, rows=["algorithm"])


def test_an_unfinished_attempt_at_something_else_is_passed_over(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(tmp_path, {}, seed=1, name="attempt", **{"optimizer.lr": 0.5})
    (cell,) = only_grid(tmp_path, rows=["algorithm"]).cells
    assert (len(cell.finished), cell.others, cell.missing) == (1, (), ("1",))
    assert cell.problems == [
        f"{tmp_path / 'attempt'} (unfinished) is left out: its optimizer.lr is 0.5, unlike the finished runs'"
    ]


def test_a_copy_of_a_run_is_no_second_seed(tmp_path):
    write_run(tmp_path, SCORES)
    shutil.copytree(tmp_path / "maml-seed0", tmp_path / "backup")
    found = comparison(tmp_path)
    assert [len(cell.finished) for cell in found.grids[0].cells] == [1]
    assert "is the same run (same settings, same seed)" in found.notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": ["algoritm"]}, "did you mean algorithm?"),
        ({"columns": ["shots"]}, "did you mean dataset.shots or evaluation.shots or schedule.shots?"),
        ({"rows": ["dataset.source"]}, "is not one value"),
        ({"rows": ["algorithm"], "columns": ["algorithm"]}, "cannot be both"),
    ],
)
def test_axes_that_cannot_be(tmp_path, options, words):
    sweep(tmp_path)
    with pytest.raises(ConfigurationError, match=words.replace("?", r"\?")):
        comparison(tmp_path, **options)


def test_seeds_as_columns_average_nothing(tmp_path):
    sweep(tmp_path)
    grid = only_grid(tmp_path, columns=["seed"])
    assert [len(cell.finished) for cell in grid.cells] == [1, 1, 1, 1, 0, 1]
    assert all(cell.estimate.over_seeds is None for cell in grid.cells if cell.estimate)
