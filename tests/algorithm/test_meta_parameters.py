"""theta, sorted: which leaves the inner loop starts from, which the optimizer moves, and in which order."""

import pytest
import torch

from metarun.algorithm.meta_parameters import MetaParameters

MODEL = {name: torch.full((2,), float(i)) for i, name in enumerate(("a", "b", "c", "d"))}


def record(adapted=("b", "d"), unlearned=("c", "d")) -> MetaParameters:
    return MetaParameters.of_model(
        MODEL,
        adapted=list(adapted),
        unlearned=list(unlearned),
        solver={"rate/b": torch.tensor(0.5)},
        regulariser={"all": torch.tensor(1.0)},
    )


def test_each_leaf_has_one_place():
    theta = record()
    groups = theta.adapted, theta.fixed, theta.context, theta.frozen
    assert [list(group) for group in groups] == [["b"], ["a"], ["d"], ["c"]]
    assert list(theta.start) == ["b", "d"]
    assert list(theta.shared) == ["a", "c"]
    assert list(theta.unlearned) == ["d", "c"]


def test_the_optimizer_sees_the_models_order_and_then_what_is_learned_beside_it():
    theta = record(adapted=("b", "d"), unlearned=())
    assert list(theta) == ["a", "b", "c", "d", "inner/rate/b", "proximal_weight/all"]
    assert len(theta) == 6
    assert theta["inner/rate/b"] is theta.solver["rate/b"]
    assert list(record()) == ["a", "b", "inner/rate/b", "proximal_weight/all"]


def test_leaves_of_a_graph_are_the_learned_ones():
    theta = record().expand(3).detached(requires_grad=True)
    assert all(leaf.requires_grad and len(leaf) == 3 for leaf in theta.values())
    assert not any(leaf.requires_grad for leaf in theta.unlearned.values())


def test_other_values_go_under_their_names():
    theta = record().updated({"a": torch.ones(2), "d": torch.full((2,), 9.0), "inner/rate/b": torch.tensor(7.0)})
    assert theta["a"].tolist() == [1.0, 1.0]
    assert theta.context["d"].tolist() == [9.0, 9.0]
    assert theta.solver["rate/b"].item() == 7.0
    assert theta["b"] is MODEL["b"]


def test_a_model_without_anything_to_learn_is_refused():
    with pytest.raises(ValueError, match="not_meta_learned names every parameter"):
        MetaParameters.of_model(MODEL, adapted=["a"], unlearned=list(MODEL), solver={}, regulariser={})


def test_names_that_are_ours_are_refused():
    with pytest.raises(ValueError, match="inner/x has a name that the algorithm uses itself"):
        MetaParameters.of_model({"inner/x": MODEL["a"]}, adapted=["inner/x"], unlearned=[], solver={}, regulariser={})
