"""metarun.report.protocol: runs that were evaluated differently never meet in a cell, and what differs is named."""

import json

import pytest

from metarun.report.protocol import words

from .made import SCORES, TASKS, comparison, labels, only_grid, paired, write_run


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("evaluation.tasks", 3, "evaluation.tasks: 4 in 2 runs, 3 in 1 run"),
        ("evaluation.seed", 1, "evaluation.seed: 0 in 2 runs, 1 in 1 run"),
        ("evaluation.queries", 5, "evaluation.queries: 15 in 2 runs, 5 in 1 run"),
        ("evaluation.shots", 5, "evaluation.shots: 1 in 2 runs, 5 in 1 run"),
        ("evaluation.val_shots", 5, "evaluation.val_shots: 1 in 2 runs, 5 in 1 run"),
        ("evaluation.val_queries", 5, "evaluation.val_queries: 15 in 2 runs, 5 in 1 run"),
        ("dataset.val_ways", 4, "dataset.val_ways: 5 in 2 runs, 4 in 1 run"),
        ("batch_norm", "support", "batch_norm: transductive in 2 runs, support in 1 run"),
        ("dataset.ways", 20, "dataset.ways: 5 in 2 runs, 20 in 1 run"),
        # not in result.json, and decides what task k is all the same
        ("dataset.source.ways", 20, "dataset.source.ways: 5 in 2 runs, 20 in 1 run"),
        ("evaluation.val_tasks", 3, "evaluation.val_tasks: validation accuracy on 2 fixed tasks in 2 runs, "
                                    "validation accuracy on 3 fixed tasks in 1 run"),
    ],
)  # fmt: skip
def test_protocols_are_never_mixed_and_the_key_is_named(tmp_path, key, value, said):
    for seed in (0, 1):
        write_run(tmp_path, SCORES, seed=seed)
    tasks = value if key == "evaluation.tasks" else TASKS
    write_run(tmp_path, {5: SCORES[5][:tasks]}, seed=2, algorithm="fomaml", **{key: value})
    found = comparison(tmp_path)
    assert sorted(found.parted_by[0].replace(": ", ", ").split(", ")) == sorted(said.replace(": ", ", ").split(", "))
    assert len(found.parted_by) == 1
    assert sorted(len(cell.finished) for grid in found.grids for cell in grid.cells) == [1, 2]
    assert [grid.differences for grid in comparison(tmp_path, baseline="fomaml").grids] == [[], []]


def test_validation_like_the_test_is_as_if_it_were_not_said(tmp_path):
    """A run made when the two could not differ stands beside one that says that they do not."""
    write_run(tmp_path, SCORES)
    same = {"dataset.val_ways": 5, "evaluation.val_shots": 1, "evaluation.val_queries": 15}
    write_run(tmp_path, SCORES, algorithm="fomaml", **same, **{"dataset.source.val_ways": 5})
    (difference,) = paired(tmp_path).differences
    assert difference.words == "4 tasks, seed 0"
    # What follows from the shots of the test needs no line of its own, and no column.
    write_run(tmp_path, SCORES, name="five", **{"dataset.shots": 5, "evaluation.shots": 5, "evaluation.val_shots": 5})
    assert [words.partition(":")[0] for words in comparison(tmp_path).parted_by] == ["evaluation.shots"]
    assert len(comparison(tmp_path, columns=["dataset.shots"]).grids) == 1


def test_validation_of_its_own_leaves_the_test_tasks_as_they_are(tmp_path):
    """In rows of their own, and then paired; a column of validation's shots says nothing of the test's."""
    write_run(tmp_path, SCORES)
    write_run(tmp_path, SCORES, name="own", **{"evaluation.val_shots": 5})
    assert len(comparison(tmp_path).grids) == 2
    (difference,) = paired(tmp_path, rows=["evaluation.val_shots"]).differences
    assert difference.words == "4 tasks, seed 0"
    write_run(tmp_path, SCORES, name="five", **{"evaluation.shots": 5, "evaluation.val_shots": 7})
    assert len(comparison(tmp_path, rows=["evaluation.val_shots"]).grids) == 2


