"""metarun.training.optimizer_rule: a step as a function of tensors is the step of PyTorch's own class, or is refused."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from metarun.maths.structures import tensors_of, with_tensors
from metarun.training.optimizer import MakeOptimizer
from metarun.training.optimizer_rule import Memory, OptimizerRule, changing_settings, memory_of, remember
from metarun.training.program import NoProgram, compiled

pytestmark = pytest.mark.usefixtures("float64")

# Each step by another rate; a momentum of one step is told from that of another by it.
RATES = (0.01, 0.02, 0.005, 0.03, 0.0, 0.002, 0.04)
TRACED = {
    "Adam": ("Adam", {}),
    "Adam, decayed, amsgrad": ("Adam", {"weight_decay": 0.1, "amsgrad": True}),
    "AdamW": ("AdamW", {"weight_decay": 0.3}),
    "SGD": ("SGD", {}),
    "SGD, Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD, dampened": ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "Rprop": ("Rprop", {}),
}
# Their steps take the rate, or a number of their memory, for a number of Python.
REFUSED = {
    "Adamax": ("Adamax", {"weight_decay": 0.1}),
    "NAdam": ("NAdam", {"weight_decay": 0.1}),
    "RAdam": ("RAdam", {"betas": (0.5, 0.7)}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop, centred": ("RMSprop", {"centered": True, "momentum": 0.5}),
    "Adadelta": ("Adadelta", {}),
    "Adagrad": ("Adagrad", {"lr_decay": 0.1}),
    "ASGD": ("ASGD", {"t0": 2}),
}
ALL = TRACED | REFUSED


def made(which: str) -> MakeOptimizer:
    name, settings = ALL[which]
    return partial(getattr(torch.optim, name), lr=RATES[0], **settings)


def drawn(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,), (1,))]


class Own:
    """PyTorch's class after its first step."""

    def __init__(self, make: MakeOptimizer) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.leaves = [leaf.requires_grad_() for leaf in drawn(self.generator)]
        self.optimizer = make(self.leaves)
        self.step(RATES[0], drawn(self.generator))

    def step(self, rate: float, gradient: list[Tensor]) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        for leaf, given in zip(self.leaves, gradient, strict=True):
            leaf.grad = given.clone()
        self.optimizer.step()

    def state(self) -> tuple[list[Tensor], Memory]:
        memory = [{name: value.clone() for name, value in each.items()} for each in memory_of(self.optimizer)]
        return [leaf.detach().clone() for leaf in self.leaves], memory


def assert_equal(found: Any, expected: Any) -> None:
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def rule_of(which: str) -> Any:
    rule = OptimizerRule(made(which))

    def step(state: tuple[list[Tensor], Memory], gradient: list[Tensor], rate: Tensor) -> tuple[list[Tensor], Memory]:
        return rule(state[0], gradient, state[1], rate)

    return step


@pytest.mark.parametrize("which", ALL)
def test_six_steps_are_those_of_pytorchs_class(which):
    own, step = Own(made(which)), rule_of(which)
    state = own.state()
    for rate in RATES[1:]:
        gradient = drawn(own.generator)
        before = [tensor.clone() for tensor in tensors_of((state, gradient))]
        after = step(state, gradient, torch.tensor(rate))
        assert all(torch.equal(a, b) for a, b in zip(before, tensors_of((state, gradient)), strict=True))
        own.step(rate, gradient)
        assert_equal(after, own.state())
        assert not any(tensor.requires_grad for tensor in tensors_of(after))
        state = after


@pytest.mark.parametrize("which", TRACED)
def test_so_are_they_traced_from_one_step_and_taken_with_other_numbers(which):
    own, step = Own(made(which)), rule_of(which)
    state = own.state()
    program = compiled(step, state, drawn(torch.Generator().manual_seed(1)), torch.tensor(0.5), backend="eager")
    for rate in RATES[1:]:
        gradient = drawn(own.generator)
        state = with_tensors(state, program(tensors_of(state), *gradient, torch.tensor(rate)))
        own.step(rate, gradient)
        assert_equal(state, own.state())


@pytest.mark.parametrize("which", REFUSED)
def test_a_step_that_asks_for_values_is_refused(which):
    own = Own(made(which))
    with pytest.raises(NoProgram, match="depends on values"):
        compiled(rule_of(which), own.state(), drawn(own.generator), torch.tensor(0.5), backend="eager")


@pytest.mark.parametrize("which", ALL)
def test_what_is_remembered_is_the_memory(which):
    """An optimizer that is given another's memory goes on as that one does, where the other left its theta."""
    own, other = Own(made(which)), Own(made(which))
    for rate in RATES[1:4]:
        own.step(rate, drawn(own.generator))
    leaves, memory = own.state()
    with torch.no_grad():
        for leaf, value in zip(other.leaves, leaves, strict=True):
            leaf.copy_(value)
    remember(other.optimizer, memory)
    assert_equal(memory_of(other.optimizer), memory)
    gradient = drawn(own.generator)
    for each in (own, other):
        each.step(0.02, gradient)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(own.state()), tensors_of(other.state()), strict=True))


@pytest.mark.parametrize(
    ("optimizer", "schedule", "expected"),
    [
        ("Adam", partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20), ["betas"]),
        ("SGD, Nesterov", partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20), ["momentum"]),
        ("Adam", partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20, cycle_momentum=False), []),
        ("SGD, Nesterov", partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1), ["momentum"]),
        ("Adam", partial(lr_scheduler.CosineAnnealingLR, T_max=20), []),
        ("Adam", lr_scheduler.ReduceLROnPlateau, []),
    ],
)
def test_what_a_schedule_changes_beside_the_rate_is_named(optimizer, schedule, expected):
    assert changing_settings(made(optimizer), schedule, 20) == expected
    assert changing_settings(made(optimizer), schedule, 1) == expected
