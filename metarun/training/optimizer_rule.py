"""What a PyTorch optimizer does in one step, as a function of tensors: for a program that holds the whole outer step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun.training.optimizer import MakeOptimizer, MakeSchedule, watches_score

Memory = list[dict[str, Tensor]]
"""What an optimizer remembers of each parameter, by PyTorch's names."""


@dataclass(frozen=True)
class OptimizerRule:
    """The step of PyTorch's own class, taken on copies.

    Attributes:
        make: the constructor.
    """

    make: MakeOptimizer

    def __call__(
        self, theta: Sequence[Tensor], gradient: Sequence[Tensor], memory: Memory, rate: Tensor
    ) -> tuple[list[Tensor], Memory]:
        """theta and the memory after a step.

        Args:
            theta, gradient: leaves.
            memory: after at least one step, since some optimizers begin to remember then.
            rate: the learning rate, a scalar in float64.
        """
        leaves = [leaf.detach().clone() for leaf in theta]
        optimizer = self.make(leaves)
        (group,) = optimizer.param_groups
        # Each leaf by itself, the rate and the number of steps as tensors: PyTorch has that form for being differentiated.
        group |= {"foreach": False, "lr": rate.detach().clone().requires_grad_()}
        group |= {key: True for key in ("differentiable", "capturable") if key in group and _applies(key, leaves[0])}
        for leaf, given, remembered in zip(leaves, gradient, memory, strict=True):
            leaf.grad = given.detach().clone()
            optimizer.state[leaf] = {name: _in_full(value).clone() for name, value in remembered.items()}
        optimizer.step()
        after = [
            {name: state[name].detach().to(before.dtype) for name, before in remembered.items()}
            for remembered, state in zip(memory, (optimizer.state[leaf] for leaf in leaves), strict=True)
        ]
        return [leaf.detach() for leaf in leaves], after


def memory_of(optimizer: torch.optim.Optimizer) -> Memory:
    """What the optimizer remembers, on the device of its parameters."""
    return [
        {
            name: value.to(leaf.device)
            for name, value in optimizer.state.get(leaf, {}).items()
            if isinstance(value, Tensor)
        }
        for leaf in _leaves(optimizer)
    ]


def remember(optimizer: torch.optim.Optimizer, memory: Memory) -> None:
    """Give the optimizer what a rule remembers; each tensor stays where it was."""
    for leaf, remembered in zip(_leaves(optimizer), memory, strict=True):
        for name, value in remembered.items():
            state = optimizer.state[leaf]
            state[name] = value.to(state[name].device)


def changing_settings(make: MakeOptimizer, make_schedule: MakeSchedule, steps: int) -> list[str]:
    """Settings of the optimizer that the schedule changes beside the learning rate (momentum in `OneCycleLR`), in few steps."""
    leaf = torch.zeros(1, requires_grad=True)
    optimizer = make([leaf])
    schedule = make_schedule(optimizer)
    leaf.grad = torch.zeros(1)
    optimizer.step()
    before = settings_of(optimizer)
    changed: set[str] = set()
    for _ in range(0 if watches_score(schedule) else min(steps, 10)):
        schedule.step()
        now = settings_of(optimizer)
        changed |= {key for key in now if now[key] != before.get(key)}
    return sorted(changed)


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's settings beside the learning rate."""
    (group,) = optimizer.param_groups
    return {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}


def _applies(key: str, leaf: Tensor) -> bool:
    return key == "differentiable" or leaf.device.type == "cuda"


def _in_full(value: Tensor) -> Tensor:
    """Numbers of steps in float64, as Python has them where they are no tensors."""
    return value.double() if value.dim() == 0 and value.is_floating_point() else value


def _leaves(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    (group,) = optimizer.param_groups
    return group["params"]
