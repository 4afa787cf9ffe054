"""Random words on the command line: each is refused in one line or run, and what cannot be meant is refused."""

import functools
import math
import random
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.configuration.config_folder import config_folder, groups
from metarun.run_folder.folder import flatten

from ..training.small import GLYPHS, QUICK, configuration, run_here

SMALL = (
    *QUICK,
    "evaluation.tasks=2",
    "evaluation.val_tasks=2",
    "schedule.steps=1",
    "schedule.eval_every=1",
    "schedule.tasks_per_step=2",
)
GROUPS = groups(config_folder())
STARTS: tuple[tuple[str, ...], ...] = (
    (),
    ("algorithm=imaml", "dataset.adaptation.eval_steps=[1]"),
    ("algorithm=imaml_ng", "algorithm.inner.steps=2"),
    ("algorithm=imaml_hf", "algorithm.inner.steps=1"),
    ("algorithm=maml_plus_plus", "lr_schedule=cosine"),
    ("algorithm=reptile", "dataset=harmonic", "optimizer=sgd"),
    ("algorithm=protonet", *GLYPHS),
)
NUMBERS = (
    "0", "-1", "1", "3", "7", "64", "1.5", "-0.5", "1e-3", "1e-30", "1e30", "inf", "-inf", "nan", "1_000", "1e400", "true",
    "1000000000", "18446744073709551616", "-9223372036854775809", "[1]", "{a: 1}", "abc", "null", "1,2", "0x10",
)  # fmt: skip
OTHERS = (
    "null", "true", "0", "3", "abc", "'a b'", "''", '""', "é", "[]", "[1,2]", "[2,1]", "[a]", "[null]", "[[1]]", "{}", "{a: 1}",
    "{1: 2}", "{a: {b: [1]}}", "${seed}", "${nowhere}", "${model}", "${", "a=b", "[1", "../x", "/", "auto", "none", ",", "1,2",
    "choice(1,2)", "range(1,3)", "_target_", "torch.nn.Linear", "nan",
)  # fmt: skip
# What is asked for is done, however long it takes; these say how much work there is.
AMOUNTS = ("steps", "tasks", "val_tasks", "eval_steps", "inner_steps", "max_halvings")


def words(seed: int) -> tuple[str, ...]:
    """Further words for a small command line: how it starts, and one to three random ones."""
    draw = random.Random(seed)
    start = draw.choice(STARTS)
    return (*start, *(_word(draw, _keys(start)) for _ in range(draw.choice((1, 1, 1, 2, 3)))))


@functools.cache
def _keys(start: tuple[str, ...]) -> dict[str, Any]:
    """Every key of a configuration with its value, mappings included."""
    leaves = {k: v for k, v in flatten(configuration(*SMALL, *start)).items() if not k.startswith("choices.")}
    parents = {".".join(key.split(".")[:n]): {} for key in leaves for n in range(1, key.count(".") + 1)}
    return dict(sorted((leaves | parents).items()))


def _word(draw: random.Random, keys: dict[str, Any]) -> str:
    kind, key = draw.random(), draw.choice([*keys])
    is_number = isinstance(keys[key], int | float) and not isinstance(keys[key], bool)
    value = draw.choice(NUMBERS if is_number and draw.random() < 0.8 else OTHERS)
    if value in ("64", "1_000", "1000000000") and key.rpartition(".")[2] in AMOUNTS:
        value = "-64"
    group = draw.choice(sorted(GROUPS))
    if kind < 0.66:
        return f"{key}={value}"
    if kind < 0.72:
        return f"~{key}"
    if kind < 0.77:
        return f"+{key}.{draw.choice(('x', 'steps', '_partial_', '_args_'))}={value}"
    if kind < 0.82:
        at = draw.randrange(len(key))
        return f"{key[:at]}{key[at + 1 :]}={value}"
    if kind < 0.92:
        return f"{group}={draw.choice((*GROUPS[group], value))}"
    others = (
        f"~{group}",
        f"+{group}={value}",
        f"{group.replace('/', '.')}={value}",
        f"++{key}={value}",
        f"hydra.{key}={value}",
    )
    return draw.choice(others)


def _is_meant(word: str, keys: dict[str, Any]) -> bool:
    """Whether a word that was accepted can have been meant, as far as its key and the kind of its value tell."""
    override = OverridesParser.create().parse_override(word)
    key, value = override.key_or_group, override.value()
    if override.is_delete() or key in GROUPS or key.startswith("hydra"):
        return True  # a class may have a default of its own; groups and Hydra's keys have been looked up
    if override.is_add() or key not in keys:
        return False
    before = keys[key]
    if value is None or (isinstance(value, str) and "${" in value):
        return True  # left to the part
    if isinstance(before, bool) or isinstance(value, bool):
        return isinstance(before, bool) and isinstance(value, bool)
    if isinstance(before, dict | list):
        return isinstance(value, type(before)) and value != {"a": 1}
    if isinstance(before, int | float):
        # A data set's numbers are defaults of other keys, and not read where those are set.
        is_read = not key.startswith(("dataset.training.", "dataset.adaptation."))
        return isinstance(value, int | float) and math.isfinite(value) and (0 <= value < 2**63 or not is_read)
    return not isinstance(value, dict | list) or before is None


def answer(seed: int, root: Any, capsys: Any) -> bool:
    """Whether the random words of a seed were accepted; a traceback or more than one line of error fails."""
    more = words(seed)
    status = run_here(*SMALL, f"run.root={root / str(seed)}", *more)
    err = capsys.readouterr().err.splitlines()
    said = f"seed {seed}: {' '.join(more)}"
    assert status in (0, 1, 2), said
    if status:
        assert len(err) == 1 and err[0].startswith("metarun: error: "), said
    return status == 0


def check(seeds: range, root: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for seed in seeds:
        if answer(seed, root, capsys):
            start = next(s for s in sorted(STARTS, key=len, reverse=True) if words(seed)[: len(s)] == s)
            wrong = [word for word in words(seed)[len(start) :] if not _is_meant(word, _keys(start))]
            assert wrong == [], f"seed {seed}: accepted"


def test_some_random_words(tmp_path, capsys, monkeypatch):
    check(range(100, 112), tmp_path, capsys, monkeypatch)


@pytest.mark.scenario
@pytest.mark.parametrize("first", range(100, 400, 10))
def test_random_words(first, tmp_path, capsys, monkeypatch):
    """300 command lines."""
    check(range(first, first + 10), tmp_path, capsys, monkeypatch)
