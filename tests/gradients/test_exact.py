"""The exact meta-gradient against closed forms and finite differences, all in float64."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from metarun.gradients import exact as module
from metarun.gradients.exact import exact_gradient
from metarun.problems.base import losses_of

from .problems import Bench, bench_of, closed_form, flat, hessians, ridge, smooth_net

WEIGHT = 0.7


def exact_of(bench: Bench, solver_steps: int = 100, newton_steps: int = 30):
    return exact_gradient(
        bench.algorithm, bench.theta, bench.problem, bench.tasks, solver_steps=solver_steps, newton_steps=newton_steps
    )


@pytest.mark.parametrize("max_dense", [2000, 0], ids=["dense", "cg"])
@pytest.mark.parametrize("solver_steps", [0, 100])
def test_ridge_regression_is_the_closed_form(max_dense, solver_steps, monkeypatch):
    monkeypatch.setattr(module, "MAX_DENSE", max_dense)
    bench = ridge()
    phi, system, gradient = closed_form(bench)
    found = exact_of(bench, solver_steps)
    assert found.method == ("dense" if max_dense else "cg")
    torch.testing.assert_close(flat(found.params), phi, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flat(found.gradient), gradient, rtol=1e-10, atol=1e-10)
    assert found.solved.all()
    assert (found.residual < 1e-13).all()
    assert (found.system_residual < 1e-10).all()
    lowest = torch.linalg.eigvalsh(system)[:, 0]
    if max_dense:
        torch.testing.assert_close(found.min_curvature, lowest, rtol=1e-12, atol=0)
    else:  # of the directions met: not below the smallest eigenvalue
        assert (found.min_curvature >= lowest - 1e-12).all()


def test_a_step_size_that_diverges_does_not_spoil_it():
    """The inner steps grow without bound; Newton's then begin at theta."""
    bench = ridge(step_size=5.0)
    _, _, gradient = closed_form(bench)
    torch.testing.assert_close(flat(exact_of(bench, 1000).gradient), gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("changes", [{}, {"adapted": "head"}, {"weight": {"*.bias": 2.0, "*": 1.5}}], ids=str)
def test_a_net_agrees_with_differences_of_its_solutions(changes):
    """d/dtheta of theta -> query loss at the solution, by central differences in every parameter; frozen ones, too."""
    bench = smooth_net(**({"weight": 1.5} | changes))
    found = exact_of(bench)
    assert found.solved.all()
    assert (found.min_curvature > 0).all()
    frozen = {name for name in bench.theta if name not in found.params}
    assert bool(frozen) == ("adapted" in changes)

    def losses(theta) -> Tensor:
        params = exact_of(dataclasses.replace(bench, theta=theta), 10).params
        rest = {name: theta[name].expand(len(bench.tasks), *theta[name].shape) for name in frozen}
        return losses_of(bench.problem, params | rest, bench.tasks.query)

    step = 1e-5
    for name, leaf in bench.theta.items():
        for index in range(leaf.numel()):
            unit = torch.zeros_like(leaf).flatten()
            unit[index] = step
            ahead, behind = (
                losses(bench.theta.updated({name: leaf + sign * unit.reshape(leaf.shape)})) for sign in (1, -1)
            )
            difference = (ahead - behind) / (2 * step)
            # Differences err by step^2 and by rounding / step, about 1e-10 each.
            torch.testing.assert_close(found.gradient[name].flatten(1)[:, index], difference, rtol=1e-7, atol=1e-8)


def test_an_indefinite_system_goes_to_minres_and_is_called_unsolved(monkeypatch):
    """Without a single step phi is theta: no stationary point, and with a small lambda the Hessian's sign shows."""
    bench = smooth_net(weight=0.05)
    dense = exact_of(bench, 0, 0)
    assert (dense.min_curvature < 0).any()
    assert not dense.solved.any()
    assert torch.equal(dense.residual, torch.ones(3, dtype=torch.float64))
    monkeypatch.setattr(module, "MAX_DENSE", 0)
    found = exact_of(bench, 0, 0)
    assert found.method == "minres"
    assert (found.min_curvature < 0).any()
    torch.testing.assert_close(flat(found.gradient), flat(dense.gradient), rtol=1e-7, atol=1e-8)


def test_a_kink_is_reported_and_not_hidden():
    """(relu(phi) + 1)^2 pulls phi down as long as it is positive, lambda pulls it up: the minimum is at 0, with no slope there."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    bench = bench_of(net, ridge(weight=1e-3).algorithm)
    bench.theta["0.weight"].fill_(1.0)
    support = dataclasses.replace(
        bench.tasks.support,
        inputs=torch.ones_like(bench.tasks.support.inputs),
        targets=-torch.ones_like(bench.tasks.support.targets),
    )
    bench = dataclasses.replace(bench, tasks=dataclasses.replace(bench.tasks, support=support))
    found = exact_of(bench)
    assert not found.solved.any()
    assert (found.residual > 1e-6).all()


def test_hessians_of_the_reference_are_those_of_the_loss():
    """The closed form's own ingredient, by autograd of one task's loss."""
    bench = ridge()
    task = bench.tasks[0:1]

    def loss(weights: Tensor) -> Tensor:
        return ((task.support.inputs[0] @ weights[:, None] - task.support.targets[0]) ** 2).mean()

    expected = torch.autograd.functional.hessian(loss, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(hessians(bench)[0], expected)
