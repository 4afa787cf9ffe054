"""The outer optimizer and the schedule of its learning rate: PyTorch's own, checked by name and by a trial."""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metarun import checks

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
MakeSchedule = Callable[[torch.optim.Optimizer], LRScheduler]

_TRIAL_STEPS = 3
_MAX_SCHEDULED = 200_000  # steps of a schedule that are looked at; one takes 3 microseconds

_AT_LEAST_ONE = {"T_max", "T_0", "T_mult", "step_size", "step_size_up", "step_size_down", "total_steps", "epochs"}
_AT_LEAST_ONE |= {"steps_per_epoch", "ns_steps"}
_COUNTS = {"total_iters", "patience", "cooldown"}
_POSITIVE = {"lr", "eps", "factor", "gamma", "power", "div_factor", "final_div_factor", "max_lr", "swa_lr"}
_NOT_NEGATIVE = {"weight_decay", "lr_decay", "initial_accumulator_value", "momentum_decay", "lambd", "t0", "threshold"}
_NOT_NEGATIVE |= {"eta_min", "min_lr", "base_lr", "start_factor", "end_factor"}
_BELOW_ONE = {"momentum", "dampening", "alpha", "rho", "base_momentum", "max_momentum"}
"""Ranges by the names that PyTorch's optimizers and schedules have in common: their own checks let many through."""


def check_ranges(settings: Mapping[str, Any], *, is_schedule: bool) -> None:
    """Raise `ValueError` for a setting of an optimizer or a schedule that is out of its range; kinds are checked before."""
    for name, setting in settings.items():
        for value in setting if isinstance(setting, list) else [setting]:
            if value is None or isinstance(value, bool | str | Mapping):
                continue
            if name in _AT_LEAST_ONE or name in _COUNTS:
                checks.integer(name, value, minimum=int(name in _AT_LEAST_ONE))
            elif is_schedule and name == "eps":  # a change of the rate too small to be made
                checks.number(name, value, minimum=0)
            elif name in _POSITIVE:
                checks.number(name, value, minimum=0, exclusive=True)
            elif name in _NOT_NEGATIVE:
                checks.number(name, value, minimum=0)
            elif name in _BELOW_ONE:
                checks.number(name, value, minimum=0, below=1)
    if settings.get("maximize") is True:
        raise ValueError("maximize must be false: the query loss is to fall, got True")
    if settings.get("last_epoch", -1) != -1:
        raise ValueError(f"last_epoch must be -1: a run goes on from its checkpoint, got {settings['last_epoch']}")
    shrinkage = settings.get("lr", 0) * settings.get("weight_decay", 0)
    if shrinkage >= 1:
        raise ValueError(
            f"lr * weight_decay must be < 1, or a step's decay carries every parameter past 0, got "
            f"{settings['lr']:g} * {settings['weight_decay']:g}"
        )


def tried_optimizer(make: MakeOptimizer, theta: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """An optimizer of copies of theta that has taken a few steps along gradients of ones.

    Raises:
        ValueError: it cannot be made, needs more than a gradient, or theta is not finite after these steps.
    """
    leaves = [leaf.detach().clone().requires_grad_() for leaf in theta.values()]
    optimizer = _made(make, leaves)
    name = type(optimizer).__name__
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{name} evaluates the loss several times in a step (a closure), and a meta-gradient is of one batch of tasks, "
            "evaluated once. Choose optimizer=adam or optimizer=sgd."
        )
    for leaf in leaves:
        leaf.grad = torch.ones_like(leaf)
    for _ in range(_TRIAL_STEPS):
        try:
            optimizer.step()
        except Exception as error:  # whatever its step asks for
            words = " ".join(str(error).split())
            raise ValueError(f"{name} cannot take a step along a dense gradient of ones: {words}") from error
    if not all(bool(leaf.isfinite().all()) for leaf in leaves):
        raise ValueError(f"theta is not finite after {_TRIAL_STEPS} steps of {name} along a gradient of ones")
    return optimizer


def try_schedule(make: MakeSchedule, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Run through the learning rates of a training of `steps` outer steps; the optimizer is not to be used after it.

    A schedule that watches the score is only made: the scores are not known.

    Raises:
        ValueError: it cannot be made or stepped, a rate is negative or not finite, or all are zero.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = _made(make, optimizer)
        name, largest = type(schedule).__name__, 0.0
        if watches_score(schedule):
            return
        for step in range(min(steps, _MAX_SCHEDULED)):
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            largest = max(largest, *rates)
            # Rounding may leave a rate that has come down to zero a little below it.
            if not all(math.isfinite(rate) and rate >= -1e-9 * largest for rate in rates):
                raise ValueError(
                    f"the learning rate must be finite and >= 0, and {name} makes it {rates[0]:g} at step {step}"
                )
            try:
                schedule.step()
            except TypeError as error:
                raise ValueError(f"{name} needs more than its step() to be called: {error}") from error
    if largest == 0:
        raise ValueError(f"{name} keeps the learning rate at 0 for all {steps} steps: nothing would be learned")


def watches_score(schedule: LRScheduler | type) -> bool:
    """Whether a schedule (or a class of them) is stepped by validation scores, and not by outer steps."""
    kind = schedule if isinstance(schedule, type) else type(schedule)
    return issubclass(kind, ReduceLROnPlateau)


def _made(make: Callable[[Any], Any], argument: Any) -> Any:
    """`make(argument)`; whatever PyTorch raises about it is a `ValueError`."""
    try:
        return make(argument)
    except (ValueError, TypeError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
