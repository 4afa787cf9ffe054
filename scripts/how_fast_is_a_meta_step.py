"""How fast is one meta-gradient, beside a loop over tasks and beside higher and torchopt where they are installed?

    python scripts/how_fast_is_a_meta_step.py [--threads 1] [--repeats 20] [--compile]
    pip install higher torchopt     # for the peers

All are given the same model, weights and tasks in one process, and must agree on the meta-gradient to 1e-3 relative in
float32 before they are timed. The medians are printed with their ratio to metarun's.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metarun.algorithm import Algorithm, GradientDescent, Plain, Unrolled
from metarun.maths.trees import Params
from metarun.models.conv4 import Conv4
from metarun.models.learner import Learner
from metarun.models.mlp import MLP
from metarun.problems.classification import Classification
from metarun.problems.regression import Regression
from metarun.tasks.types import Examples, TaskBatch
from metarun.training.program import compiled

Loss = Callable[[Tensor, Tensor], Tensor]


def task_loop(
    module: nn.Module, theta: Params, tasks: TaskBatch, loss: Loss, steps: int, step_size: float
) -> list[Tensor]:
    """MAML task by task with `functional_call`, the graph of each task freed before the next."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in theta.items()}
    total = [torch.zeros_like(leaf) for leaf in leaves.values()]
    for b in range(len(tasks)):
        phi = leaves
        for _ in range(steps):
            value = loss(functional_call(module, phi, (tasks.support.inputs[b],)), tasks.support.targets[b])
            gradient_ = torch.autograd.grad(value, list(phi.values()), create_graph=True)
            phi = {name: leaf - step_size * g for (name, leaf), g in zip(phi.items(), gradient_, strict=True)}
        value = loss(functional_call(module, phi, (tasks.query.inputs[b],)), tasks.query.targets[b])
        for sum_, g in zip(total, torch.autograd.grad(value, list(leaves.values())), strict=True):
            sum_ += g / len(tasks)
    return total


def with_higher(
    module: nn.Module, theta: Params, tasks: TaskBatch, loss: Loss, steps: int, step_size: float
) -> list[Tensor]:
    """MAML with facebookresearch/higher."""
    import higher

    module.load_state_dict(theta)
    module.zero_grad()
    optimizer = torch.optim.SGD(module.parameters(), lr=step_size)
    for b in range(len(tasks)):
        with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (functional, inner):
            for _ in range(steps):
                inner.step(loss(functional(tasks.support.inputs[b]), tasks.support.targets[b]))
            (loss(functional(tasks.query.inputs[b]), tasks.query.targets[b]) / len(tasks)).backward()
    return [parameter.grad for parameter in module.parameters()]


def with_torchopt(
    module: nn.Module, theta: Params, tasks: TaskBatch, loss: Loss, steps: int, step_size: float
) -> list[Tensor]:
    """MAML with torchopt's differentiable SGD."""
    import torchopt

    module.load_state_dict(theta)
    module.zero_grad()
    inner = torchopt.MetaSGD(module, lr=step_size)
    start, start_inner = torchopt.extract_state_dict(module, by="reference"), torchopt.extract_state_dict(inner)
    parameters = list(module.parameters())
    for b in range(len(tasks)):
        for _ in range(steps):
            inner.step(loss(module(tasks.support.inputs[b]), tasks.support.targets[b]))
        (loss(module(tasks.query.inputs[b]), tasks.query.targets[b]) / len(tasks)).backward()
        torchopt.recover_state_dict(module, start)
        torchopt.recover_state_dict(inner, start_inner)
    return [parameter.grad for parameter in parameters]


def sinusoid_work() -> tuple[nn.Module, type, TaskBatch, Loss]:
    """25 regression tasks of 10 + 10 points, MLP 40-40."""
    noise = torch.randn(4, 25, 10, 1, generator=torch.Generator().manual_seed(0))
    tasks = TaskBatch(Examples(noise[0], noise[1]), Examples(noise[2], noise[3]), {})
    return MLP(input_shape=(1,), num_outputs=1), Regression, tasks, F.mse_loss


def omniglot_work(queries: int, num_tasks: int = 32) -> tuple[nn.Module, type, TaskBatch, Loss]:
    """32 five-way one-shot tasks on 28x28 images, conv4 of stride 2."""
    generator = torch.Generator().manual_seed(0)

    def examples(per_class: int) -> Examples:
        targets = torch.arange(5).repeat_interleave(per_class).expand(num_tasks, -1)
        return Examples(torch.rand(num_tasks, 5 * per_class, 1, 28, 28, generator=generator), targets)

    tasks = TaskBatch(examples(1), examples(queries), {})
    return Conv4(input_shape=(1, 28, 28), num_outputs=5), Classification, tasks, F.cross_entropy


def median_ms(function: Callable[[], list[Tensor]], repeats: int) -> float:
    """The median time of a call, after two that are not counted."""
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="the same as a compiled program, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peers = {"loop over tasks": task_loop}
    for name, function in (("higher", with_higher), ("torchopt", with_torchopt)):
        if importlib.util.find_spec(name):
            peers[name] = function
        else:
            print(f"{name} is not installed and left out")
    works = {
        "sinusoid, 25 tasks, 1 step": (*sinusoid_work(), 1, 0.01, 25),
        "sinusoid, 25 tasks, 5 steps": (*sinusoid_work(), 5, 0.01, 25),
        "conv4, 32 tasks, 1 query": (*omniglot_work(1), 1, 0.4, 8),
        "conv4, 32 tasks, 15 queries": (*omniglot_work(15), 1, 0.4, 2),
    }
    for title, (module, problem_kind, tasks, loss, steps, step_size, chunk) in works.items():
        learner = Learner(module)
        example = tasks.support.inputs[0]
        learner.check(example, module(example).shape[1])
        problem = problem_kind(learner)
        algorithm = Algorithm(
            inner=GradientDescent(steps=steps, step_size=step_size),
            meta_gradient=Unrolled(),
            direction=Plain(),
            proximal_weight=0.0,
        )
        theta = algorithm.meta_parameters(problem, problem.learner.init())

        def gradient(
            leaves: Params, algorithm=algorithm, theta=theta, problem=problem, tasks=tasks, chunk=chunk
        ) -> Params:
            there = theta.updated(leaves)
            return algorithm.meta_step(theta=there, problem=problem, tasks=tasks, task_chunk=chunk).gradient

        def ours(gradient=gradient, theta=theta) -> list[Tensor]:
            return list(gradient(dict(theta)).values())

        base = median_ms(ours, arguments.repeats)
        print(f"{title}\n  {'metarun':<16} {base:8.1f} ms   1.00")
        others = dict(peers)
        if arguments.compile:
            program, leaves = compiled(gradient, dict(theta)), list(theta.values())
            others = {"  compiled": lambda *_, program=program, leaves=leaves: program(leaves)} | others
        for name, function in others.items():

            def theirs(function=function, module=module, theta=theta, tasks=tasks, loss=loss, k=steps, a=step_size):
                return function(module, theta, tasks, loss, k, a)

            scale = max(float(leaf.norm()) for leaf in ours())
            error = max(float((a - b).norm()) for a, b in zip(ours(), theirs(), strict=True)) / scale
            if error > 1e-3:
                raise SystemExit(f"{name} gives another meta-gradient: relative difference {error:.1e}")
            median = median_ms(theirs, arguments.repeats)
            print(f"  {name:<16} {median:8.1f} ms   {median / base:.2f}")


if __name__ == "__main__":
    main()
