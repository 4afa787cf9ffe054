"""No part of the configuration takes a value that makes no sense: every setting of every part is given some."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from metarun.configuration.config_folder import config_folder, groups
from metarun.configuration.instantiate import make
from metarun.errors import ConfigurationError
from metarun.training.optimizer import check_ranges

from ..training.small import GLYPHS, QUICK, configuration

GROUPS = groups(config_folder())
PARTS = [
    *[(key, ()) for key in ("schedule", "evaluation", "gradients")],
    *[("device", (f"device={option}",)) for option in ("auto", "cpu")],
    *[(key, (f"{key}={option}",)) for key in ("optimizer", "lr_schedule") for option in GROUPS[key]],
    *[(f"tracker.{option}", (f"tracker={option}",)) for option in GROUPS["tracker"]],
    *[("algorithm", (f"algorithm={option}",)) for option in GROUPS["algorithm"]],
    *[("algorithm", ("algorithm=imaml", f"algorithm/meta_gradient/solver={o}")) for o in ("minres", "fixed_point")],
    *[("algorithm", ("algorithm=imaml_ng", f"algorithm/direction/metric={o}")) for o in ("step_tasks", "fresh_tasks")],
    *[("dataset.source", (f"dataset={option}",)) for option in ("sinusoid", "harmonic", "sinusoid_and_line")],
    *[("dataset.source", (f"dataset={option}",)) for option in ("navigation2d", "tabular_mdp", "bandit", "gymnasium")],
    *[("dataset.source", (f"dataset={option}",)) for option in ("halfcheetah_velocity", "ant_direction")],
    *[("algorithm", (f"algorithm/direction={option}",)) for option in ("trust_region", "clipped_steps")],
    ("dataset.source", GLYPHS),
    ("model", ("model=mlp",)),
    *[("model", (f"dataset={option}",)) for option in ("navigation2d", "bandit")],
    ("model", (*GLYPHS, "model=conv4")),
]
NONSENSE = ["nonsense", True, None, -3, 1.5, math.nan, -math.inf, 10**30, ["nonsense"], {"non": "sense"}]

# What is no nonsense after all, by the setting's last word: any name, null for "none", numbers that may be negative.
NAMES = {"project", "entity", "group", "experiment", "folder"}
OPTIONAL = {
    "entity",
    "group",
    "folder",
    "run",
    "threads",
    "task_chunk",
    "init_std",
    "eval_proximal_weight",
    "max_divergence",
}
OPTIONAL |= {
    "preconditioner",
    "num_tasks",
    "samples",
    "test_ways",
    "val_ways",
    "output_size",
    "val_shots",
    "val_queries",
    "eval_step_sizes",
    "velocities",
    "workers",
    "reward",
    "features",
    "split",
    "split_file",
    "min_examples",
}
LISTS_OF_NAMES = {"tags", "adapted", "not_meta_learned"}
SIGNED = {"seed", "split_seed"}  # of a store, where it is a label and no count
FOLLOWS = {"policy_outputs": "output_size", "observation_shape": "input_shape"}  # the key of the data set that says it
CHECKED_BY_THE_MODEL = {"adapted"}  # names of its parameters


def leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        elif not name.startswith("_"):
            yield (*path, name), value


def may_be(path: tuple[str, ...], old: Any, value: Any) -> bool:
    """Whether `value` is one that the setting at `path` may have, `old` being its usual one."""
    name = path[-1]
    if value is None:
        return name in OPTIONAL
    if isinstance(value, str):
        return name in NAMES | CHECKED_BY_THE_MODEL or (name == "run" and len(path) == 1)
    if isinstance(value, list):
        return name in LISTS_OF_NAMES
    if isinstance(value, bool):
        return isinstance(old, bool) and name != "tf32"  # which is for a GPU, and these runs are on the CPU
    if value == -3:
        return name == "reward_mean" or (name in SIGNED and "store" in path)
    is_number = isinstance(old, float) or name in (
        "init_std",
        "eval_proximal_weight",
        "finish_timeout_s",
        "init_timeout_s",
        "request_timeout_s",
    )
    return value == 1.5 and (is_number or name == "proximal_weight")


@pytest.mark.parametrize(("key", "overrides"), PARTS, ids=lambda value: value if isinstance(value, str) else value[-1:])
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(key, overrides):
    assert_refuses_nonsense(key, overrides)


def test_a_setting_of_a_table_that_makes_no_sense_is_refused_in_one_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,group,target", *(f"{k},{c},{k - c}" for c in range(12) for k in range(6))]))
    own = ("dataset.target=target", "dataset.task=group", f"dataset.path={path}")
    assert_refuses_nonsense("dataset.source", ("dataset=table_regression", *own))
    assert_refuses_nonsense("dataset.source", ("dataset=table", f"dataset.path={path}", "dataset.target=group"))


def assert_refuses_nonsense(key: str, overrides: Sequence[str]) -> None:
    """Every setting of a part, given every value that it may not have."""
    usual = configuration(*QUICK, *overrides)
    node = usual
    for word in key.split("."):
        node = node[word]
    for path, old in leaves(node):
        *above, name = path
        for value in NONSENSE:
            if may_be(path, old, value):
                continue
            config = configuration(*QUICK, *overrides)
            part = config
            for word in (*key.split("."), *above):
                part = part[word]
            part[name] = value
            with pytest.raises(ConfigurationError) as raised:
                made = make(config, key)
                if key in ("optimizer", "lr_schedule"):
                    settings = {k: v for k, v in config[key].items() if not k.startswith("_")}
                    try:
                        check_ranges(settings, is_schedule=key == "lr_schedule")
                    except ValueError as error:
                        raise ConfigurationError(f"{key}: {error}") from error
                pytest.fail(f"{key}.{'.'.join(path)}={value!r} gave {made}")
            message = str(raised.value)
            assert message.startswith(key), message
            assert "\n" not in message, message
            assert name in message or FOLLOWS.get(name, name) in message, message
