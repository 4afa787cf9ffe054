"""metarun.training.trainer: one loop whose every step is a function of (settings, seed, step)."""

import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metarun.errors import TrainingError
from metarun.maths.stats import diverged
from metarun.run_folder.state import TrainState, load, load_state
from metarun.tasks.types import TaskBatch
from metarun.tracking.jsonl import MetricsFile
from metarun.training.evaluate import Evaluator, Measurement
from metarun.training.failures import not_finite
from metarun.training.observer import NoObserver
from metarun.training.stop_requests import stop_requests
from metarun.training.trainer import Schedule, Trainer
from tests.calls import meta_step

from .small import (
    GLYPHS,
    QUICK,
    assert_equal_bits,
    assert_same_checkpoints,
    configuration,
    metrics_of,
    trainer_of,
)

SHORT = (
    *QUICK,
    "schedule.steps=7",
    "schedule.tasks_per_step=3",
    "schedule.log_every=2",
    "schedule.eval_every=3",
    "schedule.checkpoint_every=2",
    "evaluation.val_tasks=4",
)


def trained(folder: Path, *overrides: str) -> tuple[TrainState, Trainer]:
    trainer, _ = trainer_of(configuration(*SHORT, *overrides), folder)
    return trainer.run(trainer.start("f")), trainer


def test_steps_validations_lines_and_checkpoints_come_when_the_schedule_says(tmp_path):
    state, _ = trained(tmp_path)
    rows = metrics_of(tmp_path)
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 4, 6, 7]
    assert [row["step"] for row in rows if "val/mse" in row] == [3, 6, 7]
    scores = {row["step"]: row["val/mse"] for row in rows if "val/mse" in row}
    assert state.best_score == min(scores.values())
    assert scores[state.best_step] == state.best_score
    assert load(tmp_path / "best.pt")["step"] == state.best_step
    assert load_state(tmp_path / "last.pt").step == 7


def test_a_step_is_the_optimizers_step_along_the_algorithms_gradient(tmp_path):
    """SGD without momentum, written out."""
    trainer, _ = trainer_of(
        configuration(*SHORT, "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=0.5", "device.dtype=float64"),
        tmp_path,
    )
    trainer = replace(trainer, schedule=replace(trainer.schedule, steps=2))
    expected = {name: leaf.clone() for name, leaf in trainer.theta.items()}
    for step in range(2):
        indices = torch.arange(3 * step, 3 * step + 3)
        tasks = trainer.source.sample(trainer.seed, "train", indices, 10, 10).to("cpu", torch.float64)
        theta = {name: leaf.requires_grad_() for name, leaf in expected.items()}
        gradient = meta_step(trainer.algorithm, theta, trainer.problem, tasks).gradient
        expected = {name: (leaf - 0.5 * gradient[name]).detach() for name, leaf in theta.items()}
    state = trainer.run(trainer.start("f"))
    for name, leaf in state.theta.items():
        torch.testing.assert_close(leaf.detach(), expected[name], rtol=1e-13, atol=1e-15)  # float64 rounding


def test_training_leaves_the_parameters_that_it_starts_from(tmp_path):
    trainer, _ = trainer_of(configuration(*SHORT), tmp_path)
    before = {name: leaf.clone() for name, leaf in trainer.theta.items()}
    trainer.run(trainer.start("f"))
    assert_equal_bits(dict(trainer.theta), before)


