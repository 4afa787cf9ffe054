"""metarun.training.program: a run by a program is the run by single operations; here the program's operations run one by one."""

import functools
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun.build import require_program
from metarun.device.ranks import Ranks
from metarun.errors import ConfigurationError, TrainingError
from metarun.run_folder.state import TrainState, load_state
from metarun.tracking.base import NullTracker
from metarun.training import trainer as trainer_module
from metarun.training.observer import NoObserver
from metarun.training.program import EagerSteps, choose, compiled
from metarun.training.stop_requests import Stopped
from metarun.training.trainer import Trainer

from .small import QUICK, assert_equal_bits, assert_same_checkpoints, configuration, metrics_of, run_here, trainer_of

TWELVE = (
    *QUICK,
    "device.dtype=float64",
    "schedule.steps=12",
    "schedule.tasks_per_step=3",
    "schedule.log_every=2",
    "schedule.eval_every=3",
    "schedule.checkpoint_every=4",
    "evaluation.val_tasks=4",
    "model.hidden=[5]",
)
COMPILED = "device.program=compiled"
ONE_CYCLE = (
    "lr_schedule._target_=torch.optim.lr_scheduler.OneCycleLR",
    "~lr_schedule.factor",
    "~lr_schedule.total_iters",
    "+lr_schedule.max_lr=0.1",
    "+lr_schedule.total_steps=20",
)


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch) -> None:
    """What is traced runs one operation at a time: the same program, at once."""
    monkeypatch.setattr(trainer_module, "compiled", functools.partial(compiled, backend="eager"))


def made(folder: Path, *overrides: str, **changes: Any) -> Trainer:
    trainer, _ = trainer_of(configuration(*TWELVE, *overrides), folder)
    return replace(trainer, **changes)


def trained(folder: Path, *overrides: str, **changes: Any) -> TrainState:
    trainer = made(folder, *overrides, **changes)
    return trainer.run(trainer.start("f"))


class Stopping(NoObserver):
    """Sends this process SIGTERM once, when a given step is done or a later one."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def stepped(self, step: int, value: float, amount: float) -> None:
        if self.step is not None and step >= self.step:
            self.step = None
            os.kill(os.getpid(), signal.SIGTERM)


def assert_close(one: Any, other: Any) -> None:
    """Nested numbers and tensors to 1e-10, anything else to the letter."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_close(value, other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-10, abs=1e-10)
    else:
        assert one == other


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("lr_schedule=cosine",),
        ("lr_schedule=plateau", "lr_schedule.patience=0", "lr_schedule.threshold=0.9"),
        ("algorithm=imaml", "algorithm.inner.steps=3", "algorithm.meta_gradient.solver.steps=2"),
        ("algorithm=imaml_ng", "algorithm.inner.steps=2", "algorithm.direction.momentum=0.9", "optimizer=sgd_unit"),
        ("optimizer=sgd", "device.task_chunk=2"),
    ],
    ids=lambda settings: " ".join(settings) or "maml",
)
def test_a_run_by_a_program_is_that_by_single_operations(settings, tmp_path):
    states = {how: trained(tmp_path / how, *settings, f"device.program={how}") for how in ("eager", "compiled")}
    assert states["compiled"].program == "compiled"
    eager, found = (metrics_of(tmp_path / how) for how in ("eager", "compiled"))
    assert len(eager) == 10  # six lines of training and four of validation
    assert_close(found, eager)
    for name in ("theta", "optimizer", "lr_schedule", "algorithm", "best_score", "best_step", "count"):
        assert_close(getattr(states["compiled"], name), getattr(states["eager"], name))


NATURAL = ("algorithm=imaml_ng", "algorithm.inner.steps=2", "algorithm.direction.momentum=0.9", "optimizer=sgd_unit")