def test_what_a_data_set_brings_needs_no_line_of_its_own(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(
        tmp_path, SCORES, name="o", **{"choices.dataset": "omniglot", "evaluation.queries": 5, "dataset.source.ways": 7}
    )
    assert comparison(tmp_path).parted_by[0].startswith("dataset: ")
    assert len(comparison(tmp_path).parted_by) == 1


def test_what_differs_may_be_a_column(tmp_path):
    """Shots are the column, so that no cell and no difference mixes them; the tasks' number may still not differ."""
    for algorithm, base in (("maml", 0.5), ("fomaml", 0.4)):
        for shots in (1, 5):
            write_run(tmp_path, {5: [base + 0.01 * shots] * 4}, algorithm=algorithm, name=f"{algorithm}{shots}",
                      **{"dataset.shots": shots, "evaluation.shots": shots})  # fmt: skip
    assert len(comparison(tmp_path).grids) == 2
    grid = paired(tmp_path, columns=["dataset.shots"])
    assert labels(grid) == ([("fomaml",), ("maml",)], [("1",), ("5",)])
    assert [round(cell.estimate.mean, 9) for cell in grid.cells] == [0.41, 0.45, 0.51, 0.55]
    assert [round(difference.estimate.mean, 9) for difference in grid.differences] == [0.1, 0.1]
    write_run(
        tmp_path, {5: [0.9] * 3}, name="fewer", **{"dataset.shots": 5, "evaluation.shots": 5, "evaluation.tasks": 3}
    )
    assert len(comparison(tmp_path, columns=["dataset.shots"]).grids) == 2


def test_a_column_excuses_what_it_names_and_no_more(tmp_path):
    """1-shot on 4 tasks beside 5-shot on 3: the label tells of the shots, and nothing of the tasks."""
    write_run(tmp_path, SCORES, **{"dataset.shots": 1, "evaluation.shots": 1})
    few = {"dataset.shots": 5, "evaluation.shots": 5, "evaluation.tasks": 3}
    write_run(tmp_path, {5: SCORES[5][:3]}, name="few", **few)
    found = comparison(tmp_path, columns=["dataset.shots"])
    assert len(found.grids) == 2
    assert [words.partition(":")[0] for words in found.parted_by] == ["evaluation.tasks"]


def test_two_scores_are_never_in_one_table(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(
        tmp_path, SCORES, name="s", score="mse", **{"choices.dataset": "sinusoid", "dataset.source._target_": "S"}
    )
    assert sorted(grid.score for grid in comparison(tmp_path, columns=["dataset"]).grids) == ["accuracy", "mse"]


def test_batch_norms_are_compared_on_the_same_tasks(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(tmp_path, {5: [0.4, 0.5, 0.6, 0.7]}, name="s", **{"batch_norm": "support"})
    grid = paired(tmp_path, rows=["batch_norm"])
    assert grid.row_labels == [("support",), ("transductive",)]
    assert grid.differences[0].estimate.mean == pytest.approx(0.1)


def test_rows_with_other_test_tasks_have_no_paired_difference(tmp_path):
    for shots in (1, 5):
        write_run(tmp_path, SCORES, **{"dataset.shots": shots, "evaluation.shots": shots})
    (difference,) = paired(tmp_path, rows=["dataset.shots"]).differences
    assert (difference.estimate, difference.words) == (None, "not on the same test tasks")


def test_what_touches_training_tasks_alone_parts_nothing(tmp_path):
    """Nor does the number of ways in training, where the test has its own."""
    source = {"_target_": "Episodes", "ways": 5, "test_ways": 5, "rotations": True, "flips": True, "store": {}}
    for number, changed in enumerate(({}, {"rotations": False}, {"flips": False}, {"ways": 20})):
        write_run(tmp_path, SCORES, name=f"{number}", **{"dataset.source": source | changed})
    grid = paired(tmp_path)
    assert len(grid.row_labels) == 4
    assert [difference.words for difference in grid.differences] == ["4 tasks, seed 0"] * 3


def test_other_examples_are_other_tasks(tmp_path):
    for seed, sha in enumerate("aab"):
        folder = write_run(tmp_path, SCORES, seed=seed)
        (folder / "data.json").write_text(
            json.dumps({"provenance": {"sha256": sha, "split_sha256": "s"}, "splits": {}})
        )
    found = comparison(tmp_path)
    assert sorted(len(grid.cells[0].finished) for grid in found.grids) == [1, 2]
    assert found.parted_by[0].startswith("data.sha256: ")


def test_an_unfinished_run_stands_with_those_of_its_protocol(tmp_path):
    write_run(tmp_path, SCORES)
    write_run(tmp_path, {5: SCORES[5][:3]}, name="other", **{"evaluation.tasks": 3})
    write_run(tmp_path, {}, seed=1, name="begun", **{"evaluation.tasks": 3})
    grids = comparison(tmp_path).grids
    by_tasks = {grid.protocol["evaluation.tasks"]: [len(cell.others) for cell in grid.cells] for grid in grids}
    assert by_tasks == {4: [0], 3: [1]}


def test_nothing_but_unfinished_runs(tmp_path):
    write_run(tmp_path, {}, seed=0)
    write_run(tmp_path, {}, seed=1)
    (cell,) = only_grid(tmp_path).cells
    assert (cell.estimate, len(cell.others), cell.planned) == (None, 2, 2)


def test_environments_that_differ_are_told(tmp_path):
    write_run(tmp_path, SCORES)
    file = write_run(tmp_path, SCORES, seed=1) / "result.json"
    result = json.loads(file.read_text())
    result["environment"]["device"] = "H100"
    file.write_text(json.dumps(result))
    assert comparison(tmp_path).notes == ("the runs' device differs (H100, cpu): mind this where seconds are compared",)


def test_results_from_before_there_were_episodes_stand_beside_others(tmp_path):
    """What tasks are counted in is stated since there are episodes; before, it was examples."""
    write_run(tmp_path, SCORES)
    folder = write_run(tmp_path, SCORES, algorithm="fomaml")
    result = json.loads((folder / "result.json").read_text())
    result["protocol"]["examples"] = "examples"
    (folder / "result.json").write_text(json.dumps(result))
    (difference,) = paired(tmp_path).differences
    assert difference.words == "4 tasks, seed 0"
    result["protocol"]["examples"] = "episodes"
    (folder / "result.json").write_text(json.dumps(result))
    assert comparison(tmp_path).parted_by == ("examples: episodes in 1 run, examples in 1 run",)


def test_episodes_are_no_shots():
    """What is said of them names the inner step: each collects as many."""
    stated = {"dataset": "navigation2d", "evaluation.shots": 20, "evaluation.queries": 40, "evaluation.tasks": 8}
    assert words(stated) == "navigation2d test, 20-shot, 8 tasks, 40 queries"
    episodes = stated | {"examples": "episodes"}
    assert words(episodes) == "navigation2d test, 20 episodes for each inner step, 8 tasks, 40 to measure"
    assert words(episodes, ["evaluation.shots"]) == "navigation2d test, 8 tasks, 40 to measure"


@pytest.mark.parametrize("key", ["surrogate", "clip", "discount", "baseline", "standardise", "environment"])
def test_how_a_policy_learns_parts_nothing(tmp_path, key):
    """A clipped step changes a setting of the problem besides; the tasks and the return are the same."""
    for algorithm, value in (("maml", "one"), ("fomaml", "another")):
        problem = {"_target_": "PolicyGradient", key: {"horizon": value} if key == "environment" else value}
        write_run(tmp_path, SCORES, algorithm=algorithm, name=algorithm, **{"dataset.problem": problem})
    (difference,) = paired(tmp_path).differences
    assert difference.words == "4 tasks, seed 0"


def test_other_problems_are_never_mixed(tmp_path):
    for algorithm, value in (("maml", "PolicyGradient"), ("fomaml", "Mine")):
        write_run(tmp_path, SCORES, algorithm=algorithm, name=algorithm, **{"dataset.problem": {"_target_": value}})
    assert comparison(tmp_path).parted_by == ("dataset.problem._target_: Mine in 1 run, PolicyGradient in 1 run",)
