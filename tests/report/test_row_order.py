"""metarun.report.row_order: rows in the order that was asked for."""

import pytest

from metarun.errors import ConfigurationError

from .made import comparison, only_grid, write_run


@pytest.fixture
def runs(tmp_path):
    """Scores of 40, 60 and 50 percent after 5 steps, and 30, 20 and 10 before; anil has none; maml trains longest."""
    for number, (algorithm, before, after) in enumerate(
        (("fomaml", 0.3, 0.4), ("maml", 0.2, 0.6), ("imaml", 0.1, 0.5))
    ):
        write_run(tmp_path, {0: [before] * 4, 5: [after] * 4}, algorithm=algorithm, seed=number)
    write_run(tmp_path, {}, algorithm="maml", name="begun", seed=7, **{"choices.algorithm": "anil"})
    return tmp_path


def names(root, sort, **options) -> list[str]:
    return [label[0] for label in only_grid(root, sort=sort, **options).row_labels]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (None, "anil fomaml imaml maml"),
        ("algorithm", "anil fomaml imaml maml"),
        ("algorithm:desc", "maml imaml fomaml anil"),
        ("score", "maml imaml fomaml anil"),  # the best first, what has none last either way
        ("accuracy", "maml imaml fomaml anil"),
        ("score:asc", "fomaml imaml maml anil"),
        ("score:desc", "maml imaml fomaml anil"),
        ("train_s", "fomaml maml imaml anil"),  # 10 s and the seed
        ("train_s:desc", "imaml maml fomaml anil"),
        ("seeds:desc", "fomaml imaml maml anil"),
    ],
)
def test_orders(runs, sort, expected):
    assert names(runs, sort) == expected.split()


def test_of_an_error_the_least_is_the_best(tmp_path):
    for algorithm, score in (("fomaml", 3.0), ("maml", 1.0), ("imaml", 2.0)):
        write_run(tmp_path, {5: [score] * 4}, algorithm=algorithm, score="mse")
    assert names(tmp_path, "score") == ["maml", "imaml", "fomaml"]
    assert names(tmp_path, "score:desc") == ["fomaml", "imaml", "maml"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("0", "fomaml maml imaml anil"),
        ("inner_steps=5", "maml imaml fomaml anil"),
        ("inner_steps=0:asc", "imaml maml fomaml anil"),
    ],
)
def test_by_a_column(runs, sort, expected):
    assert names(runs, sort, columns=["inner_steps"]) == expected.split()


def test_numbers_are_ordered_by_size(tmp_path):
    for lr in (2.0, 10.0, 1.0):
        write_run(tmp_path, {5: [0.5] * 4}, **{"optimizer.lr": lr})
    assert names(tmp_path, "optimizer.lr:desc") == ["10", "2", "1"]


def test_what_is_no_order(runs):
    with pytest.raises(ConfigurationError, match="--sort has no 'speed'; there are algorithm, score, over_seeds, "):
        comparison(runs, sort="speed")
    with pytest.raises(
        ConfigurationError, match="must say of which column: --sort inner_steps=0; --sort inner_steps=5"
    ):
        comparison(runs, sort="score", columns=["inner_steps"])


def test_each_table_is_ordered_for_itself(tmp_path):
    """By a key that one of them alone has."""
    for lr in (1.0, 2.0):
        write_run(tmp_path, {5: [0.5] * 4}, **{"optimizer.lr": lr})
    for algorithm in ("maml", "fomaml"):
        write_run(tmp_path, {5: [0.5] * 3}, name=algorithm, algorithm=algorithm, **{"evaluation.tasks": 3})
    orders = {grid.rows: grid.row_labels for grid in comparison(tmp_path, sort="optimizer.lr:desc").grids}
    assert orders == {("optimizer.lr",): [("2",), ("1",)], ("algorithm",): [("fomaml",), ("maml",)]}
