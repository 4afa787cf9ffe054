"""Errors, time and memory of the estimators, on problems whose answers are known."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from metarun.algorithm import ConjugateGradient, Dense, Implicit, LearnedRates, NewtonCG, Richardson
from metarun.device.memory import LiveBytes
from metarun.gradients.cost import median_s, peak_bytes
from metarun.gradients.measure import (
    Bench,
    enough,
    estimators,
    measure_costs,
    measure_errors,
    measure_inner,
    solve,
)
from metarun.maths.trees import norm_per_task
from metarun.report.gradient_tables import legend

from .problems import NUM_TASKS, SIZE, WEIGHT, algorithm, bench_of, closed_form, flat, grid, hessians, ridge, smooth_net

CPU = torch.device("cpu")


def implicit(curvature: str = "hessian", rtol: float = 0.0, **changes) -> Implicit:
    solver = ConjugateGradient(steps=5, rtol=rtol, atol=0.0, negative_curvature="stop")
    return Implicit(**{"curvature": curvature, "solver": solver, "damping": 0.0} | changes)


def cells_of(bench: Bench, **changes) -> dict[tuple, dict]:
    """By (inner steps, name, curvature, CG steps)."""
    settings = grid(**changes)
    columns = estimators(bench.algorithm, settings)
    cells = measure_errors(bench, columns, settings, solve(bench, settings))
    return {(c["inner_steps"], c["name"], c["curvature"], c["cg_steps"]): c for c in cells}


def largest_step(bench: Bench) -> float:
    return 1 / (torch.linalg.eigvalsh(hessians(bench)).max().item() + WEIGHT)


def test_error_of_cg_at_the_solution_falls_in_the_norm_of_the_system_and_ends_exact():
    """CG5: at convergence, non-increasing in sqrt(e'Ae) and below 1e-9 after D steps."""
    bench = ridge(step_size=largest_step(ridge()), meta_gradient=implicit())
    _, system, exact = closed_form(bench)
    settings = grid(inner_steps=[300], cg_steps=[0, 1, 2, 3, SIZE], curvatures=["hessian"])
    norms = []
    for column in estimators(bench.algorithm, settings):
        if column.name == "implicit":
            error = flat(bench.estimate(column.part, 300).gradient) - exact
            norms.append(torch.einsum("bi,bij,bj->b", error, system, error).sqrt())
    assert all((after <= before).all() for before, after in itertools.pairwise(norms))
    cells = cells_of(bench, inner_steps=[300], curvatures=["hessian"])
    errors = [cells[300, "implicit", "hessian", n]["error"] for n in (0, 1, 2, 3, SIZE)]
    assert errors[0] == pytest.approx(cells[300, "first_order", None, None]["error"], rel=1e-15)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-9
    # phi is the solution, so the whole error is what stopping early costs.
    for count, error in zip((0, 1, 2, 3), errors, strict=False):
        assert cells[300, "implicit", "hessian", count]["system_error"] == pytest.approx(error, rel=1e-6)


def test_relative_errors_are_those_of_each_task_and_of_the_mean():
    bench = ridge()
    _, _, exact = closed_form(bench)
    cell = cells_of(bench)[2, "first_order", None, None]
    columns = estimators(bench.algorithm, grid())
    found = flat(bench.estimate(columns[1].part, 2).gradient)
    errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
    assert cell["errors"] == pytest.approx(errors.tolist(), rel=1e-10)
    assert cell["error"] == sorted(cell["errors"])[NUM_TASKS // 2]
    assert cell["error_of_mean"] == pytest.approx(
        ((found - exact).mean(0).norm() / exact.mean(0).norm()).item(), rel=1e-9
    )


def test_unrolled_converges_at_the_rate_of_the_inner_solver():
    """J_K - A^-1 and phi_K - phi* both shrink by max |1 - alpha (h + lambda)| with each step."""
    bench = ridge(step_size=0.05)
    rates = (1 - 0.05 * (torch.linalg.eigvalsh(hessians(bench)) + WEIGHT)).abs().max(dim=1).values
    found = cells_of(bench, inner_steps=[150, 151], cg_steps=[0], curvatures=["hessian"])
    before, after = (found[steps, "unrolled", None, None]["errors"] for steps in (150, 151))
    for rate, one, other in zip(rates.tolist(), before, after, strict=True):
        assert other > 1e-13  # above rounding, so that a ratio means something
        # By then the slowest direction is all there is, but for (rate_2 / rate_1)^150.
        assert other / one == pytest.approx(rate, rel=2e-2)


def test_distance_and_gradient_left_of_the_inner_steps():
    """Gradient descent on a quadratic with alpha = 1 / (h + lambda) in one dimension is there after one step."""
    bench = bench_of(nn.Sequential(nn.Linear(1, 1, bias=False)), algorithm())
    task = dataclasses.replace(bench, tasks=bench.tasks[0:1])
    curvature = 2 * task.tasks.support.inputs.square().mean().item()
    halfway = dataclasses.replace(task, algorithm=algorithm(step_size=0.5 / (curvature + WEIGHT)))
    settings = grid(inner_steps=[1, 2, 3])
    rows = measure_inner(halfway, settings, solve(halfway, settings))
    assert [row["distance"] for row in rows] == pytest.approx([0.5, 0.25, 0.125], rel=1e-10)
    assert [row["relative_gradient"] for row in rows] == pytest.approx([0.5, 0.25, 0.125], rel=1e-10)


def test_without_lambda_the_unrolled_gradient_is_the_reference():
    """First order is then off by alpha |H v| / |(I - alpha H) v| after one step; the recursion by rounding alone."""
    bench = ridge(weight=0.0)
    cells = cells_of(bench, inner_steps=[1, 5])
    assert {key[1:3] for key in cells} == {
        ("unrolled", None),
        ("first_order", None),
        ("recursion", "hessian"),
        ("recursion", "finite_difference"),
    }
    assert [cells[steps, "unrolled", None, None]["error"] for steps in (1, 5)] == [0.0, 0.0]
    assert cells[5, "recursion", "hessian", None]["error"] < 1e-14
    assert cells[5, "recursion", "finite_difference", None]["error"] < 1e-8  # exact on quadratics but for rounding
    columns = {column.name: column for column in estimators(bench.algorithm, grid())}
    slope = flat(bench.estimate(columns["first_order"].part, 1).gradient)
    turned = 0.05 * torch.einsum("bij,bj->bi", hessians(bench), slope)
    expected = (turned.norm(dim=1) / (slope - turned).norm(dim=1)).tolist()
    assert cells[1, "first_order", None, None]["errors"] == pytest.approx(expected, rel=1e-10)


def test_on_a_linear_model_gauss_newton_is_the_hessian_and_on_a_net_it_is_not():
    linear, net = cells_of(ridge()), cells_of(smooth_net(weight=1.5))
    for count in (1, SIZE):
        one, other = (linear[2, "implicit", curvature, count]["error"] for curvature in ("hessian", "gauss_newton"))
        assert one == pytest.approx(other, rel=1e-9)
    one, other = (net[2, "implicit", curvature, SIZE]["error"] for curvature in ("hessian", "gauss_newton"))
    assert one != pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("name", ["damping", "identity", "weight_offset"])
def test_the_system_is_the_algorithms_own(name):
    """imaml_official solves another system: it comes to its own solution, and not to the exact gradient."""
    bench = ridge(step_size=0.1, meta_gradient=implicit(**{name: 3.0}))
    cells = cells_of(bench, inner_steps=[100], cg_steps=[SIZE], curvatures=["hessian"])
    cell = cells[100, "implicit", "hessian", SIZE]
    assert cell["system_error"] < 1e-9
    assert cell["error"] > 0.1


def test_which_estimators_there_are():
    everything = {"unrolled", "first_order", "implicit"}
    newton = NewtonCG(
        steps=2, cg_steps=2, curvature="hessian", damping=0.0, adapt_damping=False, rtol=0.0,
        forcing=False, progress_rtol=0.0, warm_start=0.0, max_backtracks=5, tolerance=0.0,
    )  # fmt: skip
    chosen = dataclasses.replace(algorithm(), inner=newton)
    assert {column.name for column in estimators(algorithm(), grid())} == everything
    assert {column.name for column in estimators(chosen, grid())} == everything - {"unrolled"}
    with pytest.raises(ValueError, match=r"NewtonCG cannot be differentiated\. Set algorithm\.proximal_weight"):
        estimators(dataclasses.replace(chosen, proximal_weight=0.0), grid())
    own = algorithm(meta_gradient=implicit(solver=Dense()))
    with pytest.raises(ValueError, match=r"Dense has none\. Choose algorithm/meta_gradient/solver=cg"):
        estimators(own, grid())


def test_learned_rates_of_each_step_serve_more_steps_than_they_were_learned_for():
    """With equal rates they are gradient descent, whatever the number of steps."""
    rates = LearnedRates(steps=2, step_size=0.05, rates="layer_and_step")
    bench = ridge(weight=0.0)
    unrolled = estimators(bench.algorithm, grid())[0]
    learning = dataclasses.replace(bench.algorithm, inner=rates, meta_gradient=unrolled.part)
    theta = learning.meta_parameters(bench.problem, dict(bench.theta))
    assert set(theta) > set(bench.theta)
    learned = dataclasses.replace(bench, algorithm=learning, theta=theta)
    for steps in (1, 2, 5):
        mine, plain = (each.estimate(unrolled.part, steps).gradient for each in (learned, bench))
        torch.testing.assert_close(flat({n: mine[n] for n in plain}), flat(plain), rtol=1e-13, atol=1e-14)
    assert cells_of(learned, inner_steps=[5])[5, "first_order", None, None]["error"] > 0


def test_a_learned_lambda_is_the_one_in_force():
    """exp(rho) for each parameter: not yet moved it is the number itself, moved it is another."""
    fixed = smooth_net(weight=5.0, meta_gradient=implicit())
    learning = smooth_net(weight=5.0, meta_gradient=implicit(), learn_proximal_weight="parameter")
    theta = learning.theta
    learned = learning
    moved = theta.updated({name: leaf + 1 for name, leaf in theta.items() if name.startswith("proximal_weight/")})
    exact, same, other = (
        flat(solve(bench, grid()).gradient) for bench in (fixed, learned, dataclasses.replace(learning, theta=moved))
    )
    torch.testing.assert_close(same, exact, rtol=1e-9, atol=1e-10)
    assert (other - exact).norm() / exact.norm() > 0.01


def cell(steps: int, curvature: str, count: int, error: float | None) -> dict:
    return {"inner_steps": steps, "name": "implicit", "curvature": curvature, "cg_steps": count, "system_error": error}


def test_enough_is_the_first_number_of_steps_within_the_bound():
    cells = [
        *(cell(1, "hessian", n, e) for n, e in ((0, 2.0), (1, 0.3), (2, 0.1), (5, 0.0))),
        *(cell(1, "gauss_newton", n, e) for n, e in ((0, 0.05), (1, 0.3))),
        *(cell(2, "hessian", n, e) for n, e in ((0, None), (1, 0.2))),
        {"inner_steps": 2, "name": "unrolled", "curvature": None, "cg_steps": None},
    ]
    assert [tuple(row.values()) for row in enough(cells, grid(within=0.1))] == [
        (1, "hessian", 2),
        (1, "gauss_newton", 0),
        (2, "hessian", None),
    ]


def test_live_bytes_counts_each_storage_once_while_it_lives():
    given = torch.zeros(1000, dtype=torch.float64)

    def work() -> None:
        first = given + 1  # 8 000 bytes
        view = first[:10]  # none
        second = view.repeat(100)  # 8 000
        del first
        view.sum()  # 8; `first` lives on in its view
        del view
        third = torch.cat([second, second])  # 16 000, after 8 000 have gone
        third.add_(1)
        given.reshape(10, 100)

    assert peak_bytes(work, CPU) == 8000 + 16000
    with LiveBytes() as live:
        work()
    assert live.now == 0


def test_live_bytes_sees_what_autograd_keeps():
    leaf = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with LiveBytes() as live:
        kept = leaf.exp().exp()
        assert live.now == 2 * 8000  # both results are saved
        del kept
        assert live.now == 0


def peaks(bench: Bench, name: str, curvature: str | None, counts: list[int]) -> list[int]:
    column = next(
        c for c in estimators(bench.algorithm, grid(cg_steps=[5])) if (c.name, c.curvature) == (name, curvature)
    )
    return [peak_bytes(lambda n=count: bench.estimate(column.part, n), CPU) for count in counts]


def test_memory_of_unrolled_is_affine_in_inner_steps():
    """S1, of everything that is held."""
    held = peaks(smooth_net(weight=1.5), "unrolled", None, [4, 6, 8, 10])
    growth = [after - before for before, after in itertools.pairwise(held)]
    assert growth[0] == growth[1] == growth[2] > 0


@pytest.mark.parametrize(
    ("name", "curvature"), [("first_order", None), ("implicit", "hessian"), ("implicit", "gauss_newton")]
)
def test_memory_of_the_others_is_constant(name, curvature):
    """S1; but for the norm of the first gradient, a number for each task."""
    held = peaks(smooth_net(weight=1.5, meta_gradient=implicit()), name, curvature, [4, 8, 16, 32])
    assert max(held) - min(held) <= 8 * NUM_TASKS


def test_costs_come_in_the_order_of_the_errors():
    bench = smooth_net(weight=1.5)
    settings = grid(inner_steps=[4, 2], cg_steps=[2])
    columns = estimators(bench.algorithm, settings)
    costs = list(measure_costs(bench, columns, settings, CPU))
    errors = list(measure_errors(bench, columns, settings, solve(bench, settings)))
    assert [(e["inner_steps"], e["name"]) for e in errors] == [
        (steps, column.name) for steps in (2, 4) for column in columns
    ]
    for cost, error in zip(costs, errors, strict=True):
        column = next(c for c in columns if (c.name, c.curvature) == (error["name"], error["curvature"]))
        expected = peak_bytes(lambda part=column.part, n=error["inner_steps"]: bench.estimate(part, n), CPU)
        assert abs(cost["memory_mib"] * 2**20 - expected) <= 8 * NUM_TASKS
        assert cost["time_ms"] > 0


def test_out_of_memory_is_a_cell_without_numbers(monkeypatch):
    bench = ridge()
    settings = grid(inner_steps=[2], cg_steps=[1], curvatures=["hessian"])
    columns = estimators(bench.algorithm, settings)
    exact = solve(bench, settings)
    whole = Bench.estimate

    def estimate(self, part, inner_steps):
        if part is columns[0].part:
            raise torch.OutOfMemoryError("as on a GPU")
        return whole(self, part, inner_steps)

    monkeypatch.setattr(Bench, "estimate", estimate)
    first, *others = measure_errors(bench, columns, settings, exact)
    assert first["out_of_memory"]
    assert first["error"] is None
    assert all(other["error"] is not None for other in others)
    costs = list(measure_costs(bench, columns, settings, CPU))
    assert costs[0] == {"time_ms": None, "memory_mib": None}
    assert None not in costs[1].values()


def test_the_median_time_is_of_so_many_calls():
    calls = []
    assert median_s(lambda: calls.append(1), CPU, 5) >= 0
    assert len(calls) == 5


def test_benches_change_their_number_format_and_nothing_else():
    bench = ridge()
    single = bench.to(CPU, torch.float32)
    columns = estimators(bench.algorithm, grid())
    small = single.estimate(columns[0].part, 2).gradient
    assert {leaf.dtype for leaf in small.values()} == {torch.float32}
    back = bench.to(CPU, torch.float64).estimate(columns[0].part, 2).gradient
    difference = norm_per_task({n: small[n].double() - back[n] for n in back}) / norm_per_task(back)
    assert (difference < 1e-6).all()


def test_tasks_whose_differences_meet_a_kink_are_counted_and_told():
    """One task of three has inputs of zero, and every unit without a bias of its own lies on ReLU's kink there."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for weight, name in ((0.0, "recursion"), (WEIGHT, "implicit")):
        bench = bench_of(net, algorithm(weight=weight))
        bench.theta["0.bias"].zero_()
        bench.tasks.support.inputs[1] = 0
        changes = {"inner_steps": [1], "curvatures": ["finite_difference"], "cg_steps": [2], "solver_steps": 1}
        cells = cells_of(bench, **changes, newton_steps=0)
        told = [c for c in cells.values() if c["name"] == name and c["curvature"] == "finite_difference"]
        assert [c["tasks_with_kinks"] for c in told] == [1]
        assert not any(c.get("tasks_with_kinks") for c in cells.values() if c["curvature"] != "finite_difference")
        lines = legend({"enough": [], "cells": list(cells.values()), "negative_curvature": None})
        assert sum(line.startswith("~ differences of gradients ahead of and behind") for line in lines) == 1


def test_a_solver_that_does_not_see_the_curvature_is_measured_too():
    bench = ridge(meta_gradient=implicit(solver=Richardson(steps=1, step_size=0.1)))
    cells = cells_of(bench, inner_steps=[1], cg_steps=[3], curvatures=["hessian"])
    assert cells[1, "implicit", "hessian", 3]["system_error"] > 0
    assert "tasks_with_negative_curvature" not in cells[1, "implicit", "hessian", 3]
