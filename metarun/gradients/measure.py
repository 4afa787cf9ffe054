"""Each estimator of the meta-gradient, for each number of inner steps and of solver steps: its error, time and memory."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm import (
    Algorithm,
    ConjugateGradient,
    FirstOrder,
    Implicit,
    Minres,
    Recursion,
    Richardson,
    Unrolled,
)
from metarun.algorithm.bilevel import TaskGradients
from metarun.algorithm.inner_problem import CURVATURES, Curvature
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.algorithm.protocols import EqualSteps, MetaGradient
from metarun.gradients.cost import median_s, peak_bytes
from metarun.gradients.exact import Exact, exact_gradient, solved_to_the_end
from metarun.maths.operators import DISAGREEMENT
from metarun.maths.trees import Params, axpy, norm_per_task
from metarun.models.learner import Learner
from metarun.problems.base import Problem
from metarun.tasks.types import TaskBatch

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_SOLVERS = {ConjugateGradient: "CG", Minres: "MINRES", Richardson: "Richardson"}


@dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """What is compared, and how closely.

    Attributes:
        run: folder of a run whose best state is theta, or None for the seed's start.
        tasks: training tasks 0 to `tasks` - 1 of the seed, worked on at once.
        inner_steps, cg_steps: numbers of steps; 0 CG steps are the first-order gradient.
        curvatures: of the implicit systems.
        dtype: "float64" or "float32", of the errors; time and memory are those of the run's own number format.
        solver_steps, newton_steps: towards the exact solution, of the inner solver and then, at most, of Newton's method.
        within: a number of CG steps is enough when it solves its system to this relative error.
        repeats: timings, of which the median counts.
    """

    run: str | None
    tasks: int
    inner_steps: Sequence[int]
    cg_steps: Sequence[int]
    curvatures: Sequence[Curvature]
    dtype: str
    solver_steps: int
    newton_steps: int
    within: float
    repeats: int

    def __post_init__(self) -> None:
        if not (self.run is None or isinstance(self.run, str)):
            raise ValueError(f"run must be the folder of a run, or null, got {self.run!r}")
        checks.integer("tasks", self.tasks, minimum=1)
        for name, minimum in (("inner_steps", 1), ("cg_steps", 0)):
            checks.steps(name, getattr(self, name))
            for each in getattr(self, name):
                checks.integer(name, each, minimum=minimum)
        if not isinstance(self.curvatures, Sequence) or isinstance(self.curvatures, str) or not self.curvatures:
            raise ValueError(f"curvatures must be a list, such as [hessian, gauss_newton], got {self.curvatures!r}")
        for each in self.curvatures:
            checks.one_of("curvatures", each, CURVATURES)
        checks.one_of("dtype", self.dtype, tuple(_DTYPES))
        checks.integer("solver_steps", self.solver_steps, minimum=0)
        checks.integer("newton_steps", self.newton_steps, minimum=0)
        checks.number("within", self.within, minimum=0, exclusive=True)
        checks.integer("repeats", self.repeats, minimum=1)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as PyTorch names it."""
        return _DTYPES[self.dtype]


@dataclass(frozen=True)
class Estimator:
    """One column: `name` is "unrolled", "first_order", "implicit" or "recursion"; the others say which of its kind."""

    name: str
    part: MetaGradient
    curvature: str | None = None
    cg_steps: int | None = None


@dataclass(frozen=True)
class Bench:
    """What an estimator works on: theta without task axis, and the tasks, in one number format."""

    algorithm: Algorithm
    problem: Problem
    learner: Learner
    theta: MetaParameters
    tasks: TaskBatch

    def to(self, device: torch.device, dtype: torch.dtype) -> "Bench":
        """The same on `device` in `dtype`. The model's constant buffers, if any, move with it: one format at a time."""
        self.learner.to(device, dtype)
        theta = self.theta.map(lambda leaf: leaf.to(device, dtype))
        return dataclasses.replace(self, theta=theta, tasks=self.tasks.to(device, dtype))

    def estimate(self, part: MetaGradient, inner_steps: int) -> TaskGradients:
        """Adapt by the algorithm's own inner solver, and estimate."""
        # Learned sizes of each step stay those of the training number of steps; the last one's serves those beyond.
        bilevel = self.algorithm.bilevel(self.theta, self.problem, self.tasks)
        return part.estimate(dataclasses.replace(bilevel, steps=inner_steps))


