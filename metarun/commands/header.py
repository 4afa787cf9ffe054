"""What a run says of itself before it starts: what will run, on what, and where it goes."""

from collections.abc import Mapping
from typing import Any

import torch

from metarun.build import Parts
from metarun.commands.result import device_name, task_sizes
from metarun.console.words import collected_words
from metarun.device.ranks import Ranks
from metarun.models.learner import Learner
from metarun.run_folder.folder import RunFolder
from metarun.run_folder.start import Start
from metarun.run_folder.state import TrainState
from metarun.tasks.episodes import Episodes
from metarun.tasks.stored_regression import StoredRegression

_PARTS = ("inner", "meta_gradient", "direction")
_TOLD = ("steps", "step_size", "rates", "curvature", "cg_steps", "point", "max_divergence", "solver")


def header_of(
    folder: RunFolder,
    config: dict[str, Any],
    parts: Parts,
    resumed: TrainState | None,
    ranks: Ranks,
    start: Start | None = None,
) -> list[tuple[str, str]]:
    """Rows of (what, words): what will run, on what, and where it goes, in the words of the configuration."""
    choices, schedule, evaluation = config["choices"], parts.schedule, parts.evaluator.evaluation
    algorithm = config["algorithm"]
    parts_of = [f"{choices[f'algorithm/{part}']} ({_words(algorithm[part])})".replace(" ()", "") for part in _PARTS]
    composition = f"{parts_of[0]}, {parts_of[1]} meta-gradient, {parts_of[2]} direction"
    if algorithm["proximal_weight"]:
        composition += f", lambda {_value(algorithm['proximal_weight'])}"
    if algorithm["learn_proximal_weight"] != "never":
        composition += f", learned by {algorithm['learn_proximal_weight']}"
    if algorithm["adapted"] != "all":
        composition += f", adapting {_value(algorithm['adapted'])}"
    if algorithm["adapted"] in ("head", "body") or choices["algorithm/inner"] == "prototypes":
        composition += f" (head: {parts.learner.head or 'the whole model'})"
    chunk = (resumed and resumed.task_chunk) or parts.task_chunk
    is_measured = config["device"]["task_chunk"] == "auto" and parts.device.type == "cuda"
    is_less = chunk < -(-schedule.tasks_per_step // ranks.size)
    ways = config["dataset"].get("ways")
    test, validation = task_sizes(config, parts, "test"), task_sizes(config, parts, "val")
    examples = parts.problem.examples
    if examples == "examples":
        sizes = f"{f'{ways}-way ' if ways else ''}{schedule.shots}-shot, {schedule.queries} queries"
    else:
        sizes = collected_words(schedule.shots, schedule.queries, examples)
    evaluation_words = f"tested with {_sizes(test, ways, examples)}, {evaluation.tasks} tasks"
    if validation != test:
        evaluation_words += f"; validated with {_sizes(validation, ways, examples)}, {evaluation.val_tasks} tasks"
    threads = (
        f", {torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'}"
        if parts.device.type == "cpu"
        else f" ({device_name(parts.device)})"
    )
    return [
        ("algorithm", f"{choices['algorithm']}: {composition}"),
        ("data", f"{choices['dataset']}: {sizes}; {evaluation_words}"),
        *([("store", parts.source.whereabouts)] if isinstance(parts.source, Episodes | StoredRegression) else []),
        ("model", f"{choices['model']}: {_model_words(parts.learner)}"),
        *([("start", start.words)] if start is not None else []),
        ("training", f"{schedule.steps} steps of {schedule.tasks_per_step} tasks, {choices['optimizer']}, "
         f"{choices['lr_schedule']} learning rate, seed {config['seed']}"),
        ("device", f"{parts.device}{threads}, {config['device']['dtype']}, {chunk} tasks at once"
         f"{', as many as its memory holds' if is_measured and is_less else ''}"
         f"{', TF32 but for curvature products' if parts.tf32 else ''}"
         f"{_program_words(parts, resumed)}"
         f"{f', {ranks.size} ranks' if ranks.size > 1 else ''}"),
        ("results", str(folder.path) + (f" (going on after step {resumed.step})" if resumed else "")),
    ]  # fmt: skip


def _program_words(parts: Parts, resumed: TrainState | None) -> str:
    """How steps are taken, where that is decided."""
    kind = parts.program if parts.program != "auto" else (resumed.program if resumed else None)
    return f", steps {kind}" if kind in ("compiled", "captured") else ""


def _sizes(of_split: Mapping[str, int | None], training_ways: int | None, examples: str) -> str:
    """What the tasks of a split are; the ways only where they are not those of training."""
    if examples != "examples":
        return f"{of_split['shots']} and {of_split['queries']} {examples}"
    ways = f"{of_split['ways']}-way, " if of_split["ways"] != training_ways else ""
    return f"{ways}{of_split['shots']} shot{'' if of_split['shots'] == 1 else 's'}, {of_split['queries']} queries"


def _model_words(learner: Learner) -> str:
    """How large it is, and what is done to it and with it that its code does not say."""
    words = f"{learner.num_parameters:,} parameters"
    if learner.num_constants:
        words += f", {learner.num_constants:,} more constant"
    if learner.batch_norm != "none":
        words += f", batch norm {learner.batch_norm}"
    if learner.replaced_norms:
        words += f"; {len(learner.replaced_norms)} batch norms made functional"
    if "attention" in learner.exchanged:
        words += "; attention by PyTorch's mathematical backend"
    if "convolution" in learner.exchanged:
        words += "; convolutions as products of matrices"
    if learner.one_by_one:
        words += f"; task by task, as vmap has no rule for {learner.one_by_one}"
    return words


def _words(part: Mapping[str, Any]) -> str:
    """The settings of a part that a reader looks for first; config.json has them all."""
    told = [
        f"{key.replace('_', ' ')} {_value(part[key])}"
        for key in _TOLD
        if key in part and not isinstance(part[key], Mapping)
    ]
    for nested in ("solver", "metric"):
        if isinstance(part.get(nested), Mapping):
            told.append(f"{part[nested]['_target_'].rpartition('.')[2]} {part[nested].get('steps', '')}".strip())
    return ", ".join(told)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
