"""Words that people type from habit, of other tools and of papers, and what each is called here."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

_STEPS = "There are no epochs, as tasks are drawn anew in each outer step."
_INNER = "That of the inner steps is algorithm.inner.step_size."
_WAYS = "Data sets of classes have it, as dataset=omniglot."

_KEYS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("lr", "learning_rate", "outer_lr", "meta_lr"), ("optimizer.lr", _INNER)),
    **dict.fromkeys(("inner_lr", "alpha", "fast_lr", "adapt_lr"), ("algorithm.inner.step_size", "")),
    **dict.fromkeys(
        ("inner_steps", "num_inner_steps", "adapt_steps", "adaptation_steps"), ("algorithm.inner.steps", "")
    ),
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs", "n_epochs"), ("schedule.steps", _STEPS)),
    **dict.fromkeys(("steps", "max_steps", "num_steps", "iterations", "num_iterations"), ("schedule.steps", "")),
    **dict.fromkeys(("batch_size", "meta_batch_size", "tasks_per_batch"), ("schedule.tasks_per_step", "")),
    **dict.fromkeys(("ways", "way", "n_way", "num_ways"), ("dataset.ways", _WAYS)),
    **dict.fromkeys(("shots", "shot", "k_shot", "num_shots"), ("dataset.shots", "")),
    **dict.fromkeys(("queries", "query", "num_queries"), ("dataset.queries", "")),
    **dict.fromkeys(("lambda", "lam", "proximal"), ("algorithm.proximal_weight", "")),
    **dict.fromkeys(("test_tasks", "num_tasks"), ("evaluation.tasks", "")),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir", "logdir"), ("run.root", "")),
    **dict.fromkeys(("data_dir", "data_root"), ("data.root", "")),
    "precision": ("device.dtype", ""),
    "num_threads": ("device.threads", ""),
}
"""Word -> the key, and a sentence more."""

_GROUPS: Mapping[str, str] = {
    **dict.fromkeys(("logger", "log", "logging"), "tracker"),
    **dict.fromkeys(("data", "task", "datamodule", "env", "environment"), "dataset"),
    **dict.fromkeys(("net", "network", "backbone", "arch"), "model"),
    **dict.fromkeys(("optim", "outer_optimizer"), "optimizer"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "lr_schedule"),
    **dict.fromkeys(("algo", "method"), "algorithm"),
    **dict.fromkeys(("accelerator", "hardware"), "device"),
}

_OPTIONS = {"gpu": "cuda", "null": "none", "false": "none", "tb": "tensorboard"}

_GPU = "device=cuda runs on a GPU, and CUDA_VISIBLE_DEVICES=0 metarun ... says on which."
_GPUS = (
    "torchrun --nproc-per-node=N -m metarun ... shares the tasks of one run, and hydra.launcher.gpus=[0,1] gives the runs of a "
    "sweep a GPU each."
)
_AGAIN = "the same command given again goes on from its last checkpoint, in the same run folder."
_SENTENCES: Mapping[str, str] = {
    **dict.fromkeys(("gpu", "cuda", "use_gpu"), _GPU),
    **dict.fromkeys(("gpus", "num_gpus", "devices"), _GPUS),
    **dict.fromkeys(("resume", "ckpt", "ckpt_path", "checkpoint"), _AGAIN),
    "wandb": "tracker=wandb is the default, tracker=none does without, and WANDB_MODE=offline sends nothing.",
    "debug": "schedule.steps=10 evaluation.tasks=10 is a short run, and HYDRA_FULL_ERROR=1 shows tracebacks.",
    **dict.fromkeys(("name", "run_name", "exp_name"), "run.folder=FOLDER names the folder of one run."),
}

_SUBCOMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "run", "fit"), "metarun KEY=VALUE ... trains: leave {word!r} out."),
    **dict.fromkeys(("test", "eval", "validate"), "metarun evaluate RUN_DIR tests a trained run."),
    "sweep": "metarun -m KEY=VALUE,VALUE ... runs every combination.",
    "resume": "the same command given again goes on from its last checkpoint.",
    **dict.fromkeys(("compare", "plot", "table"), "metarun report DIR compares runs."),
    **dict.fromkeys(("download", "prepare"), "metarun data prepare NAME gets and packs a data set."),
    **dict.fromkeys(("datasets", "list"), "metarun data list shows the data sets, metarun ls the runs."),
    "config": "metarun --cfg job prints the configuration.",
}


def habitual_subcommand(word: str) -> str | None:
    """What to say of a first word that other tools have: `metarun train`."""
    words = _SUBCOMMANDS.get(word)
    return words and f"{word!r} is no subcommand: {words.format(word=word)}"


def habitual_choice(name: str, value: str, available: Mapping[str, Collection[str]]) -> str | None:
    """What to say of `data=omniglot`: a group by another name, with an option that it has."""
    group = _GROUPS.get(name, "")
    options = available.get(group, ())
    option = value if value in options else _OPTIONS.get(value.lower(), "")
    return f"there is no group {name}; did you mean {group}={option}?" if option in options else None


def habitual_key(
    key: str, value: str, keys: Collection[str], available: Mapping[str, Collection[str]], brings: Callable[[str], bool]
) -> str | None:
    """What to say of a key by another name; None where it is no such word, or what it means is not there.

    Args:
        key: alone, or as other tools nest it (`trainer.max_epochs`).
        value: what it was given; "" where that is not known.
        keys: all that are there.
        available: options of each group.
        brings: whether a choice of some group would bring a key.
    """
    top, _, leaf = key.rpartition(".")
    word = key if not top else leaf if key.partition(".")[0] not in keys else ""
    if word in _KEYS:
        name, more = _KEYS[word]
        if name in keys or brings(name):
            is_told = more != _STEPS and re.fullmatch(r"[\w.-]+", value)  # three epochs are not three steps
            given = f"{name}={value}" if is_told else name
            more = more if more != _WAYS or name not in keys else ""
            return f"there is no key {key}; did you mean {given}?{f' {more}' if more else ''}"
    if word in _SENTENCES and "schedule.steps" in keys:
        return f"there is no key {key}: {_SENTENCES[word]}"
    group = _GROUPS.get(word, "") if not top else ""
    if group in available and value:
        choice = habitual_choice(word, value, available)
        options = ", ".join(available[group])
        return choice or f"there is no group {key}; did you mean {group}=OPTION? Options: {options}."
    return None


def habitual_option(option: str, options: Iterable[str]) -> str | None:
    """The option that is meant by a word of habit: `gpu` for cuda."""
    meant = _OPTIONS.get(option.lower(), "")
    return meant if meant in options else None
