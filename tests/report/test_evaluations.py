"""metarun.report.evaluations: what was stored by `metarun evaluate`, beside the runs; and what a run started from."""

import json

import pytest

from metarun.report.comparison import compare
from metarun.report.evaluations import evaluations_of
from metarun.report.runs import read_runs, selected
from metarun.report.tables import costs, results, sections

from .made import labels, write_evaluation, write_run

SCORES = {5: [0.5, 0.6, 0.7, 0.8]}
LESS = {5: [0.1, 0.2, 0.3, 0.4]}


def everything(root, **options):
    runs = read_runs([root])
    return compare([*runs, *(each for run in runs for each in evaluations_of(run))], **options)


def test_trained_on_and_tested_on_are_columns_where_they_differ(tmp_path):
    for algorithm in ("fomaml", "maml"):
        folder = write_run(tmp_path, SCORES, algorithm=algorithm)
        write_evaluation(folder, LESS, "cub")
    (grid,) = everything(tmp_path).grids
    assert grid.rows == ("algorithm", "trained_on", "tested_on")
    assert [(*cell.row, round(cell.estimate.mean, 9)) for cell in grid.cells] == [
        ("fomaml", "glyphs", "cub", 0.25), ("fomaml", "glyphs", "glyphs", 0.65),
        ("maml", "glyphs", "cub", 0.25), ("maml", "glyphs", "glyphs", 0.65),
    ]  # fmt: skip
    assert results(grid).columns[:4] == ("algorithm", "trained on", "tested on", "seeds")
    # The runs alone differ in nothing of the kind.
    (grid,) = compare(read_runs([tmp_path])).grids
    assert grid.rows == ("algorithm",)


def test_they_stand_beside_rows_that_were_asked_for_and_may_be_columns(tmp_path):
    folder = write_run(tmp_path, SCORES)
    write_evaluation(folder, LESS, "cub")
    (grid,) = everything(tmp_path, rows=["optimizer"]).grids
    assert grid.rows == ("optimizer", "trained_on", "tested_on")
    (grid,) = everything(tmp_path, rows=["algorithm"], columns=["tested_on"]).grids
    assert labels(grid) == ([("maml", "glyphs")], [("cub",), ("glyphs",)])
    assert [round(cell.estimate.mean, 9) for cell in grid.cells] == [0.25, 0.65]


def test_they_may_be_selected(tmp_path):
    write_evaluation(write_run(tmp_path, SCORES), LESS, "cub")
    runs = read_runs([tmp_path])
    both = [*runs, *evaluations_of(runs[0])]
    assert [run.place.name for run in selected(both, ["tested_on=cub"])] == ["dataset=cub.json"]
    assert [run.place.name for run in selected(both, ["tested_on=glyphs", "trained_on=glyphs"])] == ["maml-seed0"]


def test_the_best_is_of_rows_on_the_same_test_tasks(tmp_path):
    """On glyphs fomaml, on cub maml: a mean on one data set is no better than one on another."""
    for algorithm, own, other in (("fomaml", 0.9, 0.2), ("maml", 0.8, 0.3)):
        write_evaluation(write_run(tmp_path, {5: [own] * 4}, algorithm=algorithm), {5: [other] * 4}, "cub")
    (grid,) = everything(tmp_path).grids
    assert sorted(cell.row for cell in grid.best(())) == [("fomaml", "glyphs", "glyphs"), ("maml", "glyphs", "cub")]


def test_differences_are_paired_on_the_tasks_that_both_were_tested_on(tmp_path):
    for algorithm, scores in (("fomaml", [0.1, 0.2, 0.3, 0.4]), ("maml", [0.2, 0.3, 0.4, 0.5])):
        write_evaluation(write_run(tmp_path, SCORES, algorithm=algorithm), {5: scores}, "cub")
    (grid,) = everything(tmp_path, baseline="fomaml, glyphs, cub").grids
    assert [(each.cell.row[0], each.cell.row[2], each.words) for each in grid.differences] == [
        ("fomaml", "glyphs", "not on the same test tasks"),
        ("maml", "cub", "4 tasks, seed 0"),
        ("maml", "glyphs", "not on the same test tasks"),
    ]
    assert grid.differences[1].estimate.mean == pytest.approx(0.1, rel=1e-12)
    assert grid.differences[1].estimate.over_tasks == pytest.approx(0.0, abs=1e-12)


def test_without_its_tasks_an_evaluation_of_several_seeds_has_no_interval_over_tasks(tmp_path):
    """As those of earlier versions are; the reader is told which."""
    for seed in (0, 1):
        write_evaluation(write_run(tmp_path, SCORES, seed=seed), LESS, "cub", has_tasks=False)
    (grid,) = everything(tmp_path).grids
    (cub,) = [cell for cell in grid.cells if cell.row[-1] == "cub"]
    assert (cub.estimate.mean, cub.estimate.over_tasks) == (0.25, None)
    assert cub.problems[0].startswith(str(tmp_path / "maml-seed0" / "evaluations" / "dataset=cub.json"))
    assert "dataset=cub.json cannot be read (it has no scores of single tasks); no intervals over" in cub.problems[0]


