"""metarun.algorithm.compiled: what is compiled is what would have been computed, or is refused."""

import pytest
import torch

from metarun.algorithm.compiled import Compiled
from metarun.build import make_parts
from metarun.configuration.config_folder import config_folder, groups
from tests.calls import task_gradients
from tests.train.small import GLYPHS, QUICK, assert_same_runs, configuration, only_folder, python, run_here

STATIC = ("algorithm/inner=gradient_descent_16", "algorithm.meta_gradient.solver.negative_curvature=stop")
ALGORITHMS = {name: (f"algorithm={name}",) for name in groups(config_folder())["algorithm"]} | {
    "cavia": ("algorithm=cavia", "model=context_mlp"),
    "imaml, fixed steps": ("algorithm=imaml", *STATIC),
    "imaml_ng, fixed steps": ("algorithm=imaml_ng", *STATIC),
    "imaml, learned lambda": ("algorithm=imaml", *STATIC, "algorithm.learn_proximal_weight=layer"),
    "maml++, equal weights": ("algorithm=maml_plus_plus", "algorithm.meta_gradient.annealed_over=0"),
    "anil, minres": ("algorithm=imaml", *STATIC[:1], "algorithm/meta_gradient/solver=minres", "algorithm.adapted=head"),
}
ASKS_FOR_VALUES = {"imaml", "imaml_ng", "imaml_hf", "maml_plus_plus"}
SMALL = (*QUICK, "device.dtype=float64", "schedule.tasks_per_step=3", "dataset.adaptation.steps=2")


def parts_of(*overrides: str, tasks: tuple[str, ...] = ("model.hidden=[5]", "model.activation=tanh")):
    return make_parts(configuration(*SMALL, *tasks, *overrides))


def other_arguments(parts):
    """Another theta and other tasks than those that were traced."""
    theta, problem, _ = parts.example()
    generator = torch.Generator().manual_seed(1)
    theta = theta.map(lambda leaf: leaf + 0.01 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    shots, queries = parts.schedule.shots, parts.schedule.queries
    tasks = parts.source.sample(5, "train", torch.arange(7, 7 + parts.task_chunk), shots, queries)
    return theta, problem, tasks.to(parts.device, parts.dtype)


def gradients_of(estimate, arguments, step=3) -> dict[str, torch.Tensor]:
    found = estimate(*arguments, step)
    named = {"gradient": found.gradient, "params": found.params, "stats": found.stats}
    flat = {f"{where}/{name}": leaf for where, leaves in named.items() for name, leaf in leaves.items()}
    return flat | {"query_loss": found.query_loss}


@pytest.mark.parametrize("which", sorted(set(ALGORITHMS) - ASKS_FOR_VALUES))
def test_the_traced_operations_are_the_algorithms(which):
    """Run one by one, and not compiled, they give its bits: nothing of the example has become part of the program."""
    tasks = (
        (*GLYPHS, "model.width=4") if which in ("protonet", "r2d2") else ("model.hidden=[5]", "model.activation=tanh")
    )
    parts = parts_of(*ALGORITHMS[which], tasks=tasks)
    traced = Compiled(parts.algorithm.estimate, backend="eager")
    traced.trace(*parts.example())
    arguments = other_arguments(parts)
    expected, found = gradients_of(parts.algorithm.estimate, arguments), gradients_of(traced, arguments)
    assert list(found) == list(expected)
    assert (
        any(leaf.abs().sum() > 0 for name, leaf in expected.items() if name.startswith("gradient"))
        or which == "scratch"
    )
    for name, leaf in expected.items():
        assert torch.equal(found[name], leaf), name
    assert not any(leaf.requires_grad for leaf in found.values())


@pytest.mark.parametrize("which", sorted(ASKS_FOR_VALUES))
def test_a_course_that_depends_on_values_is_refused_before_anything_is_written(which, tmp_path, capsys):
    assert run_here(*SMALL, *ALGORITHMS[which], "device.compile=true", f"run.root={tmp_path}") == 2
    error = capsys.readouterr().err
    assert error.startswith("metarun: error: device: compile needs a step whose control flow does not depend on values")
    assert "device.compile=false" in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_each_shape_is_traced_once():
    parts = parts_of()
    calls = []

    def counted(theta, problem, tasks, step):
        calls.append(len(tasks))
        return task_gradients(parts.algorithm, theta, problem, tasks, step)

    traced = Compiled(counted, backend="eager")
    theta, problem, tasks = parts.example()
    for piece in (tasks, tasks[:2], tasks, tasks[1:]):
        expected = task_gradients(parts.algorithm, theta, problem, piece, 0)
        assert torch.equal(traced(theta, problem, piece, 0).query_loss, expected.query_loss)
    assert calls == [3, 2]


def test_how_tensors_lie_in_memory_is_no_other_shape():
    parts = parts_of()
    traced = Compiled(parts.algorithm.estimate, backend="eager")
    theta, problem, tasks = parts.example()
    expected = traced(theta, problem, tasks, 0)
    lying = torch.stack([tasks.support.inputs, tasks.support.inputs], dim=-1)[..., 0]
    assert not lying.is_contiguous()
    turned = type(tasks)(type(tasks.support)(lying, tasks.support.targets), tasks.query, {})
    assert torch.equal(traced(theta, problem, turned, 0).query_loss, expected.query_loss)
    assert len(traced._programs) == 1


@pytest.mark.scenario
@pytest.mark.parametrize("which", ["maml", "imaml, fixed steps"])
def test_the_compilers_program_gives_the_same_to_rounding(which):
    parts = parts_of(*ALGORITHMS[which], "device.compile=true")
    parts.compile()
    arguments = other_arguments(parts)
    expected, found = gradients_of(parts.algorithm.estimate, arguments), gradients_of(parts.compiled, arguments)
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-10, atol=1e-12)


@pytest.mark.scenario
def test_a_compiled_run_that_is_stopped_goes_on_to_the_same_bits(tmp_path):
    """In processes of their own, so that the second attempt compiles anew."""
    command = (
        *QUICK,
        "device.compile=true",
        "schedule.steps=12",
        "schedule.checkpoint_every=4",
        "schedule.eval_every=4",
    )
    assert run_here(*command, f"run.root={tmp_path / 'whole'}") == 0
    stopping = (
        "import os, signal, sys; from metarun.algorithm import Algorithm; from metarun.command_line.main import main; "
        "step, calls = Algorithm.meta_step, [];\n"
        "def killing(*a, **named):\n"
        "    calls.append(None)\n"
        "    return step(*a, **named) if len(calls) < 7 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "Algorithm.meta_step = killing; main()"
    )
    child = python("-c", stopping, *command, f"run.root={tmp_path / 'killed'}")
    _, err = child.communicate()
    assert child.returncode == -9, err
    assert run_here(*command, f"run.root={tmp_path / 'killed'}") == 0
    assert_same_runs(only_folder(tmp_path / "whole"), only_folder(tmp_path / "killed"))


@pytest.mark.scenario
def test_without_a_compiler_the_error_says_so(tmp_path):
    child = python(
        "-m", "metarun", *QUICK, "device.compile=true", f"run.root={tmp_path / 'runs'}",
        CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    _, err = child.communicate()
    assert child.returncode != 0
    assert "the compiler failed" in err and "device.compile=false does without" in err
    assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "runs").exists()