def is_proximal(algorithm: Algorithm) -> bool:
    """Whether there is an implicit meta-gradient to speak of."""
    return algorithm.proximal_term.is_there


def solver_name(algorithm: Algorithm) -> str:
    """What the implicit systems are solved by, where there are any: "CG" unless the algorithm says otherwise."""
    part = algorithm.meta_gradient
    return _SOLVERS[type(part.solver)] if isinstance(part, Implicit) else "CG"


def estimators(algorithm: Algorithm, settings: GradientSettings) -> list[Estimator]:
    """All that can be compared for this algorithm, in the order of the columns.

    The implicit systems are the algorithm's own (damping, solver and its policy at negative curvature) where it has them, else
    the paper's by conjugate gradients.

    Raises:
        ValueError: nothing can, with the keys to change.
    """
    inner = algorithm.inner
    if not inner.descends:
        raise ValueError(
            f"meta-gradients are compared through an inner solver that descends from theta, and {type(inner).__name__} "
            "does not. Choose algorithm/inner=gradient_descent."
        )
    if not is_proximal(algorithm) and not inner.is_differentiable:
        raise ValueError(
            f"without a proximal term the exact meta-gradient is the unrolled one, and {type(inner).__name__} cannot be "
            "differentiated. Set algorithm.proximal_weight (iMAML's paper uses 2.0) or choose algorithm/inner=gradient_descent."
        )
    found: list[Estimator] = [Estimator("unrolled", Unrolled())] if inner.is_differentiable else []
    found.append(Estimator("first_order", FirstOrder()))
    if not is_proximal(algorithm):
        if isinstance(inner, EqualSteps) and inner.fixed_step_size is not None:
            kinds: tuple[Curvature, ...] = ("hessian", "finite_difference")
            found += [Estimator("recursion", Recursion(curvature=kind), kind) for kind in kinds]
        return found
    own = algorithm.meta_gradient
    if not isinstance(own, Implicit):
        solver = ConjugateGradient(steps=0, rtol=1e-6, atol=0.0, negative_curvature="damp")
        own = Implicit(curvature="hessian", solver=solver, damping=0.0)
    linear = own.solver
    if not isinstance(linear, ConjugateGradient | Minres | Richardson):
        raise ValueError(
            f"the implicit system is solved with numbers of steps to compare, and {type(linear).__name__} has none. "
            "Choose algorithm/meta_gradient/solver=cg."
        )
    for curvature in settings.curvatures:
        for steps in sorted(set(settings.cg_steps)):
            part = dataclasses.replace(own, curvature=curvature, solver=dataclasses.replace(linear, steps=steps))
            found.append(Estimator("implicit", part, curvature, steps))
    return found


def solve(bench: Bench, settings: GradientSettings) -> Exact | None:
    """The exact meta-gradients, or None where there is no proximal term and the unrolled one is the reference."""
    if not is_proximal(bench.algorithm):
        return None
    return exact_gradient(
        bench.algorithm,
        bench.theta,
        bench.problem,
        bench.tasks,
        solver_steps=settings.solver_steps,
        newton_steps=settings.newton_steps,
    )


def measure_errors(
    bench: Bench, columns: Sequence[Estimator], settings: GradientSettings, exact: Exact | None
) -> Iterator[dict[str, Any]]:
    """For each number of inner steps and estimator, how far it is from the exact meta-gradient, and from its own system's.

    Yields:
        "error", the relative distance from the exact gradient, the median over tasks; "errors", each task's; "error_of_mean",
        that of the tasks' mean, which is what an optimizer is given. Without a proximal term the unrolled gradient of the same
        number of inner steps is the exact one. "system_error" and "system_errors", for the implicit ones: the distance from
        the solution of the same systems, at the same phi, solved to the end; what the truncation alone costs. None where
        a number is not finite or the device's memory did not suffice.
    """
    names = [name for name, _ in bench.learner.module.named_parameters()]  # not learned step sizes or lambda
    for steps in sorted(set(settings.inner_steps)):
        target = exact.gradient if exact else bench.estimate(Unrolled(), steps).gradient
        ends: dict[str | None, TaskGradients] = {}
        for column in columns:
            cell = {"inner_steps": steps} | {k: v for k, v in vars(column).items() if k != "part"}
            try:
                found = bench.estimate(column.part, steps)
            except torch.OutOfMemoryError:
                yield cell | {"out_of_memory": True, "error": None, "errors": None, "error_of_mean": None}
                continue
            cell |= {"out_of_memory": False} | _errors(found.gradient, target, names)
            if isinstance(column.part, Implicit):
                if column.curvature not in ends:
                    ends[column.curvature] = _end(bench, column.part, steps)
                end = _errors(found.gradient, ends[column.curvature].gradient, names)
                cell |= {"system_error": end["error"], "system_errors": end["errors"]}
                if column.part.solver.sees_curvature:
                    cell["tasks_with_negative_curvature"] = int(found.stats["system/negative_curvature"].sum())
            if "curvature/disagreement" in found.stats:
                cell["tasks_with_kinks"] = int((found.stats["curvature/disagreement"] > DISAGREEMENT).sum())
            yield cell