def test_runs_that_were_trained_in_other_ways_are_not_one_on_a_data_set_that_replaced_it(tmp_path):
    """1 and 5 shots of training: `dataset=cub` brings its own, and the two evaluations hold the same settings."""
    for shots in (1, 5):
        folder = write_run(tmp_path, SCORES, **{"dataset.shots": shots})
        write_evaluation(folder, LESS, "cub", **{"dataset.shots": 2})
    grids = everything(tmp_path, rows=["algorithm", "trained.dataset.shots"]).grids
    rows = sorted(label for grid in grids for label in grid.row_labels)
    assert rows == [
        ("maml", "1", "glyphs", "cub"), ("maml", "1", "glyphs", "glyphs"),
        ("maml", "5", "glyphs", "cub"), ("maml", "5", "glyphs", "glyphs"),
    ]  # fmt: skip


def test_an_evaluation_that_changed_nothing_is_the_run(tmp_path):
    folder = write_run(tmp_path, SCORES)
    file = write_evaluation(folder, SCORES, "glyphs")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"config": json.loads((folder / "config.json").read_text())}))
    found = everything(tmp_path)
    assert [len(cell.finished) for grid in found.grids for cell in grid.cells] == [1]
    assert found.grids[0].cells[0].finished[0].evaluation is None
    assert found.notes == (f"{file} is left out: {folder} is the same run (same settings, same seed)",)


def test_what_cannot_be_read_is_named(tmp_path):
    folder = write_run(tmp_path, SCORES)
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "a.json").write_text("{")
    found = everything(tmp_path)
    (left_out,) = found.left_out
    assert left_out.place == folder / "evaluations" / "a.json"
    assert left_out.detail.startswith("it cannot be read (Expecting property name")


def test_costs_are_of_training_alone(tmp_path):
    write_evaluation(write_run(tmp_path, SCORES), LESS, "cub")
    found = everything(tmp_path)
    assert [[entry.text for entry in row[:3]] for row in costs(found.grids[0]).rows] == [["maml", "glyphs", "glyphs"]]
    only = compare([each for run in read_runs([tmp_path]) for each in evaluations_of(run)])
    assert [table.title for section in sections(only) for table in section.tables] == ["Results"]


def test_an_evaluation_is_made_again_by_its_command(tmp_path):
    folder = write_run(tmp_path, SCORES)
    write_evaluation(folder, LESS, "cub")
    (run,) = read_runs([tmp_path])
    (evaluation,) = evaluations_of(run)
    assert evaluation.command == f"metarun evaluate {folder} dataset=cub"
    assert (evaluation.value("trained_on"), evaluation.value("tested_on")) == ("glyphs", "cub")


def test_what_a_run_starts_from_is_a_column_where_any_does(tmp_path):
    write_run(tmp_path, SCORES)
    folder = write_run(tmp_path, SCORES, name="warm", **{"run.init_from": "outputs/pretrained"})
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"init_from": {"path": "outputs/pretrained"}}))
    (grid,) = compare(read_runs([tmp_path])).grids
    assert (grid.rows, grid.row_labels) == (
        ("algorithm", "starts_from"),
        [("maml", "outputs/pretrained"), ("maml", "–")],
    )
    assert results(grid).columns[:2] == ("algorithm", "starts from")
    # Rows that do not name it say it too, and a run that has just begun says what its configuration does.
    write_run(tmp_path, {}, name="begun", seed=1, **{"run.init_from": "outputs/pretrained"})
    (grid,) = compare(read_runs([tmp_path]), rows=["algorithm"]).grids
    assert [(cell.row, len(cell.finished), len(cell.others)) for cell in grid.cells] == [
        (("maml", "outputs/pretrained"), 1, 1), (("maml", "–"), 1, 0),
    ]  # fmt: skip


def test_starts_of_other_content_are_other_settings_wherever_they_lie(tmp_path):
    """config.json has the hash of what a run began with: an overwritten run is another start under the same name."""
    for name, mark in (("first", "1" * 64), ("second", "2" * 64), ("begun", "2" * 64)):
        folder = write_run(tmp_path, {} if name == "begun" else SCORES, name=name, **{"run.init_from": "pretrained"})
        config, start = json.loads((folder / "config.json").read_text()), {"path": "/runs/pretrained", "sha256": mark}
        (folder / "config.json").write_text(json.dumps(config | {"init_from": start}))
    runs = {run.path.name: run for run in read_runs([tmp_path])}
    assert {name: run.settings["run.init_from"] for name, run in runs.items()} == {
        "first": "/runs/pretrained (11111111)",
        "second": "/runs/pretrained (22222222)",
        "begun": "/runs/pretrained (22222222)",
    }
    assert not [key for run in runs.values() for key in run.settings if key.startswith("init_from")]
    assert runs["begun"].starts_from == "/runs/pretrained"
