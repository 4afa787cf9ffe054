"""Kronecker factors: where they are the Fisher matrix itself, what is averaged, and what chance does to them."""

import itertools

import pytest
import torch
from torch import nn

from metarun.algorithm import Algorithm, FirstOrder, Kfac
from metarun.algorithm.direction.adapted_models import fisher
from metarun.algorithm.direction.metric import layer_gradients
from metarun.algorithm.direction.metric.base import Asked
from metarun.algorithm.protocols import AdaptedTasks
from metarun.device.ranks import ALONE
from metarun.maths.operators import dense
from metarun.maths.trees import ravel
from metarun.models.learner import Learner
from metarun.problems.classification import Classification
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from tests.calls import bilevel, task_gradients

from .closed_forms import composed, descent

pytestmark = pytest.mark.usefixtures("float64")


def kfac(**changes) -> Kfac:
    return Kfac(
        **{"corrected": False, "memory": 0.0, "num_tasks": None, "num_fresh_tasks": 0, "samples": None} | changes
    )


def tasks_of(shape: tuple[int, ...], outputs: int, *, classes: bool, count: int = 2, size: int = 6) -> TaskBatch:
    generator = torch.Generator().manual_seed(3)

    def examples() -> Examples:
        inputs = torch.randn(count, size, *shape, generator=generator)
        if classes:
            return Examples(inputs, torch.randint(outputs, (count, size), generator=generator))
        return Examples(inputs, torch.randn(count, size, outputs, generator=generator))

    return TaskBatch(examples(), examples(), {})