def measure_inner(bench: Bench, settings: GradientSettings, exact: Exact | None) -> list[dict[str, Any]]:
    """For each number of inner steps, how far phi is from stationary and, relative to theta, from phi*: medians over tasks."""
    rows = []
    for steps in sorted(set(settings.inner_steps)):
        params = bench.estimate(FirstOrder(), steps).params
        inner = bench.algorithm.bilevel(bench.theta, bench.problem, bench.tasks).inner
        phi = {name: params[name] for name in inner.start}
        row = {"inner_steps": steps, "relative_gradient": _finite(inner.residual(phi).quantile(0.5))}
        if exact is not None:
            away = norm_per_task(axpy(-1.0, exact.params, phi))
            row["distance"] = _finite((away / norm_per_task(axpy(-1.0, exact.params, inner.start))).quantile(0.5))
        rows.append(row)
    return rows


def measure_costs(
    bench: Bench, columns: Sequence[Estimator], settings: GradientSettings, device: torch.device
) -> Iterator[dict[str, Any]]:
    """In the order of `measure_errors`: "time_ms" of the whole batch, a median, and "memory_mib", the most held at once."""
    for steps in sorted(set(settings.inner_steps)):
        for column in columns:

            def run(part: MetaGradient = column.part, steps: int = steps) -> TaskGradients:
                return bench.estimate(part, steps)

            try:
                memory = peak_bytes(run, device) / 2**20  # warms up, too
                yield {"time_ms": 1000 * median_s(run, device, settings.repeats), "memory_mib": memory}
            except torch.OutOfMemoryError:
                yield {"time_ms": None, "memory_mib": None}


def enough(cells: Sequence[dict[str, Any]], settings: GradientSettings) -> list[dict[str, Any]]:
    """For each number of inner steps and curvature, the smallest number of CG steps that will do (`GradientSettings.within`).

    Returns:
        Rows with "inner_steps", "curvature" and "cg_steps", None where no number tried was enough.
    """
    rows: dict[tuple[int, str], int | None] = {}
    for cell in cells:
        if cell["name"] == "implicit":
            key = cell["inner_steps"], cell["curvature"]
            good = cell.get("system_error") is not None and cell["system_error"] <= settings.within
            if rows.setdefault(key) is None and good:
                rows[key] = cell["cg_steps"]
    return [{"inner_steps": steps, "curvature": curvature, "cg_steps": n} for (steps, curvature), n in rows.items()]


def _end(bench: Bench, part: Implicit, steps: int) -> TaskGradients:
    """The same systems solved to the end, by CG or MINRES."""
    return solved_to_the_end(lambda solver: bench.estimate(dataclasses.replace(part, solver=solver), steps))[0]


def _errors(found: Params, target: Params, names: Sequence[str]) -> dict[str, Any]:
    difference = {name: found[name] - target[name] for name in names}
    errors = norm_per_task(difference) / norm_per_task({name: target[name] for name in names})
    mean, scale = (
        torch.linalg.vector_norm(torch.cat([leaves[name].mean(0).flatten() for name in names]))
        for leaves in (difference, target)
    )
    # Not `median`, which for an even number takes the smaller of the two in the middle.
    return {
        "error": _finite(errors.quantile(0.5)),
        "errors": [_finite(error) for error in errors],
        "error_of_mean": _finite(mean / scale),
    }


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