@pytest.mark.parametrize(
    ("stop", "settings"),
    [*((stop, ()) for stop in (1, 2, 3, 4, 7)), pytest.param(5, NATURAL, id="natural gradient")],
)
def test_it_goes_on_from_any_step_to_the_same_bits(stop, settings, tmp_path):
    whole = trained(tmp_path / "whole", *settings, COMPILED)
    folder = tmp_path / "stopped"
    trainer = made(folder, *settings, COMPILED, observer=Stopping(stop))
    with pytest.raises(Stopped):
        trainer.run(trainer.start("f"))
    state = load_state(folder / "last.pt")
    assert stop <= state.step < 12
    again, _ = trainer_of(configuration(*TWELVE, *settings, COMPILED), folder, last_step=state.step)
    finished = again.run(state)
    assert finished.program == "compiled"
    assert_equal_bits(dict(finished.theta), dict(whole.theta))
    assert_same_checkpoints(tmp_path / "whole", folder)
    assert metrics_of(tmp_path / "whole") == metrics_of(folder)


@pytest.mark.parametrize("program", ["auto", "compiled"])
def test_a_run_taken_up_at_any_step_decides_after_the_third(program, tmp_path, monkeypatch):
    """From checkpoints after 1 to 3 steps, in which nothing is decided yet."""
    monkeypatch.setattr(
        trainer_module, "choose", lambda step_s, operations, left: chosen.append((operations, left)) or "compiled"
    )
    counted = set()
    for stop in (1, 2, 3):
        chosen: list[tuple[int, int]] = []
        folder = tmp_path / str(stop)
        trained(folder, "device.program=eager", f"schedule.steps={stop}")
        state = load_state(folder / "last.pt")
        state.program = None
        trainer = made(folder, f"device.program={program}", tracker=NullTracker())
        assert trainer.run(state).program == "compiled"
        # Always after the third step.
        assert [left for _, left in chosen] == ([12 - 3] if program == "auto" else [])
        counted |= {operations for operations, _ in chosen}
    assert all(operations > 100 for operations in counted)


def test_a_checkpoint_from_before_there_were_programs_goes_on_without(tmp_path):
    trained(tmp_path, "device.program=eager", "schedule.steps=4")
    state = load_state(tmp_path / "last.pt")
    state.program = None
    assert made(tmp_path, "device.program=auto", tracker=NullTracker()).run(state).program == "eager"


