"""Named tensors: each operation against its definition."""

import torch

from metarun.maths import trees


def leaves() -> trees.Params:
    return {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[[5.0]], [[6.0]]])}


def test_expand_repeats_as_a_view():
    theta = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    expanded = trees.expand(theta, 4)
    assert expanded["a"].tolist() == [[1.0, 2.0]] * 4
    assert expanded["b"].tolist() == [3.0] * 4
    assert expanded["a"].data_ptr() == theta["a"].data_ptr()


def test_detached_cuts_the_graph_and_keeps_the_original():
    leaf = torch.tensor([2.0], requires_grad=True)
    product = {"a": leaf * 3}
    cut = trees.detached(product)
    assert not cut["a"].requires_grad
    fresh = trees.detached(product, requires_grad=True)
    assert fresh["a"].is_leaf
    assert fresh["a"].requires_grad
    assert product["a"].grad_fn is not None


def test_arithmetic():
    y = {name: torch.ones_like(leaf) for name, leaf in leaves().items()}
    shifted = trees.axpy(2.0, leaves(), y)
    assert shifted["a"].tolist() == [[3.0, 5.0], [7.0, 9.0]]
    assert shifted["b"].tolist() == [[[11.0]], [[13.0]]]
    assert trees.norm({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}).item() == 5.0
    assert trees.norm_per_task({"a": torch.tensor([[3.0], [6.0]]), "b": torch.tensor([[4.0], [8.0]])}).tolist() == [
        5,
        10,
    ]


def test_unravel_inverts_ravel():
    rows = trees.ravel(leaves())
    assert rows.tolist() == [[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]]
    back = trees.unravel(rows, leaves())
    assert list(back) == ["a", "b"]
    for name, leaf in leaves().items():
        assert torch.equal(back[name], leaf)


def cubes(params: trees.Params) -> torch.Tensor:
    return (params["a"] ** 3).sum(1)


def test_gradient_of_plain_tensors_has_no_graph():
    params = leaves()
    result = trees.gradient(cubes, params)
    assert torch.equal(result["a"], 3 * params["a"] ** 2)
    assert torch.equal(result["b"], torch.zeros(2, 1, 1))  # a leaf that does not matter
    assert not any(leaf.requires_grad for leaf in result.values())
    assert not any(leaf.requires_grad for leaf in params.values())


def test_gradient_is_differentiable_when_its_argument_is():
    theta = torch.tensor([[2.0, 3.0]], requires_grad=True)
    result = trees.gradient(cubes, {"a": theta * 2})
    (second,) = torch.autograd.grad(result["a"].sum(), theta)
    assert torch.equal(second, 2 * 6 * (2 * theta.detach()))


def test_gradient_works_where_autograd_is_off():
    with torch.no_grad():
        result = trees.gradient(cubes, leaves())
    assert torch.equal(result["a"], 3 * leaves()["a"] ** 2)
