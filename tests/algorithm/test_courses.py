"""Every algorithm of conf takes the same steps whether it looks at values, is written out in full, or is a traced program."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import Parts, make_parts
from metarun.configuration.config_folder import config_folder, groups
from metarun.device.course import Course, course
from metarun.maths.structures import tensors_of, with_tensors
from metarun.problems.base import Problem
from metarun.tasks.types import TaskBatch
from tests.training.small import GLYPHS, QUICK, configuration

SOLVER, METRIC = "algorithm.meta_gradient.solver", "algorithm.direction.metric"
HESSIAN = ("algorithm=imaml", "algorithm.meta_gradient.curvature=hessian", "algorithm.proximal_weight=0.02")
ALGORITHMS = {name: (f"algorithm={name}",) for name in groups(config_folder())["algorithm"]} | {
    "cavia": ("algorithm=cavia", "model=context_mlp"),
    "imaml, learned lambda": ("algorithm=imaml", "algorithm.learn_proximal_weight=layer"),
    "imaml, steps too long": ("algorithm=imaml", "algorithm.inner.step_size=40"),
    "imaml_hf, hessian": ("algorithm=imaml_hf", "algorithm.inner.curvature=hessian"),
    "imaml_hf, Martens": ("algorithm=imaml_hf", "algorithm/inner=newton_cg_martens", "algorithm.inner.cg_steps=60"),
    "imaml_ng, adapted damping": ("algorithm=imaml_ng", "algorithm.direction.adapt_damping=true"),
    "imaml_ng, gradients of tasks": ("algorithm=imaml_ng", "algorithm/direction/metric=task_empirical"),
    "imaml_ng, by products": ("algorithm=imaml_ng", "algorithm/direction/metric=step_tasks"),
    "imaml_ng, other tasks": (
        "algorithm=imaml_ng",
        "algorithm/direction/metric=fresh_tasks",
        f"{METRIC}.num_fresh_tasks=3",
    ),
    "imaml_ng, factors alone": ("algorithm=imaml_ng", f"{METRIC}.corrected=false", f"{METRIC}.samples=null"),
    "imaml_ng, pulled back": (
        "algorithm=imaml_ng",
        "algorithm/direction/metric=step_tasks",
        f"{METRIC}.point=pullback",
    ),
    **{
        f"pulled back, negative curvature: {policy}": (
            *(word.replace("=imaml", "=imaml_ng") for word in HESSIAN),
            "algorithm/direction/metric=step_tasks",
            f"{METRIC}.point=pullback",
            f"{SOLVER}.negative_curvature={policy}",
        )
        for policy in ("damp", "gauss_newton")
    },
    "maml++, equal weights": ("algorithm=maml_plus_plus", "algorithm.meta_gradient.annealed_over=0"),
    "anil, minres": ("algorithm=imaml", "algorithm/meta_gradient/solver=minres", "algorithm.adapted=head"),
    **{
        f"negative curvature: {policy}": (*HESSIAN, f"{SOLVER}.negative_curvature={policy}")
        for policy in ("stop", "damp", "abs", "minres", "gauss_newton")
    },
}
ONLY_STATIC = {
    "imaml, learned lambda",
    "imaml_hf, hessian",
    "imaml_ng, gradients of tasks",
    "maml++, equal weights",
    "pulled back, negative curvature: damp",
} | {f"negative curvature: {policy}" for policy in ("stop", "abs", "gauss_newton")}
"""Nothing that the others do not trace, too; tracing takes seconds."""
FEW = ("algorithm.inner.steps=2", "algorithm.meta_gradient.solver.steps=2")
SMALL = (*QUICK, "device.dtype=float64", "schedule.tasks_per_step=5", "dataset.adaptation.steps=2")


def parts_of(which: str) -> Parts:
    regression = ("model.hidden=[5]", "model.activation=tanh")
    tasks = (*GLYPHS, "model.width=4") if which in ("protonet", "r2d2") else regression
    words = ALGORITHMS[which]
    is_implicit = words[0].startswith("algorithm=imaml") and not any("solver=" in word for word in words)
    return make_parts(configuration(*SMALL, *tasks, *words, *(FEW if is_implicit else ())))


def example(parts: Parts) -> tuple[MetaParameters, Problem, TaskBatch]:
    theta = parts.theta.map(lambda leaf: leaf.to(parts.device, parts.dtype))
    shots, queries = parts.schedule.shots, parts.schedule.queries
    tasks = parts.source.sample(0, "train", torch.arange(parts.task_chunk), shots, queries)
    return theta, parts.problem, tasks.to(parts.device, parts.dtype)


def others(parts: Parts) -> tuple[MetaParameters, Problem, TaskBatch]:
    """Another theta and other tasks than those that are traced."""
    theta, problem, _ = example(parts)
    generator = torch.Generator().manual_seed(1)
    theta = theta.map(lambda leaf: leaf + 0.01 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    shots, queries = parts.schedule.shots, parts.schedule.queries
    tasks = parts.source.sample(5, "train", torch.arange(7, 7 + parts.task_chunk), shots, queries)
    return theta, problem, tasks.to(parts.device, parts.dtype)


def taken(
    parts: Parts,
    theta: MetaParameters,
    tasks: TaskBatch,
    step: int | torch.Tensor,
    state: dict[str, torch.Tensor] | None = None,
    task_chunk: int | None = None,
) -> dict[str, torch.Tensor]:
    """All that a step comes to."""
    fresh = tasks if parts.algorithm.num_fresh_tasks else None
    estimate = parts.algorithm.meta_step(
        theta=theta, problem=parts.problem, tasks=tasks, fresh=fresh, step=step, state=state, task_chunk=task_chunk
    )
    return estimate.gradient | {"losses": estimate.query_loss} | estimate.stats | estimate.state


def left_behind(parts: Parts, theta: MetaParameters, tasks: TaskBatch) -> dict[str, torch.Tensor]:
    """The state that a first step leaves to the next."""
    fresh = tasks if parts.algorithm.num_fresh_tasks else None
    return parts.algorithm.meta_step(theta=theta, problem=parts.problem, tasks=tasks, fresh=fresh).state


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, leaf in expected.items():
        # Tasks that are tried at several lengths at once may be multiplied by another kernel.
        torch.testing.assert_close(found[name], leaf, rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)


@pytest.mark.parametrize("which", sorted(ALGORITHMS))
def test_the_course_without_looking_is_the_same(which):
    parts = parts_of(which)
    theta, _, tasks = others(parts)
    state = left_behind(parts, theta, tasks)
    expected = taken(parts, theta, tasks, 3, state)
    with course(Course.STATIC):
        assert_equal(taken(parts, theta, tasks, 3, state), expected)


@pytest.mark.parametrize("which", sorted(set(ALGORITHMS) - ONLY_STATIC))
def test_the_traced_program_is_the_same(which):
    assert_traced_is_the_same(which)


@pytest.mark.parametrize("which", ["maml", "fomaml"])
def test_a_loop_over_chunks_of_tasks_is_the_same(which):
    """Five tasks, two at once: a loop of two chunks, and the last task."""
    assert_traced_is_the_same(which, task_chunk=2)


def assert_traced_is_the_same(which: str, task_chunk: int | None = None) -> None:
    """Traced on one theta and other tasks, its operations run one by one: nothing of the example has become part of it."""
    parts = parts_of(which)
    found = {}

    def operations(*tensors: torch.Tensor) -> list[torch.Tensor]:
        found["structure"] = taken(parts, *with_tensors(structure, list(tensors)), task_chunk)
        return tensors_of(found["structure"])

    theta, _, tasks = example(parts)
    structure = theta, tasks, torch.tensor(0), left_behind(parts, theta, tasks)
    with course(Course.ROLLED):
        traced = make_fx(operations)(*(tensor.contiguous() for tensor in tensors_of(structure)))
    theta, _, tasks = others(parts)
    state = left_behind(parts, theta, tasks)
    expected = taken(parts, theta, tasks, 3, state, task_chunk)
    with torch.no_grad():
        tensors = traced(*(tensor.contiguous() for tensor in tensors_of((theta, tasks, torch.tensor(3), state))))
    assert_equal(with_tensors(found["structure"], list(tensors)), expected)


def test_searches_and_policies_have_something_to_do():
    """What is compared above takes the ways that it is meant to compare."""
    parts = parts_of("imaml, steps too long")
    theta, _, tasks = others(parts)
    assert taken(parts, theta, tasks, 3)["inner/backtracks"].max() > 1
    for policy in ("stop", "damp", "abs", "minres", "gauss_newton"):
        parts = parts_of(f"negative curvature: {policy}")
        theta, _, tasks = others(parts)
        assert taken(parts, theta, tasks, 3)["system/negative_curvature"].any()