def test_the_global_generator_is_never_used(tmp_path):
    before = torch.get_rng_state()
    trained(tmp_path / "a", *GLYPHS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    trained(tmp_path / "b", *GLYPHS)
    assert_same_checkpoints(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("settings", [(), GLYPHS], ids=["many steps at once", "step by step"])
def test_training_tasks_are_a_function_of_seed_and_step(settings, tmp_path):
    trainer, _ = trainer_of(configuration(*SHORT, *settings), tmp_path)
    shots, queries = trainer.schedule.shots, trainer.schedule.queries
    drawn = list(itertools.islice(trainer._drawing.from_step(0), 300))
    for step in (0, 1, 6, 299):
        indices = torch.arange(3 * step, 3 * step + 3)
        alone = trainer.source.sample(0, "train", indices, shots, queries).to("cpu", torch.float32)
        for name, value in alone.latent.items():
            assert torch.equal(drawn[step].latent[name], value)
        for one, other in ((drawn[step].support, alone.support), (drawn[step].query, alone.query)):
            torch.testing.assert_close(one.inputs, other.inputs, rtol=1e-7, atol=0)
            torch.testing.assert_close(one.targets, other.targets, rtol=1e-6, atol=1e-7)
    # Whoever goes on from a step is given the very bits.
    for step in (1, 150):
        for one, other in zip(drawn[step : step + 150], trainer._drawing.from_step(step), strict=False):
            assert_equal_bits(vars(one.query), vars(other.query))
            assert_equal_bits(vars(one.support), vars(other.support))


def test_validation_is_the_same_tasks_every_time(tmp_path, monkeypatch):
    asked = []
    trainer, _ = trainer_of(configuration(*SHORT), tmp_path)
    sample = type(trainer.source).sample

    def listening(source, seed, split, indices, shots, queries):
        asked.append((seed, split, indices.tolist(), shots, queries))
        return sample(source, seed, split, indices, shots, queries)

    monkeypatch.setattr(type(trainer.source), "sample", listening)
    trainer.run(trainer.start("f"))
    val = [request for request in asked if request[1] == "val"]
    assert val == [(0, "val", [0, 1, 2, 3], 5, 100)] * 3
    assert not [request for request in asked if request[1] == "test"]


def test_validation_leaves_no_trace_in_training(tmp_path):
    often, _ = trained(tmp_path / "often", "schedule.eval_every=1")
    once, _ = trained(tmp_path / "once", "schedule.eval_every=7")
    assert_equal_bits(dict(often.theta), dict(once.theta))
    assert_equal_bits(often.optimizer, once.optimizer)


@pytest.mark.parametrize(
    "settings", [(), (*GLYPHS, "algorithm=imaml", "algorithm.inner.steps=2")], ids=["maml", "imaml"]
)
def test_the_chunk_does_not_change_a_training(settings, tmp_path):
    """Five Adam steps in float64; 1e-10 leaves the sums' order four digits to grow in."""
    states = {}
    for chunk in ("null", "1", "2"):
        overrides = (*settings, "schedule.steps=5", "device.dtype=float64", f"device.task_chunk={chunk}")
        states[chunk], trainer = trained(tmp_path / chunk, *overrides)
        assert trainer.task_chunk == {"null": 3, "1": 1, "2": 2}[chunk]
    for chunk in ("1", "2"):
        for name, leaf in states["null"].theta.items():
            torch.testing.assert_close(states[chunk].theta[name], leaf, rtol=1e-10, atol=1e-10)


def test_the_cosine_schedule_falls_from_the_rate_to_zero(tmp_path):
    trained(
        tmp_path,
        "lr_schedule=cosine",
        "optimizer.lr=0.02",
        "schedule.steps=8",
        "schedule.log_every=1",
        "schedule.eval_every=8",
    )
    rates = [row["train/learning_rate"] for row in metrics_of(tmp_path) if "train/learning_rate" in row]
    # A line is written after its step, so it shows the rate of the next one.
    expected = [0.02 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(1, 9)]
    assert rates == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("settings", [(), GLYPHS], ids=["mse falls", "accuracy rises"])
def test_the_plateau_follows_the_validation_score(settings, tmp_path):
    """Patience 1, and better means by 2 %: the rates are worked out here from the scores of the record."""
    plateau = ("lr_schedule=plateau", "lr_schedule.patience=1", "lr_schedule.threshold=0.02", "optimizer.lr=0.064")
    state, _ = trained(
        tmp_path, *settings, *plateau, "schedule.steps=12", "schedule.eval_every=1", "schedule.log_every=1"
    )
    rows = metrics_of(tmp_path)
    metric = "val/accuracy" if settings else "val/mse"
    scores = [row[metric] for row in rows if metric in row]
    best, bad, rate, expected = None, 0, 0.064, []
    for score in scores:
        expected.append(rate)  # a line is written before its step's validation
        is_better = best is None or (score > 1.02 * best if settings else score < 0.98 * best)
        best, bad = (score, 0) if is_better else (best, bad + 1)
        if bad > 1:
            rate, bad = rate / 2, 0
    assert [row["train/learning_rate"] for row in rows if "train/learning_rate" in row] == expected
    assert state.optimizer["param_groups"][0]["lr"] == rate < 0.064


class Crash(BaseException):
    """As SIGKILL: caught by nobody."""


def crashing(monkeypatch, at: int) -> list[str]:
    """Let the at-th operation on a file end the process, so to speak; the list fills with the operations seen."""
    seen: list[str] = []

    def wrap(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def counted(*arguments):
            seen.append(name)
            if len(seen) == at:
                raise Crash
            return function(*arguments)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in ((os, "fsync"), (os, "replace"), (MetricsFile, "log")):
        wrap(owner, name)
    return seen


def test_a_crash_at_any_operation_on_a_file_changes_nothing(tmp_path, monkeypatch):
    """Each write, flush and rename of a training in turn is the last; the training started again ends the same."""
    config = configuration(*SHORT, "lr_schedule=cosine", "schedule.steps=5")
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        seen = crashing(patch, 0)
        trainer, _ = trainer_of(config, whole)
        trainer.run(trainer.start("f"))
        total = len(seen)
    # Lines of steps 2, 4, 5 and of validations 3, 5; checkpoints 2, 4, 5 at four operations each (the record's flush, the
    # file's, a rename, the folder's); at least one best state at three.
    assert total >= 5 + 3 * 4 + 3
    for at in range(1, total + 1):
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            crashing(patch, at)
            trainer, _ = trainer_of(config, folder)
            with pytest.raises(Crash):
                trainer.run(trainer.start("f"))
        last = folder / "last.pt"
        state = load_state(last) if last.exists() else None
        trainer, _ = trainer_of(config, folder, last_step=state.step if state else -1)
        trainer.run(state or trainer.start("f"))
        assert_same_checkpoints(whole, folder)
        assert metrics_of(whole) == metrics_of(folder), f"crash at operation {at}"


@pytest.mark.parametrize("culprit", ["loss", "gradient", "system"])
def test_what_is_not_finite_stops_training_before_theta_moves(culprit, tmp_path, monkeypatch):
    trainer, _ = trainer_of(configuration(*SHORT), tmp_path)
    algorithm = type(trainer.algorithm)
    meta_step, steps = algorithm.meta_step, itertools.count()
    seen = {}

    def poisoned(self, *, theta, **arguments):
        estimate = meta_step(self, theta=theta, **arguments)
        if next(steps) == 5:
            seen.update({name: leaf.detach().clone() for name, leaf in theta.items()})
            if culprit == "loss":
                estimate.query_loss[1] = math.nan
            else:
                if culprit == "system":  # of a linear system that was not solved
                    estimate.stats["system/residual"] = torch.tensor([0.1, math.nan, 0.2])
                next(iter(estimate.gradient.values())).fill_(math.inf)
        return estimate

    monkeypatch.setattr(algorithm, "meta_step", poisoned)
    state = trainer.start("f")
    with pytest.raises(TrainingError) as raised:
        trainer.run(state)
    message = str(raised.value)
    assert message.startswith("after step 5 the query loss or the meta-gradient is not finite")
    for key in ("algorithm.inner.step_size", "optimizer.lr", "algorithm.proximal_weight"):
        assert key in message
    if culprit != "gradient":  # the task is named, by what defines it
        latent = trainer.source.sample(0, "train", torch.arange(15, 18), 10, 10).latent
        assert f"1 of 3 tasks, the first: {{'amplitude': {latent['amplitude'][1].item()}" in message
    assert "\n" not in message
    assert state.step == 5
    assert_equal_bits({name: leaf.detach() for name, leaf in state.theta.items()}, seen)
    assert load_state(tmp_path / "last.pt").step == 4
    assert max(json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_validation_without_a_score_ranks_last(tmp_path, monkeypatch, caplog):
    scores = iter([[math.nan, 1.0], [5.0, 7.0], [math.inf, 1.0], [4.0, 4.0], [math.nan, math.nan]])

    def validated(_evaluator, _theta, _split, _num_tasks, steps, _advanced):
        values = next(scores)
        return [Measurement(steps[0], {"mse": values}, diverged(values, is_loss=True))]

    monkeypatch.setattr(Evaluator, "__call__", validated)
    with caplog.at_level("WARNING", "metarun"):
        state, _ = trained(tmp_path, "schedule.steps=5", "schedule.eval_every=1")
    assert (state.best_step, state.best_score) == (4, 4.0)
    assert load(tmp_path / "best.pt")["step"] == 4
    rows = [row for row in metrics_of(tmp_path) if "val/mse" in row]
    assert [row["val/mse"] for row in rows] == [None, 6.0, None, 4.0, None]
    assert [row["val/diverged"] for row in rows] == [1, 0, 1, 0, 2]
    assert rows[0]["not_finite"] == {"val/mse": "nan", "val/mse_ci95": "nan"}
    (warning,) = [record.getMessage() for record in caplog.records]  # once
    assert warning == (
        "validation after step 1: diverged after 10 inner steps: 1 of 2 tasks: 0; "
        "there is no score, and this state is not selected"
    )


@pytest.mark.parametrize("best", [None, math.nan])
def test_no_state_is_selected_without_a_score(best, tmp_path, monkeypatch):
    """NaN is what earlier versions remembered."""
    trainer, _ = trainer_of(configuration(*SHORT, "schedule.steps=1"), tmp_path)
    state = trainer.start("f")
    state.best_score = best
    for values, selected in (([math.nan, 1.0], False), ([2.0, 1.0], True)):
        monkeypatch.setattr(Evaluator, "__call__", lambda *_, v=values: [Measurement(1, {"mse": v}, [])])
        trainer._validate(state, trainer.theta)
        assert (state.best_score == 1.5) is (tmp_path / "best.pt").exists() is selected


def test_the_last_step_may_not_leave_what_is_not_finite(tmp_path):
    """A step beyond float32, whose loss nobody would look at."""
    settings = ("schedule.steps=1", "optimizer=sgd", "optimizer.lr=1e38", "optimizer.momentum=0")
    trainer, _ = trainer_of(configuration(*SHORT, *settings), tmp_path)
    trainer = replace(trainer, theta=trainer.theta.map(lambda leaf: 9 * leaf))  # gradients beyond 4
    with pytest.raises(TrainingError) as raised:
        trainer.run(trainer.start("f"))
    message = str(raised.value)
    assert message.startswith("after step 1 the parameters are not finite (")
    assert message.endswith("outer steps are too large (optimizer.lr). The last checkpoint stands.")
    assert not list(tmp_path.glob("*.pt"))


def test_a_large_step_is_found_out_at_once(tmp_path):
    with pytest.raises(
        TrainingError, match="after step 1 the query loss or the meta-gradient is not finite; 3 of 3 tasks"
    ):
        trained(tmp_path, "optimizer.lr=1e30")


def test_what_the_observer_is_told(tmp_path):
    told = []

    class Listener(NoObserver):
        def stepped(self, step, loss, tasks):
            told.append((step, tasks))

        def evaluating(self, split, share):
            told.append((split, share))

        def validated(self, step, score, is_best):
            told.append((step, score.num_tasks, is_best))

    trainer, _ = trainer_of(configuration(*SHORT, "optimizer.lr=1e-30"), tmp_path)
    replace(trainer, observer=Listener()).run(trainer.start("f"))
    steps = [(step, 3) for step in range(1, 8)]
    # The parameters hardly move, so the first validation stays the best: an equal score is no better one.
    all_at_once = ("val", 1.0)
    assert told == [
        *(*steps[:3], all_at_once, (3, 4, True)),
        *(*steps[3:6], all_at_once, (6, 4, False)),
        *(steps[6], all_at_once, (7, 4, False)),
    ]


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    import threading

    results = []
    thread = threading.Thread(target=lambda: results.append(trained(tmp_path)[0].step))
    thread.start()
    thread.join()
    assert results == [7]


def test_somebody_elses_handler_stays(tmp_path):
    import signal

    def theirs(_number, _frame): ...

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with stop_requests() as requests:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is theirs
        assert requests == []
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", list(Schedule.__dataclass_fields__))
@pytest.mark.parametrize("value", [0, -1, 1.5, "abc", True, None])
def test_every_number_of_the_schedule_is_checked(name, value):
    usual = dict.fromkeys(Schedule.__dataclass_fields__, 1)
    with pytest.raises(ValueError) as raised:
        Schedule(**usual | {name: value})
    assert str(raised.value) == f"{name} must be an integer >= 1, got {value!r}"


def test_a_failure_tells_no_keys_of_random_numbers():
    """Of a task of episodes: its goal, and not 2^63 a dozen times; nor what is long."""
    latent = {"goal": torch.tensor([[0.25, -0.5]]), "support": torch.tensor([[2**60, 1]]), "table": torch.zeros(1, 21)}
    failure = not_finite(3, torch.tensor([math.nan]), {}, TaskBatch(None, None, latent), "Nothing is lost.")
    assert str(failure).startswith(
        "after step 3 the query loss or the meta-gradient is not finite; 1 of 1 tasks, the first: {'goal': [0.25, -0.5]} {}; "
    )
