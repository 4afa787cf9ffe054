"""metarun.tasks.stored_regression: tasks are rows of one group, none in both sets, each a function of (seed, split, index)."""

import pytest
import torch

from metarun.tasks.stored_regression import StoredRegression
from metarun.training.drawing import Drawing
from metarun.training.program_steps import is_drawn_in_a_program

from .test_table import kinds, people, regressions, store_of


def test_a_regression_task_is_the_rows_that_its_latent_names(tmp_path):
    source = StoredRegression(store=regressions(people(tmp_path / "r.csv")))
    assert (source.input_shape, source.output_size) == ((2,), 1)
    batch = source.sample(3, "train", torch.arange(50), 3, 4)
    training = set(source.store.names("train"))
    seen = set()
    for task in range(50):
        name = source.store.classes[batch.latent["task"][task]]
        t = int(name[1:])
        seen.add(name)
        for part, which in ((batch.support_set, "support_rows"), (batch.query_set, "query_rows")):
            rows = batch.latent[which][task].tolist()
            assert part.inputs[task].tolist() == [[100 * t + k, k] for k in rows]
            assert part.targets[task].tolist() == [[1000 * t + k] for k in rows]
        both = torch.cat([batch.latent["support_rows"][task], batch.latent["query_rows"][task]])
        assert len(set(both.tolist())) == 7, "no row is in both sets"
    assert seen == training, "each of six tasks, in fifty draws (missed by one in 6 (5/6)^50 = 1/1500 seeds)"


def test_more_shots_move_neither_the_tasks_nor_the_queries(tmp_path):
    source = StoredRegression(store=regressions(people(tmp_path / "r.csv")))
    few, many = (source.sample(3, "test", torch.arange(9), shots, 4) for shots in (1, 4))
    for key in ("task", "query_rows"):
        assert torch.equal(few.latent[key], many.latent[key])
    assert torch.equal(few.support_set.inputs, many.support_set.inputs[:, :1])
    one = source.sample(3, "test", torch.tensor([7]), 4, 4)
    assert torch.equal(one.query_set.inputs[0], many.query_set.inputs[7])


def test_tasks_and_rows_are_alike_probable(tmp_path):
    """Of 6000 draws each of six tasks has 1000 with deviation 29, each of eight rows 750 with 26: within five of them."""
    source = StoredRegression(store=regressions(people(tmp_path / "r.csv")))
    latent = source.sample(0, "train", torch.arange(6000), 1, 1).latent
    _, tasks = latent["task"].unique(return_counts=True)
    assert len(tasks) == 6 and (tasks - 1000).abs().max() < 5 * 29
    for which in ("support_rows", "query_rows"):
        _, rows = latent[which].unique(return_counts=True)
        assert len(rows) == 8 and (rows - 750).abs().max() < 5 * 26


def test_a_split_that_cannot_give_the_tasks_is_refused(tmp_path):
    path = people(tmp_path / "r.csv")
    source = StoredRegression(store=regressions(path))
    message = r"5 shots \+ 4 queries need 9 examples per task, but in split test 2 of 2 tasks have fewer, p\d the fewest with 8"
    with pytest.raises(ValueError, match=message):
        source.check("test", 5, 4)
    with pytest.raises(ValueError, match="split val has no task: 10 are there"):
        StoredRegression(store=regressions(path, split_fractions=[1, 0, 0])).check("val", 1, 1)
    with pytest.raises(ValueError, match="a regression needs targets"):
        StoredRegression(store=store_of(kinds(tmp_path / "t.csv")))


def test_tasks_are_drawn_in_the_program_of_a_step(tmp_path):
    source = StoredRegression(store=regressions(people(tmp_path / "r.csv")))
    settings = {"device": torch.device("cpu"), "dtype": torch.float32}
    assert is_drawn_in_a_program(Drawing(source=source, seed=0, size=3, shots=2, queries=4, **settings), 4)
