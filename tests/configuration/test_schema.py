"""Whether a configuration has the shape of its files; that it is composed once where its words cannot change the shape."""

import functools
from collections import Counter

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from metarun.command_line import hydra_main
from metarun.command_line.hydra_main import run_hydra
from metarun.configuration import schema
from metarun.configuration.config_folder import config_folder
from metarun.configuration.resolve import resolved
from metarun.configuration.schema import check_shape
from metarun.errors import ConfigurationError
from metarun.run_folder.folder import flatten

VALUES = ("3", "a/b.c", "null", "[1,2]", "{a: 1}", "${seed}")


@pytest.fixture(scope="module")
def whole():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", return_hydra_config=True)


def said(cfg, choices, overrides):
    try:
        return check_shape(cfg, choices, overrides=overrides)
    except ConfigurationError as error:
        return str(error)


def test_words_that_keep_the_shape_are_told_from_those_that_do_not(whole, monkeypatch):
    """What is said is the same whether the configuration is composed once more or, where it need not be, is not."""
    monkeypatch.setattr(schema, "groups", functools.cache(schema.groups))  # reads a hundred files
    choices = dict(whole.hydra.runtime.choices)
    cfg = whole.copy()
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    before = OmegaConf.to_container(cfg, resolve=False)
    refused = set()
    for key, old in flatten(before).items():
        for value in VALUES:
            given = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
            OmegaConf.update(cfg, key, given, merge=False)
            long_way = said(cfg, choices, None)
            assert said(cfg, choices, [f"{key}={value}"]) == long_way, (key, value)
            refused |= {f"{key}={value}"} if long_way else set()
            OmegaConf.update(cfg, key, old, merge=False)
    assert OmegaConf.to_container(cfg, resolve=False) == before
    asked = {f"{key}={value}" for key in ("seed", "run.overwrite", "data.max_pixels") for value in VALUES}
    assert refused & asked == {word for word in asked if word.endswith(("[1,2]", "{a: 1}"))}


@pytest.mark.parametrize("added", [{"nothing_reads_this": 1}, {"evaluation": {"_args_": [1]}}, {"data": {"more": 1}}])
def test_a_key_that_a_file_adds_is_refused(whole, added):
    choices = dict(whole.hydra.runtime.choices)
    cfg = whole.copy()
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    cfg.merge_with(added)
    words = [] if "nothing_reads_this" in added else [f"+{name}={value}" for name, value in flatten(added).items()]
    assert said(cfg, choices, words) == said(cfg, choices, None) is not None


def read(monkeypatch, words):
    """How often each option's file is read, and what the words resolve to."""
    files, configs = Counter(), []
    load = OmegaConf.load

    def counted(file):
        files[getattr(file, "name", "")] += 1
        return load(file)

    monkeypatch.setattr(OmegaConf, "load", counted)
    run_hydra(words, lambda cfg: configs.append(resolved(cfg, HydraConfig.get())))
    (config,) = configs
    return files, config


def test_a_plain_run_is_composed_once(monkeypatch):
    files, config = read(monkeypatch, ["algorithm=fomaml", "schedule.steps=7", "run.root=a/b", "seed=3"])
    assert files[str(config_folder() / "optimizer" / "adam.yaml")] == 1
    assert (config["schedule"]["steps"], config["run"]["root"], config["seed"]) == (7, "a/b", 3)
    # By Hydra's way for everything else, the same.
    files, other = read(
        monkeypatch, ["algorithm=fomaml", "schedule.steps=7", "run.root=a/b", "seed=3", "hydra.verbose=false"]
    )
    assert files[str(config_folder() / "optimizer" / "adam.yaml")] == 2
    assert other == config


def test_a_file_may_make_a_command_a_sweep(tmp_path, monkeypatch):
    folder = {"dir": str(tmp_path / "out"), "subdir": "0"}
    hydra = {"mode": "MULTIRUN", "sweep": folder, "output_subdir": None}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({"seed": 0, "hydra": hydra}))
    monkeypatch.setattr(hydra_main, "config_folder", lambda: tmp_path)
    seen = []
    run_hydra(["seed=1,2"], lambda cfg: seen.append((cfg.seed, HydraConfig.get().mode)))
    assert seen == [(1, RunMode.MULTIRUN), (2, RunMode.MULTIRUN)]


def test_an_assertion_of_the_task_is_its_own():
    calls = []

    def task(cfg):
        calls.append(cfg)
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        run_hydra([], task)
    assert len(calls) == 1