class Case:
    """A model at theta (no inner steps, so phi is theta) and tasks."""

    def __init__(self, module: nn.Module, tasks: TaskBatch) -> None:
        torch.manual_seed(5)
        for leaf in module.parameters():
            nn.init.normal_(leaf, std=0.7)
        learner = Learner(module.double(), head="").to("cpu", torch.float64)
        classes = tasks.query_set.targets.dtype == torch.int64
        self.problem = (Classification if classes else Regression)(learner)
        self.theta, self.tasks = learner.init(dtype=torch.float64), tasks
        self.algorithm: Algorithm = composed(descent(0, 0.1), FirstOrder())

    def asked(self, chunk: int = 2) -> Asked:
        chunks = [
            AdaptedTasks(
                bilevel(self.algorithm, self.theta, self.problem, each),
                task_gradients(self.algorithm, self.theta, self.problem, each),
            )
            for each in self.tasks.chunks(chunk)
        ]
        like = {name: leaf[None] for name, leaf in self.theta.items()}
        return Asked(like, chunks, [], FirstOrder(), ALONE)

    def fisher(self) -> torch.Tensor:
        asked = self.asked()
        product = fisher(asked.step, asked.meta_gradient, ALONE, point="phi")
        vectors = ravel(asked.like)
        return dense(product, 1, vectors.shape[1], like=vectors)[0]


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize(("corrected", "damping"), [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_one_linear_gaussian_layer_is_exact(corrected, damping):
    """F = (2/N I) kron mean of a a', whatever the tasks; EKFAC's eigenvalues are F's own, so that it is exact with damping too."""
    case = Case(nn.Linear(3, 2), tasks_of((3,), 2, classes=False))
    matrix, _ = kfac(corrected=corrected).at(case.asked(), {})
    rhs = torch.randn(1, 8)
    found = matrix.solve(rhs, damping)
    expected = torch.linalg.solve(case.fisher() + damping * torch.eye(8), rhs[0])
    torch.testing.assert_close(found.solution[0], expected, rtol=1e-10, atol=1e-12)
    assert found.squared.item() == pytest.approx((expected @ case.fisher() @ expected).item(), rel=1e-10)


def test_a_block_diagonal_fisher_matrix_of_one_example_is_exact():
    """One example of one task: each layer's block is J'MJ kron a a'. Two separate nets side by side have no others."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 1), nn.Linear(3, 1)

        def forward(self, inputs):
            return torch.cat([torch.tanh(self.one(inputs[:, :2])), torch.tanh(self.two(inputs[:, 2:]))], 1)

    case = Case(Apart(), tasks_of((5,), 2, classes=False, count=1, size=1))
    rhs = torch.randn(1, 7)
    expected = torch.linalg.solve(case.fisher() + 0.2 * torch.eye(7), rhs[0])
    matrix, _ = kfac(corrected=True).at(case.asked(), {})
    torch.testing.assert_close(matrix.solve(rhs, 0.2).solution[0], expected, rtol=1e-10, atol=1e-12)


def test_what_is_no_layer_has_the_diagonal():
    """One scale for each output, one example: F's diagonal, exactly."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, inputs):
            return self.scale * inputs

    case = Case(Scaled(), tasks_of((3,), 3, classes=True, count=2, size=1))
    rhs = torch.randn(1, 3)
    matrix, _ = kfac().at(case.asked(), {})
    expected = rhs[0] / (case.fisher().diagonal() + 0.2)
    torch.testing.assert_close(matrix.solve(rhs, 0.2).solution[0], expected, rtol=1e-11, atol=0)


def test_a_layer_that_is_not_called_is_no_layer():
    """Its weights are used past it: the diagonal is theirs, and the other layer's factors are as ever."""

    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unseen, self.seen = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, inputs):
            return self.seen(nn.functional.linear(inputs, self.unseen.weight, self.unseen.bias))

    case = Case(Past(), tasks_of((3,), 2, classes=False, count=1, size=1))
    _, state = kfac().at(case.asked(), {})
    torch.testing.assert_close(state["other"][0], case.fisher().diagonal()[:12], rtol=1e-11, atol=1e-14)
    assert state["inputs_0"].shape == (4, 4)
    assert "inputs_1" not in state


@pytest.mark.parametrize("corrected", [False, True])
def test_chunks_change_nothing(corrected):
    """Signs are a task's own, whichever chunk it is in: a batch norm mixes examples, so that they count."""
    case = Case(normed(), tasks_of((3,), 3, classes=True, count=3))
    rhs = torch.randn(1, ravel(case.asked().like).shape[1])
    found = [kfac(corrected=corrected).at(case.asked(chunk), {})[0].solve(rhs, 0.1).solution for chunk in (1, 2, 3)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_the_first_tasks_alone(chunk):
    """num_tasks=2 of 3 is what two tasks by themselves give, however they are cut."""
    case = Case(normed(), tasks_of((3,), 3, classes=True, count=3))
    two = Case(case.problem.learner.module, case.tasks[:2])
    expected = kfac(corrected=True).at(two.asked(), {})[1]
    found = kfac(corrected=True, num_tasks=2).at(case.asked(chunk), {})[1]
    for name in ("inputs_0", "outputs_0", "inputs_1", "outputs_1", "other"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-13)


def test_the_mean_over_signs_is_each_examples_own(monkeypatch):
    """Batch norm ties 3 examples together. Over all 8 patterns of signs, G's mean is that of one example's columns at a time."""
    case = Case(normed(), tasks_of((3,), 3, classes=True, count=1, size=3))

    def states(signs: list[torch.Tensor]) -> list[dict]:
        found = []
        for pattern in signs:
            monkeypatch.setattr(layer_gradients, "_signs", lambda keys, *shape, p=pattern: p.view(1, *shape))
            found.append(kfac().at(case.asked(), {})[1])
        return found

    patterns = states([torch.tensor(each) for each in itertools.product((1.0, -1.0), repeat=3)])
    alone = states(list(torch.eye(3)))  # a sign of zero leaves an example out
    assert (patterns[0]["outputs_0"] - patterns[1]["outputs_0"]).abs().max() > 1e-3  # they do count
    for name in ("outputs_0", "outputs_1", "other"):
        mean = torch.stack([state[name] for state in patterns]).mean(0)
        expected = torch.stack([state[name] for state in alone]).sum(0)
        torch.testing.assert_close(mean, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("samples", [1, 2])
def test_the_mean_over_samples_is_the_matrix(samples, monkeypatch):
    """Over all patterns of signs of one example's three columns: G and EKFAC's eigenvalues are those without chance."""
    case = Case(nn.Linear(3, 3), tasks_of((3,), 3, classes=True, count=1, size=1))
    exact = kfac(corrected=True).at(case.asked(), {})[1]
    found = []
    for pattern in itertools.product((1, -1), repeat=3 * samples):
        monkeypatch.setattr(layer_gradients, "_signs", lambda keys, *shape, p=pattern: torch.tensor(p).view(1, *shape))
        found.append(kfac(samples=samples).at(case.asked(), {})[1]["outputs_0"])
    torch.testing.assert_close(torch.stack(found).mean(0), exact["outputs_0"], rtol=1e-12, atol=1e-14)


def test_averages_over_steps():
    """The mean over the first steps, whose weight falls to 1 - memory = 1/4 with the fourth."""
    module = nn.Linear(3, 2)
    one = Case(module, tasks_of((3,), 2, classes=False))
    other = Case(module, TaskBatch(one.tasks.query, one.tasks.support, {}))
    alone = [kfac().at(case.asked(), {})[1] for case in (one, other)]
    state = {"mean": torch.ones(1)}
    for case, share in ((one, 0.0), (other, 1 / 2), (one, 1 / 3), (one, 1 / 4), (other, 7 / 16)):
        state = kfac(memory=0.75).at(case.asked(), state)[1]
        assert state["mean"].item() == 1.0  # what is others' is handed on
        for name in ("inputs_0", "outputs_0"):
            expected = (1 - share) * alone[0][name] + share * alone[1][name]
            torch.testing.assert_close(state[name], expected, rtol=1e-13, atol=1e-15)


def test_corrected_eigenvalues_are_carried_into_the_new_basis():
    """The same step twice leaves everything as it is; turned inputs turn the basis, and the matrix is averaged as a matrix.

    In the old basis it is U diag(s) U', and its diagonal in the new one is what enters the average.
    """
    case = Case(nn.Linear(3, 3), tasks_of((3,), 3, classes=True))
    metric = kfac(corrected=True, memory=0.5)
    first = metric.at(case.asked(), {})[1]
    again = metric.at(case.asked(), first)[1]
    torch.testing.assert_close(again["values_0"], first["values_0"], rtol=1e-10, atol=1e-13)
    swapped = Case(case.problem.learner.module, TaskBatch(case.tasks.query, case.tasks.support, {}))
    after = metric.at(swapped.asked(), first)[1]
    u, v = (torch.kron(each["outputs_basis_0"], each["inputs_basis_0"]) for each in (first, after))
    old = (v.T @ u @ torch.diag(first["values_0"].flatten()) @ u.T @ v).diagonal()
    asked = swapped.asked()
    here = torch.einsum("di,de,ei->i", v, _sum_of_examples(asked), v)
    torch.testing.assert_close(after["values_0"].flatten(), (old + here) / 2, rtol=1e-10, atol=1e-13)


def _sum_of_examples(asked: Asked) -> torch.Tensor:
    """F of a single linear layer [weight | bias], row by row of that matrix, formed example by example."""
    total = torch.zeros(12, 12)
    for chunk in asked.step:
        weight, bias = (chunk.gradients.params[name] for name in ("weight", "bias"))
        for b, inputs in enumerate(chunk.bilevel.inner.tasks.query_set.inputs):
            for x in inputs:
                p = (weight[b] @ x + bias[b]).softmax(0)
                a = torch.cat([x, torch.ones(1)])
                total += torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(a, a)) / len(inputs)
    return total / sum(len(chunk.bilevel) for chunk in asked.step)


def test_a_layer_called_twice_adds_up():
    """y = W W x with one example: EKFAC's eigenvalues are of the sum of both calls' gradients, the block's own diagonal."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)

        def forward(self, inputs):
            return self.layer(torch.tanh(self.layer(inputs)))

    case = Case(Twice(), tasks_of((2,), 2, classes=False, count=1, size=1))
    state = kfac(corrected=True).at(case.asked(), {})[1]
    basis = torch.kron(state["outputs_basis_0"], state["inputs_basis_0"])
    expected = (basis.T @ case.fisher() @ basis).diagonal()
    torch.testing.assert_close(state["values_0"].flatten(), expected, rtol=1e-10, atol=1e-13)
