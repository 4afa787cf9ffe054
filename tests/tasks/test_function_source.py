"""metarun.tasks.function_source: a person's own function of one task, for regression and for classification."""

import functools

import numpy as np
import pytest
import torch

from metarun import rng
from metarun.errors import ConfigurationError
from metarun.tasks.function_source import FunctionSource, Task
from metarun.training.drawing import Drawing
from metarun.training.program_steps import is_drawn_in_a_program

from ..training.small import SIX_STEPS, assert_same_runs, only_folder, run_and_kill, run_here


def line(task: Task, slope: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """y = slope x + intercept, at points that are drawn."""
    intercept = torch.rand((), generator=task.generator)
    x = torch.rand(task.num_examples, 1, generator=task.generator)
    return x, slope * x + intercept


def marks(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Example k of label n is (n, k, index), labels in turn."""
    assert task.ways is not None
    labels = torch.arange(task.ways).repeat(task.num_examples)
    k = torch.arange(task.num_examples).repeat_interleave(task.ways)
    return torch.stack([labels, k, torch.full_like(k, task.index)], 1).float(), labels


def test_a_regression_task_is_what_the_function_returns():
    source = FunctionSource(function=functools.partial(line, slope=2.0), num_examples=9)
    assert (source.input_shape, source.output_size) == ((1,), 1)
    batch = source.sample(4, "val", torch.tensor([0, 7, 3]), 2, 5)
    for position, index in enumerate((0, 7, 3)):
        generator = rng.generator(4, "function", "val", index)
        task = Task(split="val", index=index, generator=generator, num_examples=9, ways=None)
        x, y = line(task, slope=2.0)
        assert torch.equal(batch.support_set.inputs[position], x[:2])
        assert torch.equal(batch.support_set.targets[position], y[:2])
        assert torch.equal(batch.query_set.inputs[position], x[-5:])
        assert torch.equal(batch.query_set.targets[position], y[-5:])
    assert batch.latent["index"].tolist() == [0, 7, 3]


def test_tasks_of_seeds_and_splits_differ_and_shots_move_nothing():
    source = FunctionSource(function=line, num_examples=9)
    indices = torch.arange(2)
    drawn = {
        (seed, split): source.sample(seed, split, indices, 2, 5).query_set.inputs
        for seed in (0, 1)
        for split in ("train", "test")
    }
    assert len({tuple(x.flatten().tolist()) for x in drawn.values()}) == 4
    more = source.sample(0, "train", indices, 4, 5)
    assert torch.equal(more.query_set.inputs, drawn[0, "train"])
    assert torch.equal(more.support_set.inputs[:, :2], source.sample(0, "train", indices, 2, 5).support_set.inputs)


def test_a_classification_is_grouped_by_label():
    source = FunctionSource(function=marks, num_examples=6, ways=3)
    assert (source.input_shape, source.output_size) == ((3,), 3)
    batch = source.sample(0, "train", torch.tensor([5]), 2, 3)
    assert batch.support_set.inputs[0].tolist() == [[n, k, 5] for n in range(3) for k in (0, 1)]
    assert batch.query_set.inputs[0].tolist() == [[n, k, 5] for n in range(3) for k in (3, 4, 5)]
    assert batch.support_set.targets.tolist() == [[0, 0, 1, 1, 2, 2]]
    assert batch.query_set.targets.tolist() == [[0] * 3 + [1] * 3 + [2] * 3]
    assert batch.support_set.classes == 3


def test_arrays_of_numpy_and_targets_of_one_axis_will_do():
    def squares(task):
        x = np.arange(task.num_examples, dtype=np.float32)[:, None]
        return x, x[:, 0] ** 2

    batch = FunctionSource(function=squares, num_examples=4).sample(0, "train", torch.arange(1), 1, 2)
    assert batch.query_set.targets.tolist() == [[[4.0], [9.0]]]


def test_whole_numbers_stay_whole():
    """Tokens of a text, which an embedding takes."""

    def tokens(task):
        return torch.arange(12).view(4, 3), torch.tensor([0, 1, 0, 1])

    batch = FunctionSource(function=tokens, num_examples=2, ways=2).sample(0, "train", torch.arange(1), 1, 1)
    assert batch.support_set.inputs.dtype == torch.int64
    assert batch.support_set.inputs.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert batch.to("cpu", torch.float64).support_set.inputs.dtype == torch.int64


def test_tasks_are_made_outside_of_the_program_of_a_step():
    """A function draws from a generator, which a program could not: steps are given the tasks, those of each step."""
    settings = {"device": torch.device("cpu"), "dtype": torch.float32}
    drawing = Drawing(
        source=FunctionSource(function=line, num_examples=9), seed=0, size=3, shots=2, queries=4, **settings
    )
    assert not is_drawn_in_a_program(drawing, 4)
    third = next(drawing.from_step(2))
    assert torch.equal(third.query_set.inputs, drawing.of(torch.arange(6, 9)).query_set.inputs)


def draws_elsewhere(task):
    return torch.rand(task.num_examples, 1), torch.zeros(task.num_examples)


def changes_shape(task):
    return torch.zeros(task.num_examples, 1 + task.index), torch.zeros(task.num_examples)


def fails(task):
    return torch.zeros(3) @ torch.zeros(4)


WRONG = [
    (fails, "it failed (" + __file__ + ", line {line}: RuntimeError: "),
    (lambda task: torch.zeros(9, 1), "it must return inputs and targets, and returned [9, 1] of float32."),
    (lambda task: ("a", "b"), "it must return two tensors, and returned a str and a str."),
    (lambda task: (torch.zeros(8, 1), torch.zeros(8)), "inputs must be [9, ...], got [8, 1]."),
    (lambda task: (torch.zeros(9), torch.zeros(9)), "inputs must be [9, ...], got [9]."),
    (lambda task: (torch.zeros(9, 1), torch.zeros(9).long()), "[9] or [9, outputs], got [9, 1] of int64."),
    (lambda task: (torch.zeros(9, 1), torch.zeros(8)), "[9] or [9, outputs], got [8, 1] of float32."),
    (lambda task: (torch.full((9, 1), torch.nan), torch.zeros(9)), "must be finite, and one of their numbers is not."),
]


@pytest.mark.parametrize(("function", "words"), WRONG)
def test_what_a_function_may_not_return(function, words):
    source = FunctionSource(function=function, num_examples=9)
    with pytest.raises(ConfigurationError) as caught:
        source.sample(0, "test", torch.tensor([2]), 1, 1)
    said = str(caught.value)
    assert said.startswith(f"{__name__}.{function.__qualname__}, task 2 of split test: ") and "\n" not in said
    assert words.format(line=fails.__code__.co_firstlineno + 1) in said


def test_labels_are_from_zero_on_and_each_as_often():
    def labels(*values):
        return FunctionSource(function=lambda task: (torch.zeros(4, 1), torch.tensor(values)), num_examples=2, ways=2)

    labels(1, 0, 1, 0).check("train", 1, 1)
    for values, found in (((1, 2, 1, 2), "{1: 2, 2: 2}"), ((0, 0, 0, 1), "{0: 3, 1: 1}")):
        with pytest.raises(ConfigurationError, match="each of 0 to 1 2 times, got") as caught:
            labels(*values).check("train", 1, 1)
        assert str(caught.value).endswith(f"with {found}.")


def test_what_would_not_resume_or_be_stacked_is_refused():
    with pytest.raises(
        ValueError, match=r"makes another task when it is called again for the same one: draw from task.generator"
    ):
        FunctionSource(function=draws_elsewhere, num_examples=9).check("train", 1, 1)
    with pytest.raises(
        ConfigurationError, match=r"task 1 of split train: .* shapes of the first, \[9, 1\] and \[9, 1\], and"
    ):
        FunctionSource(function=changes_shape, num_examples=9).sample(0, "train", torch.arange(2), 1, 1)
    source = FunctionSource(function=line, num_examples=9)
    with pytest.raises(
        ValueError, match=r"4 shots \+ 6 queries need 10 examples, and dataset.source.num_examples is 9. Raise it"
    ):
        source.check("test", 4, 6)
    with pytest.raises(ValueError, match=r"shots and queries must be >= 1, got 0. Set evaluation.val_queries"):
        source.check("val", 1, 0)
    with pytest.raises(ValueError, match=r"function must be a function of one task, got 3"):
        FunctionSource(function=3, num_examples=9)  # pyright: ignore[reportArgumentType]


def test_a_run_of_ones_own_function_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_own_lines.py").write_text(
        "import torch\n\n\ndef line(task, slope=3.0):\n    x = torch.rand(task.num_examples, 1, generator=task.generator)\n"
        "    return x, slope * x + torch.rand((), generator=task.generator)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    own = ("dataset=function_regression", "dataset.source.function._target_=my_own_lines.line")
    words = (*SIX_STEPS, "device.program=eager", *own, "+dataset.source.function.slope=2.0")
    assert run_here(*words, f"run.root={tmp_path / 'whole'}") == 0
    run_and_kill(5, *words, f"run.root={tmp_path / 'killed'}")
    assert run_here(*words, f"run.root={tmp_path / 'killed'}") == 0
    whole = only_folder(tmp_path / "whole")
    assert_same_runs(whole, only_folder(tmp_path / "killed"))
    assert (whole / "sources.json").read_text().count("my_own_lines.py") == 1
    capsys.readouterr()
    assert run_here("evaluate", str(whole)) == 2
    assert "--allow my_own_lines.line" in capsys.readouterr().err
    assert run_here("evaluate", str(whole), "--allow", "my_own_lines.line") == 0
    assert run_here(*SIX_STEPS, "dataset=function") == 2
    said = "dataset.source.function._target_ must name a class with its module, such as my_package.MyNet, got None"
    assert said in capsys.readouterr().err
