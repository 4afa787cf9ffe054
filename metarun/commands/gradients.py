"""`metarun gradients [KEY=VALUE ...]`: measure, print, and leave a JSON and a figure."""

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from metarun import __version__
from metarun.algorithm import ConjugateGradient, Implicit
from metarun.algorithm.meta_gradient.solver.system import LinearSolver
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import Parts, fitted, make_parts
from metarun.commands.result import device_name, environment_of
from metarun.configuration.instantiate import make
from metarun.configuration.resolve import resolved
from metarun.console.bar import advancing
from metarun.console.notes import shown
from metarun.console.progress import waiting
from metarun.console.results import header
from metarun.console.terminal import say, tell, terminal
from metarun.console.words import collected_words
from metarun.device.memory import require_bytes
from metarun.errors import ConfigurationError, TrainingError
from metarun.files import write_atomically
from metarun.gradients.exact import MAX_DENSE, Exact
from metarun.gradients.measure import (
    Bench,
    Estimator,
    GradientSettings,
    enough,
    estimators,
    is_proximal,
    measure_costs,
    measure_errors,
    measure_inner,
    solve,
    solver_name,
)
from metarun.json_text import json_text
from metarun.report.gradient_figure import gradient_figure
from metarun.report.gradient_tables import answer, exactness, tables
from metarun.run_folder.checkpoints import selected
from metarun.run_folder.folder import RunFolder, name


def compare(cfg: DictConfig) -> None:
    """Hold every estimator that this configuration allows against the exact meta-gradient.

    Raises:
        ConfigurationError: before any work, if something in `cfg` cannot be.
    """
    console = terminal()
    config = resolved(cfg, HydraConfig.get())
    if "init_from" in config:
        raise ConfigurationError("run.init_from is for a run; metarun gradients measures at gradients.run=RUN_DIR.")
    settings: GradientSettings = make(config, "gradients")
    with shown(console), waiting(console, "preparing data and model"):
        parts = make_parts(config | {"device": config["device"] | {"dtype": settings.dtype}})
    if parts.problem.data_depend_on_params and is_proximal(parts.algorithm):
        raise ConfigurationError(
            "the implicit meta-gradient is held against that at the inner problem's solution, and here each inner step collects "
            "data anew: there is no one problem to solve. Choose algorithm=maml, whose unrolled gradient is then the exact one."
        )
    try:
        columns = estimators(parts.algorithm, settings)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    with shown(console):
        theta, origin = _theta(settings, parts)
    schedule = parts.schedule
    one = parts.source.sample(0, "train", torch.arange(1, device=parts.device), schedule.shots, schedule.queries)
    with_tasks = f"drawing gradients.tasks={settings.tasks} tasks at once"
    try:
        require_bytes(settings.tasks * one.num_bytes, with_tasks, "Lower gradients.tasks.", parts.device)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    folder = _folder(config)

    indices = torch.arange(settings.tasks, device=parts.device)
    tasks = parts.source.sample(config["seed"], "train", indices, schedule.shots, schedule.queries)
    bench = Bench(parts.algorithm, parts.problem, parts.learner, theta, tasks).to(parts.device, settings.torch_dtype)
    adapted = sum(leaf.numel() for leaf in theta.start.values())
    header(console, _header(config, settings, parts, origin, adapted, columns, folder))

    own = parts.algorithm.meta_gradient
    result: dict[str, Any] = {
        "metarun": __version__,
        "command": shlex.join(["metarun", "gradients", *HydraConfig.get().overrides.task]),
        "choices": config["choices"],
        "seed": config["seed"],
        "theta": origin,
        "num_parameters": parts.learner.num_parameters,
        "num_adapted": adapted,
        "model_words": f"{config['choices']['model']} with {parts.learner.num_parameters:,} parameters",
        "proximal_weight": config["algorithm"]["proximal_weight"],
        "own_inner_steps": parts.algorithm.inner.steps,
        "solver": solver_name(parts.algorithm),
        "negative_curvature": _policy(own.solver) if isinstance(own, Implicit) else "damp",
        "grid": config["gradients"],
    }
    try:
        _measure(console, bench, columns, settings, parts.device, make(config, "device").torch_dtype, result)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device's memory does not suffice for the reference itself. Give fewer gradients.tasks, smaller "
            "gradients.inner_steps, or device=cpu."
        ) from error
    result |= {"answer": answer(result), "environment": environment_of(parts) | {"dtype": config["device"]["dtype"]}}
    result["config"] = config

    write_atomically(folder / "gradients.png", gradient_figure(result))
    write_atomically(folder / "gradients.json", (json_text(result, indent=2) + "\n").encode())
    tables(console, result)
    tell(console, ("\nHow many CG steps?", "bold"), f" {result['answer'][0].upper()}{result['answer'][1:]}")
    say(console, ("numbers", "bold"), f"  {folder / 'gradients.json'}")
    say(console, ("figure", "bold"), f"   {folder / 'gradients.png'}")


