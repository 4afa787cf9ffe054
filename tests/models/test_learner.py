"""A user's module becomes a learner, or is refused with the layer's name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun import rng
from metarun.algorithm import Algorithm
from metarun.models.conv4 import Conv4
from metarun.models.learner import Learner
from metarun.models.norm import TaskBatchNorm, statistics_of_first
from metarun.problems.classification import Classification
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import meta_step


class Block(nn.Module):
    """A user's module, as a user writes it."""

    def __init__(self, norm: nn.Module, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU())
        self.extra = extra or nn.Identity()
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.extra(self.body(images)).mean((2, 3)))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_batch_norm_is_replaced_and_keeps_its_values():
    norm = nn.BatchNorm2d(4, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    module = Block(norm).double()
    weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()
    names = [name for name, _ in module.named_parameters()]
    x = images(5, 1, 6, 6)
    expected = module.train()(x)
    learner = Learner(module)
    assert learner.replaced_norms == ["body.1"]
    assert isinstance(module.body[1], TaskBatchNorm)
    theta = learner.init(dtype=torch.float64)
    assert list(theta) == names
    assert torch.equal(theta["body.1.weight"], weight)
    assert torch.equal(theta["body.1.bias"], bias)
    torch.testing.assert_close(learner(theta, x), expected, rtol=1e-12, atol=1e-14)
    assert learner.batch_norm == "transductive"


def test_a_weight_that_two_layers_share_is_one_parameter():
    """x W W: the second layer follows the first in value and in gradient, d/dW sum(x W W) = x 1' W' + (x W) 1'."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Linear(3, 3, bias=False) for _ in range(2))
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.second(self.first(inputs))

    learner = Learner(Shared().double())
    assert list(learner.init()) == ["first.weight"]
    weight = images(3, 3).requires_grad_()
    x = images(1, 3, seed=1)
    outputs = learner({"first.weight": weight}, x)
    torch.testing.assert_close(outputs, x @ weight.T @ weight.T, rtol=1e-14, atol=1e-15)
    (slope,) = torch.autograd.grad(outputs.sum(), weight)
    ones = torch.ones(1, 3, dtype=torch.float64)
    torch.testing.assert_close(slope, (ones @ weight).T @ x + ones.T @ (x @ weight.T), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (7, 3)), (nn.BatchNorm1d, (7, 3, 4)), (nn.BatchNorm3d, (5, 3, 2, 2, 2))]
)
def test_task_batch_norm_is_batch_norm(kind, shape):
    norm, ours = kind(3).double(), TaskBatchNorm(3).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    norm.weight, norm.bias = ours.weight, ours.bias
    torch.testing.assert_close(ours(images(*shape)), norm(images(*shape)), rtol=1e-12, atol=1e-14)


def test_statistics_of_the_first_rows_alone():
    """Of the first three rows: rows 0-2 have mean 0 and variance 1 / (1 + eps / var); others are mapped alike."""
    norm, x = TaskBatchNorm(2).double(), images(7, 2)
    mean, variance = x[:3].mean(0), x[:3].var(0, unbiased=False)
    with statistics_of_first(3):
        found = norm(x)
    torch.testing.assert_close(found, (x - mean) / (variance + 1e-5).sqrt(), rtol=1e-12, atol=1e-14)


def test_a_module_without_batch_norm_has_no_mode():
    learner = Learner(nn.Linear(2, 1), "support")
    assert learner.batch_norm == "none"
    assert learner.replaced_norms == []
    x = images(3, 2)
    assert torch.equal(learner(learner.init(dtype=torch.float64), x, x), learner(learner.init(dtype=torch.float64), x))


def test_init_copies():
    module = nn.Linear(2, 1)
    learner = Learner(module)
    theta = learner.init()
    before = module.weight.detach().clone()
    theta["weight"].add_(1)
    assert torch.equal(module.weight, before)
    assert learner.num_parameters == 3
    assert learner.init(dtype=torch.float32)["weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Block(nn.Identity(), nn.Dropout(0.1)), r"layer extra \(Dropout\).*set p to 0"),
        (lambda: Block(nn.Dropout2d(0.5)), r"layer body\.1 \(Dropout2d\)"),
        (lambda: Block(nn.InstanceNorm2d(4, track_running_stats=True)), r"layer body\.1: .*track_running_stats"),
        (lambda: nn.BatchNorm1d(3), "itself a batch norm"),
        (nn.ReLU, r"\(ReLU\) has no parameters"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(module, message):
    with pytest.raises(ValueError, match=message):
        Learner(module())


def test_harmless_layers_are_taken():
    Learner(Block(nn.Identity(), nn.Dropout(0.0))).check(torch.rand(3, 1, 5, 5), 2)
    Learner(Block(nn.InstanceNorm2d(4))).check(torch.rand(3, 1, 5, 5), 2)
    Learner(Block(nn.GroupNorm(2, 4))).check(torch.rand(3, 1, 5, 5), 2)


def test_unknown_batch_norm_mode():
    with pytest.raises(ValueError, match="batch_norm must be one of transductive, support, got 'eval'"):
        Learner(Block(nn.BatchNorm2d(4)), "eval")


class Counting(nn.Linear):
    """Writes a buffer at each call, in place or by assignment."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(3, 2)
        self.in_place = in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return super().forward(x)


class Noisy(nn.Linear):
    """Dropout that no layer shows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_module_that_writes_its_buffers_is_refused(in_place):
    with pytest.raises(ValueError, match=r"\(Counting\) writes its buffers calls"):
        Learner(Counting(in_place)).check(torch.rand(3, 3), 2)


def test_a_module_that_is_not_a_function_is_refused():
    with pytest.raises(ValueError, match=r"\(Noisy\).*must be deterministic"):
        Learner(Noisy(30, 2)).check(torch.rand(3, 30), 2)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((3,), 5, r"must give outputs of shape \(3, 5\), got \(3, 2\)"),
        ((4,), 2, r"does not take inputs of shape \(3, 4\)"),
    ],
)
def test_a_module_that_does_not_fit_its_data_is_named(shape, size, message):
    with pytest.raises(ValueError, match=r"the model \(Linear\) " + message):
        Learner(nn.Linear(3, 2)).check(torch.rand(3, *shape), size)


def conv_logits(batch_norm: str, support: Tensor, query: Tensor) -> Tensor:
    with rng.seeded_construction(0, "test"):
        learner = Learner(Conv4(input_shape=(1, 8, 8), num_outputs=3, width=4), batch_norm).to("cpu", torch.float64)
    return learner(learner.init(dtype=torch.float64), query, support)


def test_one_query_image_and_the_others():
    """S5: with support statistics a prediction is a function of support and image; with transductive ones it is not."""
    support, query = images(6, 1, 8, 8), images(4, 1, 8, 8, seed=1)
    others = torch.cat([query[:1], images(3, 1, 8, 8, seed=2)])
    inductive, changed = conv_logits("support", support, query), conv_logits("support", support, others)
    torch.testing.assert_close(changed[0], inductive[0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(conv_logits("support", support, query[:1])[0], inductive[0], rtol=1e-12, atol=1e-13)
    assert (changed[1:] - inductive[1:]).abs().min() > 1e-4
    assert (conv_logits("support", images(6, 1, 8, 8, seed=3), query)[0] - inductive[0]).abs().max() > 1e-3

    transductive, changed = conv_logits("transductive", support, query), conv_logits("transductive", support, others)
    assert (changed[0] - transductive[0]).abs().max() > 1e-3
    assert torch.equal(conv_logits("transductive", images(6, 1, 8, 8, seed=3), query), transductive)


def test_support_statistics_leave_no_trace():
    """The mode is set for the length of a call, also of one that fails."""
    module = Conv4(input_shape=(1, 8, 8), num_outputs=3, width=4)
    learner = Learner(module, "support").to("cpu", torch.float64)
    theta = learner.init(dtype=torch.float64)
    learner(theta, images(4, 1, 8, 8), images(6, 1, 8, 8))
    with pytest.raises(RuntimeError):
        learner(theta, images(4, 2, 8, 8), images(6, 2, 8, 8))
    query = images(6, 1, 8, 8, seed=1)
    assert torch.equal(learner(theta, query), Learner(copy.deepcopy(module))(theta, query))


def test_max_pool_needs_sixteen_pixels():
    assert Conv4(input_shape=(1, 16, 16), num_outputs=3, width=4, downsample="max_pool").head.in_features == 4
    with pytest.raises(ValueError, match=r"at least 16x16, got \(1, 15, 15\)"):
        Conv4(input_shape=(1, 15, 15), num_outputs=3, width=4, downsample="max_pool")


def test_only_group_norm_binds_the_width():
    assert Conv4(input_shape=(1, 8, 8), num_outputs=3, width=5).head.in_features == 5
    with pytest.raises(ValueError, match="divisible"):
        Conv4(input_shape=(1, 8, 8), num_outputs=3, width=5, norm="group")


def test_construction_is_seeded_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    with rng.seeded_construction(3, "init"):
        first = nn.Linear(4, 4).weight
    assert torch.equal(torch.get_rng_state(), before)
    with rng.seeded_construction(3, "init"):
        again = nn.Linear(4, 4).weight
    with rng.seeded_construction(4, "init"):
        other = nn.Linear(4, 4).weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ZeroDivisionError), rng.seeded_construction(3, "init"):
        torch.rand(1)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["maml", "fomaml", "imaml"])
def test_a_meta_step_leaves_the_global_generator_and_the_module_alone(name, algorithm_of):
    with rng.seeded_construction(0, "test"):
        module = Conv4(input_shape=(1, 8, 8), num_outputs=2, width=4)
    learner = Learner(module).to("cpu", torch.float64)
    theta = learner.init(dtype=torch.float64)
    kept = {key: leaf.clone() for key, leaf in theta.items()}
    algorithm: Algorithm = algorithm_of(name, {"inner": {"steps": 2, "step_size": 0.01}})
    targets = torch.tensor([0, 1, 0, 1]).expand(2, 4)
    tasks = TaskBatch(Examples(images(2, 4, 1, 8, 8), targets), Examples(images(2, 4, 1, 8, 8, seed=1), targets), {})
    before = torch.get_rng_state()
    meta_step(algorithm, theta, Classification(learner), tasks)
    assert torch.equal(torch.get_rng_state(), before)
    for key, parameter in module.named_parameters():
        assert torch.equal(parameter, kept[key])
        assert parameter.grad is None
        assert torch.equal(theta[key], kept[key])
        assert not theta[key].requires_grad
        assert theta[key].grad is None
