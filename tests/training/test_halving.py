"""metarun.training.halving: fewer tasks at once where memory is full, and the same numbers as with that many from the start."""

import json
import logging

import pytest
import torch

from metarun.algorithm import Algorithm
from metarun.errors import TrainingError
from metarun.run_folder.state import load_state
from metarun.training.halving import halving

from .small import QUICK, assert_equal_bits, configuration, only_folder, run_here, trainer_of

FOUR = (*QUICK, "schedule.tasks_per_step=5", "schedule.steps=4", "schedule.eval_every=4", "schedule.checkpoint_every=2")


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("as on a GPU")


def test_the_chunk_is_halved_until_it_fits(caplog):
    asked = []

    def work(chunk: int) -> str:
        asked.append(chunk)
        if chunk > 3:
            raise full()
        return "done"

    assert halving(work, 25) == ("done", 3)
    assert asked == [25, 12, 6, 3]
    assert [record.args for record in caplog.records] == [(25, 12), (12, 6), (6, 3)]
    assert halving(work, 2) == ("done", 2)


def test_one_task_that_is_too_much_is_an_error_and_others_are_no_business_of_ours():
    asked = []

    def work(chunk: int) -> None:
        asked.append(chunk)
        raise full()

    with pytest.raises(torch.OutOfMemoryError):
        halving(work, 4)
    assert asked == [4, 2, 1]
    with pytest.raises(ZeroDivisionError):
        halving(lambda chunk: 1 // 0, 4)


def test_what_the_failed_work_held_is_free_before_the_next():
    """An error holds its frames, and they hold tensors: kept alive, they would fill the memory for good."""
    import weakref

    held: list[weakref.ref] = []

    def work(chunk: int) -> int:
        assert not any(ref() is not None for ref in held)
        tensor = torch.ones(1)
        held.append(weakref.ref(tensor))
        if chunk > 1:
            raise full()
        return chunk

    assert halving(work, 8) == (1, 1)
    assert len(held) == 4


def fill(monkeypatch, times: int, from_step: int = 0) -> list[int]:
    """A memory that is full `times` times, from an outer step on; gives the numbers of tasks at once that were tried."""
    estimate, tried = Algorithm.estimate, []

    def filling(self, theta, problem, tasks, outer_step=0):
        if outer_step >= from_step:
            tried.append(len(tasks))
            if len(tried) <= times:
                raise full()
        return estimate(self, theta, problem, tasks, outer_step)

    monkeypatch.setattr(Algorithm, "estimate", filling)
    return tried


def trained(folder, *overrides: str):
    trainer, _ = trainer_of(configuration(*FOUR, *overrides), folder)
    return trainer, trainer.start("f")


def test_a_full_memory_costs_a_run_its_chunk_and_no_bit(tmp_path, monkeypatch, caplog):
    """Full twice: 5, 2 and then 1 task at once, and theta, its optimizer and its sums are those of one task at once."""
    trainer, state = trained(tmp_path / "given", "device.task_chunk=1")
    expected = trainer.run(state)
    trainer, state = trained(tmp_path / "found", "device.task_chunk=null")
    tried = fill(monkeypatch, times=2)
    found = trainer.run(state)
    assert tried[:8] == [5, 2, 1, 1, 1, 1, 1, 1]
    assert found.task_chunk == expected.task_chunk == 1
    assert load_state(tmp_path / "found/last.pt").task_chunk == 1
    for name in ("theta", "optimizer", "best_score", "step"):
        assert_equal_bits(getattr(found, name), getattr(expected, name), name)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [words.partition(":")[0] for words in said] == [
        "the device's memory is too small for 5 tasks at once",
        "the device's memory is too small for 2 tasks at once",
    ]


def test_the_result_names_the_chunk_that_the_run_ended_with(tmp_path, monkeypatch):
    fill(monkeypatch, times=1, from_step=2)
    assert run_here(*FOUR, "device.task_chunk=null", f"run.root={tmp_path}") == 0
    folder = only_folder(tmp_path)
    assert json.loads((folder / "environment.json").read_text())["task_chunk"] == 5
    assert json.loads((folder / "result.json").read_text())["environment"]["task_chunk"] == 2
    assert "going on with 2, from here on" in (folder / "log.txt").read_text()


def test_a_memory_too_small_for_one_task_says_what_else_there_is(tmp_path, monkeypatch):
    trainer, state = trained(tmp_path, "device.task_chunk=null")
    fill(monkeypatch, times=100)
    with pytest.raises(TrainingError) as raised:
        trainer.run(state)
    words = str(raised.value)
    assert words.startswith("the device's memory is too small for 1 task(s) at once. Give one of: algorithm=imaml")
    assert "task_chunk" not in words
