"""What is a trained model's accuracy when its batch norms take a query's statistics here or there?

    python scripts/what_normalises_a_query.py RUN_DIR [--tasks 200]

The run's test tasks, their queries predicted all together, class by class, and one by one: with the statistics of the examples
of one call ("transductive", as most runs are trained and tested) and with those of the support set ("support").
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import metarun
from metarun.configuration.instantiate import make

CALLS = ("all together", "one class at a time", "one at a time")


def calls(targets: Tensor, name: str) -> list[Tensor]:
    """Which query examples are predicted in one call."""
    if name == CALLS[0]:
        return [torch.arange(len(targets))]
    if name == CALLS[1]:
        return [(targets == label).nonzero().flatten() for label in targets.unique()]
    return [torch.tensor([example]) for example in range(len(targets))]


def main() -> None:
    """Print accuracies with their 95 % intervals over tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("--tasks", type=int, default=200)
    given = parser.parse_args()
    console = Console()
    table = Table("a call has the query examples", "transductive", "support")
    cells: dict[tuple[str, str], str] = {}
    for mode in ("transductive", "support"):
        run = metarun.load(given.run_dir, batch_norm=mode, device="cpu")
        source, evaluation = make(run.config, "dataset.source"), run.config["evaluation"]
        sizes = evaluation["shots"], evaluation["queries"]
        tasks = source.sample(evaluation["seed"], "test", torch.arange(given.tasks), *sizes)
        accuracies: dict[str, list[float]] = {name: [] for name in CALLS}
        for number in track(range(given.tasks), mode, console=console):
            task = tasks[number : number + 1]
            support, query = task.support_set, task.query_set
            model = run.adapt(support.inputs[0], support.targets[0], prepared=True)
            for name in CALLS:
                right = 0
                for rows in calls(query.targets[0], name):
                    predicted = torch.tensor(model.predict(query.inputs[0][rows], prepared=True))
                    right += int((predicted == query.targets[0][rows]).sum())
                accuracies[name].append(right / len(query.targets[0]))
        for name, values in accuracies.items():
            found = 100 * torch.tensor(values)
            cells[name, mode] = f"{found.mean():.1f} ± {1.96 * found.std() / len(found) ** 0.5:.1f} %"
    for name in CALLS:
        table.add_row(name, cells[name, "transductive"], cells[name, "support"])
    console.print(table)


if __name__ == "__main__":
    main()
