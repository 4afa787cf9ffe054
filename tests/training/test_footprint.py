"""metarun.training.footprint: what tasks take is worked out from small ones, and is what they take."""

from collections.abc import Callable

import pytest
import torch

from metarun.build import make_parts
from metarun.device import memory
from metarun.device.memory import peak_live_bytes, saved_bytes
from metarun.problems.base import losses_of
from metarun.tasks.types import TaskBatch
from metarun.training import footprint as module
from metarun.training.footprint import Footprint
from tests.calls import task_gradients

from .small import GLYPHS, QUICK, configuration

IMAML = ("algorithm=imaml", "algorithm.inner.steps=2")


def footprint_of(*overrides: str, shots: int, queries: int) -> tuple[Footprint, Callable[[int], TaskBatch]]:
    parts = make_parts(configuration(*QUICK, *overrides))
    each = Footprint(
        source=parts.source,
        problem=parts.problem,
        model=parts.learner.init(dtype=parts.dtype),
        dtype=parts.dtype,
        split="train",
        shots=shots,
        queries=queries,
        work=lambda tasks: task_gradients(parts.algorithm, parts.theta, parts.problem, tasks),
    )
    return each, lambda number: parts.source.sample(0, "train", torch.arange(number), shots, queries)


@pytest.mark.parametrize(
    ("overrides", "shots", "queries"),
    [((), 10, 40), (("dataset=harmonic", "device.dtype=float64"), 3, 50), ((*GLYPHS, *IMAML), 1, 15)],
    ids=["maml", "float64", "imaml on glyphs"],
)
def test_the_sizes_are_those_of_the_whole_task(overrides, shots, queries):
    each, sample = footprint_of(*overrides, shots=shots, queries=queries)
    tasks = sample(6).to("cpu", each.dtype)
    assert each.drawn == tasks.num_bytes // 6
    phi = {name: leaf[None].requires_grad_() for name, leaf in each.model.items()}
    one = sample(1).to("cpu", each.dtype)
    whole = saved_bytes(lambda: losses_of(each.problem, phi, one.support) + losses_of(each.problem, phi, one.query))
    assert each.saved == whole
    # Lower bounds, to 1 %: what is made once is in the peak and not in the bound, and the smaller set may not count.
    for bound, real in ((each.drawing, peak_live_bytes(lambda: sample(6))), (each.working, _peak(each, tasks))):
        assert 0.6 * real < 6 * bound < 1.01 * real


def _peak(each: Footprint, tasks: TaskBatch) -> int:
    return peak_live_bytes(lambda: each.work(tasks))


def test_what_does_not_fit_is_refused_with_its_keys_and_what_fits_is_not(monkeypatch):
    each, _ = footprint_of(shots=10, queries=10)
    device = torch.device("cpu")

    def there(size: int) -> None:
        for place in (memory, module):
            monkeypatch.setattr(place, "available_bytes", lambda device: size)

    there(10**6 * each.drawing)
    each.require(10**6, 1, device)
    there(10**6 * each.drawing - 1)
    with pytest.raises(ValueError) as raised:
        each.require(10**6, 1, device)
    size = f"{10**6 * each.drawing / 2**30:.1f} GiB"
    assert str(raised.value) == (
        f"drawing 1000000 task(s) of 10 shots and 10 queries takes at least {size} of memory, and {size} are there. "
        "Lower schedule.tasks_per_step, dataset.shots or dataset.queries."
    )
    needed = 1000 * (each.drawn + each.working)
    there(needed)
    each.require(1000, 1000, device)
    there(needed - 1)
    with pytest.raises(ValueError) as raised:
        each.require(1000, 1000, device)
    assert str(raised.value).startswith("working on 1000 task(s) of 10 shots and 10 queries at once takes at least ")
    assert str(raised.value).endswith(
        "Lower device.task_chunk, dataset.shots or dataset.queries, or take a smaller model."
    )


def test_where_there_is_plenty_no_work_is_done(monkeypatch):
    each, _ = footprint_of(shots=10, queries=10)
    worked = []
    object.__setattr__(each, "work", worked.append)
    monkeypatch.setattr(module, "available_bytes", lambda device: 2**40)
    each.require(25, 25, torch.device("cpu"))
    assert worked == []