def _measure(
    console: Console,
    bench: Bench,
    columns: Sequence[Estimator],
    settings: GradientSettings,
    device: torch.device,
    dtype: torch.dtype,
    result: dict[str, Any],
) -> None:
    """Add "exact", "inner", "cells" and "enough" to `result`: errors in the bench's number format, costs in `dtype`."""
    started = time.perf_counter()
    with waiting(console, "solving the inner problem and the implicit system exactly"):
        exact = solve(bench, settings)
        result["inner"] = measure_inner(bench, settings, exact)
    result["exact"] = _exact(exact, settings, time.perf_counter() - started)
    tell(console, ("exact", "bold"), f"  {exactness(result)}")
    cells = result["cells"] = []
    total = 2 * len(set(settings.inner_steps)) * len(columns)
    with advancing(console, "measuring") as advanced:
        for done, cell in enumerate(measure_errors(bench, columns, settings, exact), 1):
            cells.append(cell)
            advanced(done, total, f"errors, inner steps: {cell['inner_steps']}")
        costs = measure_costs(bench.to(device, dtype), columns, settings, device)
        for done, (cell, cost) in enumerate(zip(cells, costs, strict=True), len(cells) + 1):
            cell |= cost
            advanced(done, total, f"time and memory, inner steps: {cell['inner_steps']}")
    result["enough"] = enough(cells, settings)


def _policy(solver: LinearSolver) -> str | None:
    """What the solver does at negative curvature, where it has a choice."""
    return solver.negative_curvature if isinstance(solver, ConjugateGradient) else None


def _theta(settings: GradientSettings, parts: Parts) -> tuple[MetaParameters, dict[str, Any]]:
    """All meta-parameters and where they come from: the start of the seed, or the best state of a run."""
    if settings.run is None:
        return parts.theta, {"run": None, "step": 0}
    folder = RunFolder(Path(settings.run).expanduser())
    stored = folder.read_config()
    if stored is None:
        raise ConfigurationError(
            f"gradients.run must be the folder of a run (with a config.json), and {folder.path} is not. "
            "Run folders lie in outputs/."
        )
    checkpoint = selected(folder.checkpoints)
    if checkpoint is None:
        raise ConfigurationError(
            f"gradients.run: {folder.checkpoints / 'best.pt'} is missing; let the run validate once."
        )
    theta = fitted(checkpoint["theta"], parts.theta, parts.device, parts.dtype)
    trained = {group: stored["choices"].get(group) for group in ("algorithm", "dataset", "model")}
    return theta, {"run": str(folder.path), "step": checkpoint["step"]} | trained


def _folder(config: dict[str, Any]) -> Path:
    """Where the files go, made and proven writable; its name is a function of the configuration."""
    mark = hashlib.sha256(json.dumps(config["gradients"], sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(config["run"]["root"]) / "gradients" / f"{name(config)}-{mark}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".writable", b"")
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"results must have a folder that can be written, and {folder} is not: {error.strerror}. "
            "Set run.root (or METARUN_OUTPUTS) to a folder of yours."
        ) from error
    return folder


def _header(
    config: dict[str, Any],
    settings: GradientSettings,
    parts: Parts,
    origin: dict[str, Any],
    adapted: int,
    columns: Sequence[Estimator],
    folder: Path,
) -> list[tuple[str, str]]:
    """What is compared, on what, and what "exact" will mean."""
    choices, schedule, dataset = config["choices"], parts.schedule, config["dataset"]
    ways = f"{dataset['ways']}-way " if "ways" in dataset else ""
    examples = parts.problem.examples
    sizes = f"{ways}{schedule.shots}-shot, {schedule.queries} queries"
    if examples != "examples":
        sizes = collected_words(schedule.shots, schedule.queries, examples)
    names = ", ".join(dict.fromkeys(column.name.replace("_", " ") for column in columns))
    weight = config["algorithm"]["proximal_weight"]
    if origin["run"] is None:
        theta = f"the start of seed {config['seed']}"
    else:
        theta = f"{origin['run']}, after step {origin['step']} ({origin['algorithm']} on {origin['dataset']})"
    if not is_proximal(parts.algorithm):
        exact = "lambda 0: the unrolled gradient with the same inner steps (algorithm=imaml has the implicit one)"
    else:
        system = "factorised" if adapted <= MAX_DENSE else "by long CG"
        exact = (
            f"lambda {weight}: at the inner problem's solution ({settings.solver_steps} inner steps, then Newton's), "
            f"linear system {system}"
        )
    where = f"{parts.device}" + (f" ({device_name(parts.device)})" if parts.device.type == "cuda" else "")
    threads = (
        f", {torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'}"
        if parts.device.type == "cpu"
        else ""
    )
    return [
        ("compared", f"meta-gradients: {names}"),
        ("algorithm", f"{choices['algorithm']}, inner solver {choices['algorithm/inner']}"),
        ("data", f"{choices['dataset']}: {settings.tasks} training tasks, {sizes}"),
        ("model", f"{choices['model']}: {parts.learner.num_parameters:,} parameters, {adapted:,} adapted"),
        ("theta", theta),
        ("exact", exact),
        ("device", f"{where}{threads}; errors in {settings.dtype}, time and memory in {config['device']['dtype']}"),
        ("results", str(folder)),
    ]  # fmt: skip


def _exact(exact: Exact | None, settings: GradientSettings, seconds: float) -> dict[str, Any] | None:
    """How exact it is, as plain values; one for each task."""
    if exact is None:
        return None
    return {
        "method": exact.method,
        "residual": exact.residual.tolist(),
        "solved": exact.solved.tolist(),
        "system_residual": exact.system_residual.tolist(),
        "min_curvature": exact.min_curvature.tolist(),
        "solver_steps": settings.solver_steps,
        "newton_steps": settings.newton_steps,
        "seconds": seconds,
    }