def test_a_signal_while_the_step_is_compiled_ends_the_run_with_a_checkpoint(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", COMPILED)

    def stopped(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("a signal is answered at once")

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "compiled", stopped)
        trainer = made(folder, COMPILED)
        with pytest.raises(Stopped) as raised:
            trainer.run(trainer.start("f"))
    assert raised.value.step == 4
    state = load_state(folder / "last.pt")
    assert (state.step, state.program) == (4, "compiled")
    assert_close(dict(made(folder, COMPILED, tracker=NullTracker()).run(state).theta), dict(whole.theta))


def test_a_step_that_is_not_finite_ends_the_run_before_it(tmp_path):
    """Of the tasks drawn in step 7 the second's targets are not finite; six others are good, two of them after a look."""
    trainer = made(tmp_path / "found", COMPILED)
    source = trainer.source
    bad = 7 * 3 + 1

    class Spoilt:
        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def sample(self, seed, split, indices, shots, queries):
            tasks = source.sample(seed, split, indices, shots, queries)
            wrong = torch.where((indices == bad) & (split == "train"), math.inf, 0.0)[:, None, None]
            return replace(tasks, query=replace(tasks.query, targets=tasks.query_set.targets + wrong))

    with pytest.raises(TrainingError) as raised:
        replace(trainer, source=Spoilt()).run(trainer.start("f"))
    assert str(raised.value).startswith(
        "after step 7 the query loss or the meta-gradient is not finite; 1 of 3 tasks, the first: "
    )
    assert "'amplitude': " in str(raised.value)
    assert str(raised.value).endswith("The state before that step is saved.")
    trained(tmp_path / "good", COMPILED, schedule=replace(trainer.schedule, steps=7))
    found, good = (load_state(tmp_path / name / "last.pt") for name in ("found", "good"))
    assert found.step == good.step == 7
    assert_equal_bits(found.theta, good.theta)
    assert_equal_bits(found.optimizer, good.optimizer)


@pytest.mark.parametrize(
    ("settings", "ranks", "why"),
    [
        ((), Ranks(0, 2), "2 ranks share each step, and what they tell each other is no part of a program"),
        (
            ONE_CYCLE,
            Ranks(),
            "lr_schedule changes betas of the optimizer, too, and a program takes these for constant",
        ),
    ],
    ids=["ranks", "schedule"],
)
def test_where_no_program_can_be_one_is_refused_and_auto_does_without(settings, ranks, why, tmp_path):
    for program in ("auto", "eager", "compiled"):
        config = configuration(*TWELVE, *settings, f"device.program={program}")
        trainer, parts = trainer_of(config, tmp_path / program)
        if program == "compiled":
            with pytest.raises(ConfigurationError) as raised:
                require_program(config, parts, ranks)
            assert str(raised.value) == f"device.program=compiled, and {why}. Set device.program=auto or eager."
        else:
            require_program(config, parts, ranks)
        if program == "auto":
            eager = EagerSteps(seconds=[100.0] * 3, operations=10**7)
            state = replace(trainer.start("f"), step=3)
            assert choose(100.0, 10**7, 9) == "compiled"
            assert replace(trainer, ranks=ranks)._chosen(state, parts.theta, eager) == "eager"


def test_the_command_refuses_before_anything_is_written(tmp_path, capsys):
    assert run_here(*TWELVE, *ONE_CYCLE, COMPILED, f"run.root={tmp_path / 'runs'}") == 2
    assert "device.program=compiled, and lr_schedule changes betas" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_program_is_chosen_where_what_it_saves_is_more_than_it_costs():
    """1000 operations cost 10 ms of a step beside their arithmetic, of which a fifth is left; of arithmetic 0.85."""
    step_s, operations = 0.030, 1000
    gained = 0.8 * 0.010 + 0.15 * 0.020
    cost = 15 + 0.02 * operations
    steps = cost / gained
    assert choose(step_s, operations, math.ceil(steps * 1.001)) == "compiled"
    assert choose(step_s, operations, math.floor(steps * 0.999)) == "eager"
    # No operations cost more than the step, and the compiler at most 90 s.
    assert choose(0.001, 10**6, math.ceil(90 / 0.0008) + 1) == "compiled"
    assert choose(0.001, 10**6, math.floor(90 / 0.0008) - 1) == "eager"
    assert choose(step_s, operations, 0) == "eager"
    # A step that is arithmetic for the most takes the compiler three times as long.
    steps = 3 * cost / (0.8 * 0.010 + 0.15 * 0.090)
    assert choose(0.1, operations, math.ceil(steps * 1.001)) == "compiled"
    assert choose(0.1, operations, math.floor(steps * 0.999)) == "eager"


def test_the_operations_of_the_second_step_alone_are_counted():
    steps = EagerSteps()
    for number in range(4):
        with steps.watched():
            _ = torch.ones(3) * 2 + 1  # three operations
        steps.seconds.append(0.1)
        assert steps.operations == (3 if number else 0)


def test_a_program_whose_first_step_is_another_is_refused(tmp_path, monkeypatch):
    """A compiler by which every number of a step is a tenth too large."""

    def wrong(function: Any, *examples: Any) -> Any:
        right = compiled(function, *examples, backend="eager")

        def program(state: list[torch.Tensor], *others: torch.Tensor) -> list[torch.Tensor]:
            after = right(state, *others)
            return [*after[:-2], 1.1 * after[-2], after[-1]]  # the sums; the last is which step failed

        return program

    monkeypatch.setattr(trainer_module, "compiled", wrong)
    with pytest.raises(
        TrainingError, match=r"device\.program=compiled, and its first step has loss .*, and the step itself"
    ):
        trained(tmp_path, COMPILED)
