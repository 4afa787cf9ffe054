"""How near is a direction to the natural gradient of very many tasks, while a net is trained?

    python scripts/how_natural_is_the_direction.py [--tasks 1000] [--at 0 50 150] [overrides of the configuration ...]

The Fisher matrix F of `--tasks` other tasks is formed example by example, from Jacobians alone, and the averaged meta-gradient
g_bar, of which the direction is made, is solved with it: (F + damping I)^-1 g_bar. Printed are the cosines of the metrics'
directions with it, along the way of the first one: `algorithm=imaml_ng` as it is, on glyphs, conv4 of 8 channels, in float64.
"""

import argparse
import dataclasses

import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metarun.algorithm import Algorithm, Kfac, StepTasks
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import Parts, make_parts
from metarun.configuration.config_folder import config_folder
from metarun.configuration.resolve import resolved
from metarun.maths.trees import ravel
from metarun.problems.base import outputs_of
from metarun.tasks.types import TaskBatch

SMALL = (
    "algorithm=imaml_ng", "algorithm/inner=gradient_descent_16", "algorithm.inner.steps=5", "algorithm.inner.step_size=0.2",
    "algorithm.proximal_weight=0.5", "algorithm.meta_gradient.solver.steps=3", "dataset=glyphs", "dataset.queries=3",
    "model.width=8", "device.dtype=float64", "schedule.tasks_per_step=8",
)  # fmt: skip
FACTORS = {"memory": 0.95, "num_tasks": None, "num_fresh_tasks": 0, "samples": 1}
METRICS = {
    "step_tasks, 2 preconditioned CG steps": StepTasks(
        point="phi", steps=2, rtol=0.0, preconditioner=0.5, recompute=False
    ),
    "kfac, not corrected": Kfac(corrected=False, **FACTORS),
    "kfac (corrected: EKFAC)": Kfac(corrected=True, **FACTORS),
}
SOLVED = {"step_tasks, solved": None, "fresh_tasks, 32 of them, solved": 32, "fresh_tasks, 256 of them, solved": 256}
AT_ONCE = 100


def parts_of(overrides: list[str]) -> Parts:
    """As the command line would make them."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", [*SMALL, *overrides], return_hydra_config=True)
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    return make_parts(resolved(config, hydra))


def tasks_of(parts: Parts, seed: int, indices: Tensor) -> TaskBatch:
    """Training tasks; those of different seeds are different."""
    schedule = parts.schedule
    return parts.source.sample(seed, "train", indices, schedule.shots, schedule.queries).to("cpu", parts.dtype)


def fisher(parts: Parts, theta: MetaParameters, tasks: TaskBatch) -> Tensor:
    """The mean over tasks of J' M J at phi, [D, D]; M of a softmax, diag(p) - p p', mean over query examples."""
    total, count = torch.zeros(()), len(tasks)
    for chunk in tasks.chunks(AT_ONCE):
        phi = parts.algorithm.adapt(theta, parts.problem, chunk)
        leaves = {name: leaf.requires_grad_() for name, leaf in phi.items()}
        with torch.enable_grad():
            logits = outputs_of(parts.problem, leaves, chunk.query_set)
        size = logits.shape[1]

        def row(output: Tensor, leaves=leaves) -> Tensor:
            """Of each task's Jacobian, [B, D]."""
            found = torch.autograd.grad(output.sum(), list(leaves.values()), retain_graph=True)
            return ravel(dict(zip(leaves, found, strict=True)))

        jacobian = [[row(logits[:, s, n]) for n in range(logits.shape[2])] for s in range(size)]
        p = logits.detach().softmax(-1)
        for s, rows in enumerate(jacobian):
            j = torch.stack(rows, 1)  # [B, N, D]
            # M = R R' with R = (I - p 1') diag(sqrt p): the rows of R'J, all tasks', make F as one product.
            centred = p[:, s, :, None].sqrt() * (j - torch.einsum("bn,bnd->bd", p[:, s], j)[:, None])
            rows = centred.flatten(0, 1)
            total = total + rows.T @ rows / size
    return total / count


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors."""
    return (a @ b / a.norm() / b.norm()).item()


def main() -> None:
    """Train, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000, help="in F")
    parser.add_argument("--at", type=int, nargs="+", default=[0, 50, 150], help="after so many outer steps")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parts = parts_of(options.overrides)
    chosen = parts.algorithm
    direction = chosen.direction
    others = {
        name: dataclasses.replace(chosen, direction=dataclasses.replace(direction, metric=metric, tries=0))
        for name, metric in METRICS.items()
    }
    theta, count = parts.theta, parts.schedule.tasks_per_step
    states = {name: each.start() for name, each in {"": chosen, **others}.items()}
    table = Table("direction", *(f"after {step}" for step in options.at))
    found = {name: [] for name in ("as configured", "the averaged gradient itself", *METRICS, *SOLVED)}
    for step in range(max(options.at) + 1):
        tasks = tasks_of(parts, 0, step * count + torch.arange(count))

        def taken(name: str, algorithm: Algorithm, theta=theta, tasks=tasks, step=step) -> Tensor:
            """The direction, whose length does not matter here."""
            estimate = algorithm.meta_step(
                theta=theta, problem=parts.problem, tasks=tasks, state=states[name], step=step
            )
            states[name] = estimate.state
            return ravel({key: leaf[None] for key, leaf in estimate.gradient.items()})[0]

        move = taken("", chosen)
        directions = {name: taken(name, each) for name, each in others.items()}
        if step in options.at:
            mean = states[""]["mean"][0]
            damping = direction.damping * torch.eye(len(mean))

            def solved(tasks: TaskBatch, theta=theta, mean=mean, damping=damping) -> Tensor:
                return torch.linalg.solve(fisher(parts, theta, tasks) + damping, mean)

            natural = solved(tasks_of(parts, 99, torch.arange(options.tasks)))
            directions |= {"as configured": move, "the averaged gradient itself": mean}
            for name, number in SOLVED.items():
                directions[name] = solved(tasks if number is None else tasks_of(parts, 7, torch.arange(number)))
            for name, row in found.items():
                row.append(cosine(directions[name], natural))
        theta = theta.updated(_moved(theta, move))
    for name, row in found.items():
        table.add_row(name, *(f"{value:.2f}" for value in row))
    Console().print(
        f"damping {direction.damping:g}, F of {options.tasks} tasks, {len(mean)} parameters", table, sep="\n"
    )


def _moved(theta: MetaParameters, move: Tensor) -> dict[str, Tensor]:
    pieces = move.split([leaf.numel() for leaf in theta.values()])
    return {name: leaf - piece.view_as(leaf) for (name, leaf), piece in zip(theta.items(), pieces, strict=True)}


if __name__ == "__main__":
    main()
