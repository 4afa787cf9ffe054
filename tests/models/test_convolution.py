"""metarun.models.convolution: products give what PyTorch's convolutions give, with all derivatives, lifted over tasks or not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_leaves, tree_map

from metarun.maths.structures import tensors_of
from metarun.models import convolution
from metarun.models.conv4 import Conv4
from metarun.models.convolution import by_products, faster_as_products
from metarun.models.functions import RightFunctions
from metarun.models.learner import Learner
from metarun.problems.classification import Classification
from metarun.tasks.types import Examples, TaskBatch
from metarun.training.program import compiled
from tests.calls import meta_step, sorted_theta

pytestmark = pytest.mark.usefixtures("float64")

# Images [S, C, ...], weights [O, C, ...], and what a convolution is asked for.
CASES = {
    "3x3": ((2, 3, 7, 6), (4, 3, 3, 3), {}),
    "3x3, padded, as in conv4": ((2, 3, 7, 6), (4, 3, 3, 3), {"padding": 1, "stride": 2}),
    "a number for all axes": ((2, 3, 7, 6), (4, 3, 3, 3), {"padding": (1,), "stride": (2,), "dilation": [1]}),
    "another for each axis": ((2, 2, 9, 8), (3, 2, 2, 3), {"padding": (0, 2), "stride": (3, 1), "dilation": (2, 1)}),
    "same": ((2, 2, 6, 5), (3, 2, 3, 5), {"padding": "same"}),
    "same, of even kernels and dilation": ((2, 2, 9, 8), (3, 2, 4, 2), {"padding": "same", "dilation": (1, 3)}),
    "valid": ((2, 2, 6, 5), (3, 2, 3, 2), {"padding": "valid", "stride": 2}),
    "1x1": ((3, 4, 5, 5), (2, 4, 1, 1), {}),
    "1x1 with a stride": ((3, 4, 5, 5), (2, 4, 1, 1), {"stride": 2}),
    "1x1, padded": ((3, 4, 5, 5), (2, 4, 1, 1), {"padding": 1}),
    "as large as the image": ((3, 2, 9, 9), (4, 2, 9, 9), {}),
    "a row and a column left over": ((1, 1, 8, 8), (1, 1, 3, 3), {"stride": 3}),
    "one image, no batch": ((3, 7, 6), (4, 3, 3, 3), {"padding": 1}),
    "signals": ((3, 2, 11), (4, 2, 3), {"padding": 2, "stride": 2, "dilation": 2}),
    "one signal": ((2, 11), (4, 2, 5), {"padding": "same"}),
    "volumes": ((2, 2, 4, 5, 6), (3, 2, 3, 2, 3), {"padding": (1, 0, 1), "stride": (1, 2, 1)}),
}
EACH_CASE = pytest.mark.parametrize("case", CASES)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def native_of(weight: tuple[int, ...]) -> Callable[..., Tensor]:
    return {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(weight)]


def product_alone(native: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """`by_products`, where the convolution itself may not be called."""

    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("the convolution itself was called")

    place = convolution.CONVOLUTIONS.index(native)
    with pytest.MonkeyPatch.context() as patch:
        natives = list(convolution.CONVOLUTIONS)
        natives[place] = refuse
        patch.setattr(convolution, "CONVOLUTIONS", tuple(natives))
        return by_products(refuse, *args, **kwargs)


@EACH_CASE
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_is_the_convolution(case, has_bias):
    images, weight, asked = CASES[case]
    native, bias = native_of(weight), normal(weight[0], seed=2) if has_bias else None
    arguments = normal(*images), normal(*weight, seed=1), bias
    expected, found = native(*arguments, **asked), product_alone(native, *arguments, **asked)
    torch.testing.assert_close(found, expected, **EXACT)
    assert found.is_contiguous()  # so that a model may `view` it, as it may what a convolution gives


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `vmap` gives, by a loop: PyTorch's own rule for a convolution's backward pass forgets strides given as `(2,)`."""

    def each(*arguments: Any) -> Any:
        leaves = tree_leaves(arguments)
        results = [function(*tree_map(lambda leaf, b=b: leaf[b], arguments)) for b in range(len(leaves[0]))]
        return tree_map(lambda *tensors: torch.stack(tensors), *results)

    return each


