"""Run folders with chosen numbers, as a run would leave them: the files that a report reads, and no others."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarun.json_text import json_text
from metarun.maths.stats import diverged, summarize
from metarun.report.cells import ResultGrid
from metarun.report.comparison import Comparison, compare
from metarun.report.runs import read_runs

TASKS = 4
SCORES = {5: [0.5, 0.6, 0.7, 0.8]}
NASTY = r"""a_b & 50% #1 {x} ~y^2 \z $5 <t> "q" |p| [c] *s* -- `g` é λ"""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml": {"inner": {"_target_": "GD", "steps": 1}, "meta_gradient": {"_target_": "Unrolled"}, "proximal_weight": 0.0},
    "fomaml": {"inner": {"_target_": "GD", "steps": 1}, "meta_gradient": {"_target_": "First"}, "proximal_weight": 0.0},
    "imaml": {"inner": {"_target_": "GD", "steps": 16}, "meta_gradient": {"_target_": "CG"}, "proximal_weight": 2.0},
}  # fmt: skip


def configuration(algorithm: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A small resolved configuration; `changes` has dotted keys."""
    config: dict[str, Any] = {
        "seed": seed,
        "batch_norm": "transductive",
        "schedule": {"steps": 20, "shots": 1, "log_every": 10, "eval_every": 10},
        "evaluation": {"seed": 0, "tasks": TASKS, "val_tasks": 2, "shots": 1, "queries": 15, "inner_steps": [0, 1, 5]},
        "data": {"root": "/data", "cache": "/cache"},
        "run": {"root": "outputs", "folder": None, "overwrite": False},
        "reference": None,
        "algorithm": ALGORITHMS[algorithm],
        "dataset": {"source": {"_target_": "Episodes", "ways": 5, "store": {"root": "/data"}}, "ways": 5, "shots": 1},
        "device": {"kind": "cpu", "dtype": "float32", "threads": 1},
        "optimizer": {"_target_": "Adam", "lr": 0.001},
        "choices": {"algorithm": algorithm, "dataset": "glyphs", "model": "conv4", "optimizer": "adam"},
    }
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        node = config
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return config


def write_run(
    root: Path,
    scores: Mapping[int, Sequence[float]],
    *,
    algorithm: str = "maml",
    seed: int = 0,
    name: str | None = None,
    score: str = "accuracy",
    higher_is_better: bool | None = None,
    validations: Mapping[int, float] | None = None,
    step_s: float = 0.01,
    reference: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """A finished run with these scores of each test task after each number of inner steps; the largest counts.

    Without `scores` it has begun, and no more.
    """
    folder = root / (name or f"{algorithm}-seed{seed}{''.join(f'-{key}{value}' for key, value in changes.items())}")
    (folder / "checkpoints").mkdir(parents=True)
    config = configuration(algorithm, seed, **changes)
    words = [
        f"algorithm={algorithm}",
        f"seed={seed}",
        *overrides,
        *(f"{key}={value}" for key, value in changes.items()),
    ]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "overrides.json").write_text(json.dumps({"overrides": words, "command": f"metarun {' '.join(words)}"}))
    lines = []
    for step, value in (validations or {}).items():
        lines += [{"step": step, "train/loss": 1.0, "time/step_s": step_s}, {"step": step, f"val/{score}": value}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if not scores:
        return folder
    rows = [f"{task},{steps},{value!r}" for steps, values in scores.items() for task, value in enumerate(values)]
    (folder / "tasks.csv").write_text("\n".join([f"task,inner_steps,{score}", *rows, ""]))
    evaluation, dataset = config["evaluation"], config["dataset"]
    result = {
        "metarun": "0",
        "score": score,
        "protocol": {
            "dataset": config["choices"]["dataset"],
            "split": "test",
            "ways": dataset["ways"],
            "shots": evaluation["shots"],
            "queries": evaluation["queries"],
            "tasks": evaluation["tasks"],
            "task_seed": evaluation["seed"],
            "inner_steps": sorted(scores),
            "headline_inner_steps": max(scores),
            "batch_norm": config["batch_norm"],
            "selected_step": 10 + seed,  # is of the run, not of the protocol
            "selected_by": f"validation {score} on {evaluation['val_tasks']} fixed tasks",
            "interval": "1.96 * std / sqrt(tasks), ddof 1",
        }
        # of runs made since validation may differ from the test
        | {key: evaluation[key] for key in ("val_shots", "val_queries") if key in evaluation}
        | {key: dataset[key] for key in ("val_ways",) if key in dataset},
        "results": [_row(steps, score, values) for steps, values in sorted(scores.items())],
        "reference": reference,
        "choices": config["choices"],
        "seed": seed,
        "num_parameters": 1000,
        "fingerprint": f"{seed:016x}",
        "validation": {"best_score": 0.5, "best_step": 10 + seed},
        "train_s": 10.0 + seed,
        "step_s": step_s,
        "test_s": 1.0,
        "peak_memory_mib": 300.0 + seed,
        "training_memory_mib": 100.0 + seed,
        "environment": {"metarun": "0", "device": "cpu", "threads": 1, "dtype": "float32", "packages": {"torch": "2"}},
    }
    if higher_is_better is not None:
        result["higher_is_better"] = higher_is_better
    (folder / "result.json").write_text(json_text(result))
    return folder


def write_evaluation(
    folder: Path, scores: Mapping[int, Sequence[float]], dataset: str, *, has_tasks: bool = True, **changes: Any
) -> Path:
    """What `metarun evaluate FOLDER dataset=...` stores beside the run, with these scores of each test task."""
    config, result = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "result"))
    config["choices"]["dataset"] = dataset
    config["dataset"]["source"]["_target_"] = f"Of{dataset}"
    for key, value in changes.items():
        parent, leaf = key.split(".")
        config[parent][leaf] = value
    stated = {"dataset": dataset, "inner_steps": sorted(scores), "headline_inner_steps": max(scores)}
    overrides = [f"dataset={dataset}", *(f"{key}={value}" for key, value in changes.items())]
    content = {
        "metarun": "0",
        "score": result["score"],
        "protocol": result["protocol"] | stated,
        "results": [_row(steps, result["score"], values) for steps, values in sorted(scores.items())],
        "reference": None,
        "test_s": 1.0,
        "overrides": overrides,
        "config": config,
        "task_scores": {str(steps): list(values) for steps, values in scores.items()},
    }
    if not has_tasks:
        del content["task_scores"]
    file = folder / "evaluations" / f"{'-'.join(overrides)}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json_text(content))
    return file


def _row(steps: int, score: str, values: Sequence[float]) -> dict[str, Any]:
    tasks = diverged(values, is_loss=score == "mse")
    return {"inner_steps": steps, "diverged": tasks, score: vars(summarize(values, len(tasks)))}


def sweep(root: Path) -> None:
    """Two algorithms and three seeds, of which maml's seed 1 is missing; task k of seed s scores a base + 0.1 s + 0.01 k."""
    for algorithm, base in (("fomaml", 0.4), ("maml", 0.5)):
        for seed in (0, 1, 2):
            if (algorithm, seed) != ("maml", 1):
                five = [base + 0.1 * seed + 0.01 * task * (2 if algorithm == "maml" else 1) for task in range(TASKS)]
                zero = [0.2] * TASKS
                validations = {10: base, 20: base + 0.1 + 0.05 * seed}
                write_run(root, {0: zero, 5: five}, algorithm=algorithm, seed=seed, validations=validations)


def comparison(root: Path, **options: Any) -> Comparison:
    """Of all runs below `root`."""
    return compare(read_runs([root]), **options)


def only_grid(root: Path, **options: Any) -> ResultGrid:
    """The comparison's one table."""
    (grid,) = comparison(root, **options).grids
    return grid


def paired(root: Path, **options: Any) -> ResultGrid:
    """The comparison's one table, with differences to its first row."""
    first = only_grid(root, **options).row_labels[0]
    return only_grid(root, **options, baseline=", ".join(first))


def labels(grid: ResultGrid) -> tuple[Any, Any]:
    """Of the rows and of the columns."""
    return grid.row_labels, grid.column_labels
