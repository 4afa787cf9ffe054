"""metarun.maths.loops: one loop, taken three ways to the same bits."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metarun.device.course import Course, course
from metarun.maths.loops import repeat, with_constants_as_inputs
from metarun.maths.structures import tensors_of, with_tensors


def halved_until_below_one(start: Tensor, times: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Each number halved until it is below 1, and how often; `weights` comes from around the loop."""

    def step(state: tuple[Tensor, Tensor], number: int | Tensor) -> tuple[Tensor, Tensor]:
        value, count = state
        goes_on = value >= 1
        return torch.where(goes_on, value / 2 * weights, value), count + goes_on

    state = start, torch.zeros(len(start), dtype=torch.int64)
    return repeat(step, state, times, ended=lambda state: state[0] < 1)


START = torch.tensor([0.5, 1.0, 5.0, 1024.0])


@pytest.mark.parametrize("times", [0, 1, 3, 20])
@pytest.mark.parametrize("chosen", list(Course))
def test_every_course_comes_to_the_same(chosen, times):
    expected = [min(times, count) for count in (0, 1, 3, 11)]
    with course(chosen):
        value, count = halved_until_below_one(START, times, torch.ones(4))
    assert count.tolist() == expected
    assert torch.equal(value, START / 2 ** torch.tensor(expected))


@pytest.mark.parametrize("chosen", [Course.STATIC, Course.ROLLED])
def test_a_traced_loop_is_that_of_other_numbers(chosen):
    """What the loop takes from around it is no constant of the program, nor is the number of its steps."""
    with course(chosen):
        traced = make_fx(lambda start, weights: halved_until_below_one(start, 20, weights))(START, torch.ones(4))
    other, weights = torch.tensor([64.0, 3.0, 0.1, 2.0]), torch.tensor([1.0, 0.5, 1.0, 1.0])
    found = traced(other, weights)
    for one, two in zip(found, halved_until_below_one(other, 20, weights), strict=True):
        assert torch.equal(one, two)
    operations = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    assert operations.count("while_loop") == (chosen is Course.ROLLED)


def test_a_loop_in_a_loop_is_rolled_too():
    def run(start: Tensor, factor: Tensor) -> Tensor:
        def outer(state: Tensor, number: int | Tensor) -> Tensor:
            return repeat(lambda inner, _: inner * factor, state + number, 3)

        return repeat(outer, start, 4)

    with course(Course.ROLLED):
        traced = make_fx(run)(torch.zeros(2), torch.zeros(2))
    start, factor = torch.ones(2), torch.tensor([2.0, 3.0])
    assert torch.equal(traced(start, factor), run(start, factor))
    assert (
        len([node for node in traced.graph.nodes if "while_loop" in str(node.target)]) == 3
    )  # two graphs and the loop


def test_a_gradient_within_a_loop_and_a_graph_around_it():
    """Products with a Hessian whose graph is made before the loop: x <- (H x) / |H x|, here with H = 2 diag(a)."""

    def power(a: Tensor, x: Tensor) -> Tensor:
        leaf = torch.zeros_like(a, requires_grad=True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad((a * leaf**2).sum(), leaf, create_graph=True)

        def step(x: Tensor, number: int | Tensor) -> Tensor:
            (product,) = torch.autograd.grad(gradient, leaf, x, retain_graph=True)
            return product / torch.linalg.vector_norm(product)

        return repeat(step, x, 6)

    with course(Course.ROLLED):
        traced = make_fx(power)(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    a, x = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    exact = a**6 / torch.linalg.vector_norm(a**6)
    torch.testing.assert_close(traced(a, x), exact, rtol=1e-14, atol=0)
    torch.testing.assert_close(power(a, x), exact, rtol=1e-14, atol=0)


def test_what_has_a_graph_is_written_out():
    x = torch.tensor([1.1], requires_grad=True)
    with course(Course.ROLLED):
        end = repeat(lambda state, number: state * state, x, 3)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    torch.testing.assert_close(gradient, 8 * x.detach() ** 7)


def test_what_takes_a_graph_from_around_it_is_written_out():
    x = torch.tensor([1.5], requires_grad=True)
    with course(Course.ROLLED):
        end = repeat(lambda state, number: state * x, torch.ones(1), 4)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    torch.testing.assert_close(gradient, 4 * x.detach() ** 3)


def test_constants_become_inputs():
    constant = torch.tensor([3.0])
    traced, held = with_constants_as_inputs(make_fx(lambda x: x * constant + constant)(torch.ones(1)))
    assert [tensor is constant for tensor in held] == [True]
    assert traced(torch.tensor([2.0]), torch.tensor([10.0])).tolist() == [30.0]


def test_structures_go_there_and_back():
    tree = {"a": torch.ones(1), "b": [(torch.zeros(2), None, "name")], "c": 3}
    tensors = tensors_of(tree)
    assert [len(tensor) for tensor in tensors] == [1, 2]
    back = with_tensors(tree, [torch.full((1,), 7.0), torch.full((2,), 8.0)])
    assert back["a"].tolist() == [7] and back["b"][0][0].tolist() == [8, 8] and back["b"][0][1:] == (None, "name")
    with pytest.raises(ValueError, match="more tensors"):
        with_tensors(tree, [*tensors, torch.ones(1)])