@EACH_CASE
def test_first_and_second_derivatives_are_the_convolutions_for_each_of_the_tasks(case):
    """Of <v, tanh(convolution)>, in images, weights and bias, reverse over reverse and forward over reverse, lifted by `vmap`."""
    images, weight, asked = CASES[case]
    native, tasks = native_of(weight), 3
    arguments = normal(tasks, *images), normal(tasks, *weight, seed=1), normal(tasks, weight[0], seed=2)
    directions = tuple(normal(*each.shape, seed=3) for each in arguments)
    v = normal(*native(*(each[0] for each in arguments), **asked).shape, seed=4)

    def derivatives(convolve: Callable[..., Tensor], lift: Callable[..., Any]) -> list[Tensor]:
        def first(*arguments: Tensor) -> tuple[Tensor, ...]:
            return grad(lambda *each: (v * torch.tanh(convolve(native, *each, **asked))).sum(), (0, 1, 2))(*arguments)

        def second(arguments: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return grad(lambda each: sum((a * b).sum() for a, b in zip(first(*each), along, strict=True)))(arguments)

        forward = jvp(lift(first), arguments, directions)[1]
        return [*lift(first)(*arguments), *lift(second)(arguments, directions), *forward]

    plain = derivatives(lambda native, *each, **asked: native(*each, **asked), one_by_one)
    for expected, found in zip(plain, derivatives(product_alone, vmap), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("shared", [0, 1])
def test_images_or_weights_that_all_tasks_share_are_lifted_too(shared):
    arguments = [normal(3, 2, 2, 6, 6), normal(3, 4, 2, 3, 3, seed=1)]
    arguments[shared] = arguments[shared][0]
    in_dims = [0, 0]
    in_dims[shared] = None
    found, expected = (
        vmap(convolve, tuple(in_dims))(*arguments)
        for convolve in (lambda x, w: product_alone(F.conv2d, x, w), F.conv2d)
    )
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize(
    ("images", "weight", "asked"),
    [
        ((2, 4, 6, 6), (4, 2, 3, 3), {"groups": 2}),
        ((1, 1, 30, 30), (1, 1, 7, 7), {"padding": 3}),  # 49 copies of the image
        ((0, 1, 5, 5), (1, 1, 3, 3), {}),
    ],
)
def test_what_would_not_pay_is_left_to_the_convolution(images, weight, asked):
    """To the bit: it is the same call."""
    arguments = normal(*images), normal(*weight, seed=1)
    assert torch.equal(by_products(F.conv2d, *arguments, **asked), F.conv2d(*arguments, **asked))
    with pytest.raises(AssertionError, match="itself was called"):
        product_alone(F.conv2d, *arguments, **asked)


@pytest.mark.parametrize(
    ("images", "weight", "asked"),
    [
        ((2, 3, 6, 6), (4, 2, 3, 3), {}),
        ((2, 2, 2, 2), (4, 2, 3, 3), {}),
        ((2, 2, 6, 6), (4, 2, 3, 3), {"padding": "same", "stride": 2}),
        ((2, 2, 6, 6), (4, 2, 3, 3), {"stride": 0}),
        ((2, 2, 6, 6), (4, 2, 3, 3), {"padding": -1}),
        ((2, 2, 6, 6), (4, 2, 3, 3), {"padding": "reflect"}),
        ((2, 2, 6, 6), (4, 2, 3, 3), {"stride": (1, 2, 3)}),
        ((2, 6), (4, 2, 3, 3), {}),
    ],
)
def test_what_does_not_fit_is_said_in_pytorchs_own_words(images, weight, asked):
    arguments = normal(*images), normal(*weight, seed=1)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        F.conv2d(*arguments, **asked)
    with pytest.raises(type(expected.value)) as found:
        by_products(F.conv2d, *arguments, **asked)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    ("images", "weight", "asked", "copies"),
    [
        ((2, 4, 8, 8), (3, 4, 3, 3), {"padding": 1}, 9),
        ((2, 4, 8, 8), (3, 4, 3, 3), {"padding": 1, "stride": 2}, 9 / 4),
        ((2, 4, 8, 8), (3, 4, 1, 1), {}, 1),
        ((2, 4, 8, 8), (3, 4, 8, 8), {}, 1),
    ],
)
def test_what_is_kept_for_the_backward_pass_is_the_windows_and_the_kernel(images, weight, asked, copies):
    """k numbers for each place of a window: the number of the image's own, times the kernel's size, over the strides."""
    x, w = normal(*images).requires_grad_(), normal(*weight, seed=1).requires_grad_()
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = product_alone(F.conv2d, x, w, **asked)
    del outputs
    assert sum(kept.values()) == 8 * (copies * x.numel() + w.numel())


def test_a_gpu_has_products_and_a_cpu_convolutions():
    assert faster_as_products(torch.device("cuda")) and not faster_as_products(torch.device("cpu"))
    images, weight = normal(1, 2, 6, 6), normal(3, 2, 3, 3, seed=1)
    for products, used in ((None, set()), (False, set()), (True, {"convolution"})):
        functions = RightFunctions(products)
        with functions:
            F.conv2d(images, weight)
        assert functions.used == used and functions.convolves
        assert functions.matters_on(torch.device("cpu")) == bool(products)
        assert functions.matters_on(torch.device("cuda")) == (products is not False)
    plain = RightFunctions()
    with plain:
        F.linear(images, normal(2, 6))
    assert not plain.matters_on(torch.device("cuda"))


def test_every_call_of_a_module_is_seen():
    class Calls(nn.Module):
        """By layer, by function with names and without, padded by mirrored pixels, and viewed as a convolution's outputs are."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
            self.weight = nn.Parameter(normal(2, 2, 3, 3))
            self.signal = nn.Conv1d(2, 2, 3)
            self.head = nn.Linear(2 * 14, 2)

        def forward(self, images: Tensor) -> Tensor:
            hidden = F.conv2d(input=self.layer(images).tanh(), weight=self.weight, stride=1)
            hidden = torch.conv2d(hidden, self.weight, padding=1)
            signals = self.signal(hidden.view(len(images), 2, -1))
            return self.head(signals.view(len(images), -1))

    module, images = Calls().double(), normal(5, 1, 6, 6)
    expected = module(images)
    learner = Learner(module, products=True)
    learner.check(images, 2)  # compares outputs and gradients with the module's own
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarun.models.functions.by_products", lambda *a, **k: calls.append(0) or by_products(*a, **k))
        torch.testing.assert_close(learner(learner.init(dtype=torch.float64), images), expected, **EXACT)
    assert len(calls) == 4
    assert learner.exchanged == ["convolution"]


def test_a_step_by_products_is_traced_to_the_bit(algorithm_of):
    """It asks for no value, so that it can be one program, or one graph of a GPU."""
    algorithm = algorithm_of("maml", {"inner": {"steps": 2, "step_size": 0.1}})
    examples = [Examples(normal(3, 4, 1, 8, 8, seed=s), (torch.arange(4) % 2).expand(3, 4), 2) for s in (5, 6)]
    tasks = TaskBatch(*examples, {})
    torch.manual_seed(0)
    learner = Learner(Conv4(input_shape=(1, 8, 8), num_outputs=2, width=3), products=True)
    problem = Classification(learner)
    theta = sorted_theta(algorithm, learner.init(dtype=torch.float64), problem)

    def gradient(leaves: list[Tensor], tasks: TaskBatch) -> list[Tensor]:
        of_leaves = theta.updated(dict(zip(theta, leaves, strict=True)))
        estimate = algorithm.meta_step(theta=of_leaves, problem=problem, tasks=tasks, task_chunk=3)
        return list(estimate.gradient.values())

    leaves = list(theta.values())
    program = compiled(gradient, leaves, tasks, backend="eager")
    found = program(tensors_of(leaves), *tensors_of(tasks))
    for name, one, other in zip(theta, found, gradient(leaves, tasks), strict=True):
        assert torch.equal(one, other), name
    assert learner.exchanged == ["convolution"]


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("maml", {"inner": {"steps": 2, "step_size": 0.1}}),
        ("imaml", {"inner": {"steps": 3}, "meta_gradient": {"solver": {"steps": 3}}}),
    ],
)
def test_a_meta_gradient_of_conv4_is_that_by_convolutions(name, settings, downsample, algorithm_of):
    """1e-10: rounding, as the inner steps and the linear system enlarge it."""
    algorithm = algorithm_of(name, settings)

    def examples(seed: int) -> Examples:
        return Examples(normal(3, 4, 1, 16, 16, seed=seed), (torch.arange(4) % 2).expand(3, 4), 2)

    tasks, found = TaskBatch(examples(5), examples(6), {}), {}
    for products in (True, False):
        torch.manual_seed(0)
        learner = Learner(
            Conv4(input_shape=(1, 16, 16), num_outputs=2, width=6, downsample=downsample), products=products
        )
        theta = learner.init(dtype=torch.float64)
        found[products] = meta_step(algorithm, theta, Classification(learner), tasks).gradient
        assert ("convolution" in learner.exchanged) == products
    for leaf, expected in found[False].items():
        size = expected.norm()
        assert (found[True][leaf] - expected).norm() <= 1e-10 * size + 1e-14, leaf
