"""conf/: every choice composes, pairs become parts, and a run's folder is named by what decides its numbers."""

import copy
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun.algorithm import FirstOrder, Implicit, Unrolled
from metarun.build import make_parts
from metarun.configuration.config_folder import config_folder, groups
from metarun.configuration.instantiate import make
from metarun.configuration.resolve import resolved
from metarun.errors import ConfigurationError
from metarun.run_folder.folder import RunFolder, differences, fingerprint, flatten, moved, name, settings
from metarun.tasks.sources.catalogue import CATALOGUE
from metarun.tracking.chosen import make_trackers
from metarun.training.trainer import Schedule
from tests.calls import meta_step

from ..tasks.test_folder import write_classes
from ..training.small import GLYPHS, QUICK, configuration

GROUPS = groups(config_folder())
OPTIONS = [f"{group}={option}" for group, options in GROUPS.items() for option in options]
EXPERIMENTS = sorted(GROUPS["experiment"])
SMALL = {
    "sinusoid": (),
    "harmonic": (),
    "sinusoid_and_line": (),
    "glyphs": GLYPHS,
    "omniglot": ("model.width=8",),
    "folder": ("model.width=8", "dataset.image_size=16", "dataset.queries=1"),
}
EPISODES = (
    "dataset.source.horizon=4",
    "dataset.shots=3",
    "dataset.queries=3",
    "dataset.test_shots=3",
    "dataset.test_queries=3",
    "model.hidden=[8]",
)
SMALL |= {name: EPISODES for name in ("navigation2d", "tabular_mdp", "bandit")}
ROBOTS = {
    f"{robot}_{task}{protocol}": EPISODES
    for robot, task, protocol in itertools.product(("halfcheetah", "ant"), ("direction", "velocity"), ("", "_finn"))
}
SIMULATED = ROBOTS | {"gymnasium": (*EPISODES, "dataset.source.workers=2")}
SMALL |= SIMULATED
OWN = ("table", "table_regression", "arrays", "arrays_regression", "function", "function_regression")
"""A person's own data, without a class for them."""
SMALL |= {name: ("dataset.ways=2", "dataset.queries=2") for name in ("table", "arrays", "function")}
SMALL |= {f"{name}_regression": ("dataset.shots=2", "dataset.queries=2") for name in ("table", "arrays", "function")}
SMALL |= {name: () for name in CATALOGUE if name not in SMALL}  # tests/tasks/test_training.py runs each of these


@pytest.fixture(scope="module")
def omniglot(omniglot_places) -> tuple[str, ...]:
    """Settings that find the real images."""
    root, cache = omniglot_places
    return (f"data.root={root}", f"data.cache={cache}")


def companions(choice: str) -> tuple[str, ...]:
    """What an option needs beside it to make sense."""
    group, _, option = choice.partition("=")
    if group == "algorithm/meta_gradient/solver":
        return ("algorithm=imaml",)
    if group == "algorithm/direction/metric":
        return ("algorithm=imaml_ng",)
    if group == "algorithm/meta_gradient" and option.startswith("implicit"):
        return ("algorithm.proximal_weight=1",)
    if group == "algorithm/inner" and option.startswith("newton_cg"):
        return ("algorithm/meta_gradient=first_order",)
    if choice == "algorithm=cavia":
        return ("model=context_mlp",)
    if choice == "algorithm/direction=clipped_steps":
        return ("dataset=bandit", "optimizer=sgd_unit", *SMALL["bandit"])
    return GLYPHS if option in ("prototypes", "protonet", "ridge_head", "r2d2") else ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[str, ...]:
    """Settings that find thirty classes of two or three images."""
    root = tmp_path_factory.mktemp("pets")
    write_classes(root, {f"class {c:02d}": 2 + c % 2 for c in range(30)})
    return (f"dataset.path={root}", f"data.cache={tmp_path_factory.mktemp('cache')}")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[dict[str, tuple[str, ...]]]:
    """For each kind of a person's own data the settings that find some: twelve classes or tasks of six examples."""
    root = tmp_path_factory.mktemp("own")
    rows = [(k * c, k + c, f"group {c:02d}", k - c) for c in range(12) for k in range(6)]
    lines = [f"{a},{b},{group},{target}" for a, b, group, target in rows]
    (root / "t.csv").write_text("\n".join(["a,b,group,target", *lines]))
    features, groups, targets = ([row[:2] for row in rows], [row[2] for row in rows], [row[3] for row in rows])
    np.savez(root / "classes.npz", X=np.array(features), y=np.array(groups))
    np.savez(root / "tasks.npz", X=np.array(features), y=np.array(targets), task=np.array(groups))
    (root / "own_functions_of_config.py").write_text(
        "import torch\n\n\ndef curve(task):\n    x = torch.rand(task.num_examples, 1, generator=task.generator)\n    return x, x\n"
        "\n\ndef classes(task):\n    labels = torch.arange(task.ways).repeat(task.num_examples)\n"
        "    return labels[:, None] + torch.rand(len(labels), 2, generator=task.generator), labels\n"
    )
    sys.path.insert(0, str(root))
    table = (f"dataset.path={root / 't.csv'}",)
    yield {
        "table": (*table, "dataset.target=group", "dataset.features=[a,b]"),
        "table_regression": (*table, "dataset.target=target", "dataset.task=group"),
        "arrays": (f"dataset.path={root / 'classes.npz'}",),
        "arrays_regression": (f"dataset.path={root / 'tasks.npz'}",),
        "function": ("dataset.source.function._target_=own_functions_of_config.classes",),
        "function_regression": ("dataset.source.function._target_=own_functions_of_config.curve",),
    }
    sys.path.remove(str(root))


def test_flat_keys_are_joined_by_dots_and_lists_are_values():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


@pytest.mark.parametrize("choice", OPTIONS)
def test_every_option_composes_and_resolves(choice):
    group, _, option = choice.partition("=")
    config = configuration(choice, *companions(choice))
    assert config["choices"][group] == option
    missing = [key for key, value in flatten(config).items() if value == "???"]
    assert missing == []


@pytest.mark.parametrize(
    "choice",
    [c for c in OPTIONS if c.partition("=")[0] not in ("dataset", "experiment", "model") and c != "device=cuda"],
)
def test_every_option_is_accepted_by_its_part(choice):
    """With as little beside it as can be. Data sets, models and experiments have tests of their own."""
    config = configuration(choice, *companions(choice))
    group, _, option = choice.partition("=")
    assert config["choices"][group] == option
    parts = make_parts(config)
    if config["choices"]["dataset"] == "sinusoid" and config["choices"]["model"] == "mlp":
        assert parts.learner.num_parameters == 1761, "the default model, whatever else is chosen"
    assert {*make_trackers(config)} == {config["choices"]["tracker"]} - {"none"}


def test_defaults_are_the_papers_sinusoids():
    config = configuration()
    chosen = {group: config["choices"][group] for group in ("algorithm", "dataset", "model", "optimizer", "tracker")}
    assert chosen == {
        "algorithm": "maml",
        "dataset": "sinusoid",
        "model": "mlp",
        "optimizer": "adam",
        "tracker": "wandb",
    }
    source = config["dataset"]["source"]
    assert (source["amplitude"], source["phase"], source["inputs"]) == ([0.1, 5.0], [0.0, torch.pi], [-5.0, 5.0])
    assert config["model"]["hidden"] == [40, 40]
    assert config["evaluation"]["inner_steps"] == [0, 1, 5, 10]
    assert (config["evaluation"]["shots"], config["evaluation"]["tasks"]) == (5, 600)


NO_STEP_HERE = {
    "cavia": "algorithm.not_meta_learned",
    "hf_maml": "Recursion",
    "maml_plus_plus": "MultiStepLoss",
    "meta_sgd": "step sizes or lambda are learned",
    "r2d2": "step sizes or lambda are learned",
    "reptile": "Reptile",
    "scratch": "NoGradient",
}
"""Algorithms that a trust region, which policies are learned by, has no step for -> what says so."""


# Where episodes come from a simulator, it is the source of tasks that is looked at, and not the algorithm.
PAIRS = [
    (algorithm, dataset)
    for algorithm, dataset in itertools.product(sorted(GROUPS["algorithm"]), sorted(GROUPS["dataset"]))
    if dataset not in SIMULATED or algorithm == "maml"
]


@pytest.mark.parametrize(("algorithm", "dataset"), PAIRS)
def test_every_algorithm_meets_every_dataset(algorithm, dataset, request):
    """They become parts that fit: a meta-gradient of theta's shape, and a measurement."""
    assert dataset in SMALL, "say how to make this data set small"
    if dataset in CATALOGUE and dataset != "omniglot":
        pytest.skip("needs its archive: tests/tasks/test_training.py makes a small one")
    if dataset in ROBOTS:
        pytest.importorskip("mujoco", reason="needs the extra mujoco")
    if dataset == "gymnasium":
        pytest.importorskip("gymnasium", reason="needs the extra gymnasium")
    is_regression = dataset in ("sinusoid", "harmonic", "sinusoid_and_line") or dataset.endswith("_regression")
    are_episodes = EPISODES[0] in SMALL[dataset]
    if are_episodes and algorithm in ("imaml_hf", "protonet"):
        with pytest.raises(
            ConfigurationError, match=r"algorithm: (NewtonCG goes on from|prototypes need a classification)"
        ):
            make_parts(configuration(*QUICK, f"algorithm={algorithm}", f"dataset={dataset}", *SMALL[dataset]))
        return
    where = request.getfixturevalue(dataset) if dataset in ("omniglot", "folder") else ()
    if dataset in OWN:
        where = request.getfixturevalue("own")[dataset]
    if algorithm in ("protonet", "r2d2") and is_regression:
        with pytest.raises(ConfigurationError, match=r"algorithm: .* need a classification"):
            make_parts(configuration(*QUICK, f"algorithm={algorithm}", f"dataset={dataset}", *SMALL[dataset], *where))
        return
    overrides = (f"algorithm={algorithm}", f"dataset={dataset}", *SMALL[dataset], *where)
    if algorithm == "cavia":
        overrides = (*(word for word in overrides if not word.startswith("model.")), "model=context_mlp")
    if are_episodes and algorithm in NO_STEP_HERE:
        with pytest.raises(ConfigurationError, match=NO_STEP_HERE[algorithm]) as refused:
            make_parts(configuration(*QUICK, *overrides))
        assert "Choose algorithm/direction=plain with optimizer=adam or sgd" in str(refused.value)
        overrides = (*overrides, "algorithm/direction=plain", "optimizer=adam")  # and that is true
        if algorithm == "r2d2":
            with pytest.raises(ConfigurationError, match="ridge heads need a classification"):
                make_parts(configuration(*QUICK, *overrides))
            return
    config = configuration(*QUICK, *overrides, "schedule.tasks_per_step=2")
    if algorithm == "pretrain" and not is_regression and not are_episodes:
        with pytest.raises(ConfigurationError, match="labels are shuffled in every task"):
            make_parts(config)
        return
    parts = make_parts(config)
    tasks = parts.source.sample(0, "train", torch.arange(2), parts.schedule.shots, parts.schedule.queries)
    theta = parts.theta.detached(requires_grad=True)
    estimate = meta_step(parts.algorithm, theta, parts.problem, tasks.to("cpu", parts.dtype), parts.task_chunk)
    assert {n: leaf.shape for n, leaf in estimate.gradient.items()} == {n: leaf.shape for n, leaf in theta.items()}
    assert all(leaf.isfinite().all() for leaf in estimate.gradient.values())
    (measured,) = parts.evaluator(parts.theta, "test", 2, [1])
    assert len(measured.metrics[parts.problem.score]) == 2


@pytest.mark.parametrize(
    ("algorithm", "meta_gradient", "has_proximal_term"),
    [("maml", Unrolled, False), ("fomaml", FirstOrder, False), ("imaml", Implicit, True)],
)
def test_algorithms_are_the_compositions_of_the_readme(algorithm, meta_gradient, has_proximal_term):
    built = make(configuration(f"algorithm={algorithm}"), "algorithm")
    assert type(built.meta_gradient) is meta_gradient
    assert (built.proximal_weight > 0) == has_proximal_term
    assert built.inner.steps == (16 if algorithm == "imaml" else 1)


@pytest.mark.parametrize("model", sorted(GROUPS["model"]))
def test_every_model_fits_the_images(model):
    """Four ways: policies have an even number of outputs."""
    overrides = [word for word in GLYPHS if "width" not in word and "image_size" not in word]
    overrides += ["dataset.ways=4", "dataset.image_size=16"]
    parts = make_parts(configuration(*QUICK, *overrides, f"model={model}", "device.task_chunk=1"))
    assert parts.learner.num_parameters == sum(leaf.numel() for leaf in parts.theta.values())


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_named_set_is_configured_as_it_is(name):
    """Its store, its shape, a model for it, and twenty numbers of images that its classes have."""
    entry, config = CATALOGUE[name], configuration(f"dataset={name}")
    assert config["dataset"]["source"]["store"]["name"] == name
    assert tuple(config["dataset"]["input_shape"]) == entry.shape
    model = {1: "mlp", 3: "conv4" if entry.shape[0] == 1 else "conv4_max_pool"}[len(entry.shape)]
    assert config["choices"]["model"] == model
    evaluation, schedule = config["evaluation"], config["schedule"]
    assert max(evaluation["shots"] + evaluation["queries"], schedule["shots"] + schedule["queries"]) <= 20


def test_a_data_set_brings_its_model_and_the_command_line_wins():
    assert configuration("dataset=glyphs")["choices"]["model"] == "conv4"
    assert configuration("dataset=glyphs", "model=mlp")["choices"]["model"] == "mlp"
    assert configuration("model=conv4_max_pool", "dataset=glyphs")["choices"]["model"] == "conv4_max_pool"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_what_it_says(experiment):
    text = (config_folder() / "experiment" / f"{experiment}.yaml").read_text()
    lines = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    assert lines[0] == "# @package _global_"
    assert f"# Command: metarun experiment={experiment}" in lines
    config = configuration(f"experiment={experiment}")
    algorithm, dataset = config["choices"]["algorithm"], config["choices"]["dataset"]
    assert re.fullmatch(rf"{algorithm}_{dataset}(_\d+(min|h))?", experiment)
    schedule: Schedule = make(config, "schedule")
    evaluation = make(config, "evaluation")
    measured = evaluation.measured_steps(make(config, "algorithm").inner.steps)
    assert schedule.eval_every <= schedule.steps
    if config["reference"] is not None:
        # Published figures stand beside measured ones: the same metric, after inner steps that are measured.
        reference = config["reference"]
        assert {int(steps) for steps in reference["values"]} <= set(measured)
        assert reference["metric"] == {"sinusoid": "mse", "omniglot": "accuracy"}.get(dataset, "return")
        assert reference["source"] and reference["differences"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_yields_to_the_command_line(experiment):
    config = configuration(f"experiment={experiment}", "seed=5", "schedule.steps=3", "algorithm.inner.steps=7")
    assert (config["seed"], config["schedule"]["steps"], config["algorithm"]["inner"]["steps"]) == (5, 3, 7)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_become_parts(experiment, request):
    config = configuration(f"experiment={experiment}", "device.threads=1")
    if config["choices"]["dataset"] in ROBOTS:
        pytest.importorskip("mujoco", reason="needs the extra mujoco")
    if config["choices"]["dataset"] == "omniglot":
        where = request.getfixturevalue("omniglot")
        config = configuration(f"experiment={experiment}", "device.threads=1", *where)
    parts = make_parts(config)
    assert parts.schedule.steps == config["schedule"]["steps"]


def test_the_cosine_ends_with_the_training():
    assert configuration("lr_schedule=cosine", "schedule.steps=123")["lr_schedule"]["T_max"] == 123


def test_paths_come_from_the_environment(monkeypatch):
    for key, variable in {"data.root": "DATA", "data.cache": "CACHE", "run.root": "OUTPUTS"}.items():
        monkeypatch.delenv(f"METARUN_{variable}", raising=False)
        assert (
            flatten(configuration())[key]
            == {"DATA": "data", "CACHE": "~/.cache/metarun", "OUTPUTS": "outputs"}[variable]
        )
        monkeypatch.setenv(f"METARUN_{variable}", "/some where/else")
        assert flatten(configuration())[key] == "/some where/else"


# ---- several trackers ------------------------------------------------------------------------------------------------


def chosen_trackers(*words: str) -> tuple[list[str], Any]:
    """The trackers of a run's configuration, and what is stored as their choice, by the way that a command takes."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", list(words), return_hydra_config=True)
    hydra = composed.hydra
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    config = resolved(composed, hydra)
    return list(make_trackers(config)), config["choices"]["tracker"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (["wandb"], "wandb")),
        (("tracker=none",), ([], "none")),
        (("tracker=tensorboard",), (["tensorboard"], "tensorboard")),
        (("tracker=[wandb]",), (["wandb"], ["wandb"])),
        (("tracker=[wandb,tensorboard]",), (["wandb", "tensorboard"], ["wandb", "tensorboard"])),
        (
            ("tracker=[mlflow,wandb]", "tracker.wandb.project=x", "seed=3"),
            (["mlflow", "wandb"], ["mlflow", "wandb"]),
        ),
    ],
)
def test_several_trackers_are_a_list_of_options(words, expected):
    assert chosen_trackers(*words) == expected


def test_where_mlflow_keeps_runs_follows_the_folder_of_runs_and_its_own_variable(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = configuration("tracker=mlflow", "run.root=/there")["tracker"]["mlflow"]
    assert tracker["uri"] == "sqlite:////there/mlflow.db"
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
        assert compose("config", ["tracker=mlflow"]).tracker.mlflow.uri == "http://127.0.0.1:5000"


# ---- names -----------------------------------------------------------------------------------------------------------


def test_the_name_says_what_was_chosen():
    assert re.fullmatch(r"sinusoid-10shot-maml-seed0-[0-9a-f]{8}", name(configuration()))
    config = configuration("dataset=glyphs", "dataset.ways=7", "dataset.shots=3", "algorithm=imaml", "seed=12")
    assert re.fullmatch(r"glyphs-7way-3shot-imaml-seed12-[0-9a-f]{8}", name(config))


@pytest.mark.parametrize(
    "override",
    [
        "run.root=/elsewhere",
        "run.overwrite=true",
        "tracker=none",
        "tracker.wandb.project=other",
        "tracker=[tensorboard,wandb]",
        "data.root=/elsewhere",
        "data.cache=/elsewhere",
        "data.residence=host",
    ],
)
@pytest.mark.parametrize("dataset", ["sinusoid", "glyphs", "omniglot"])
def test_the_name_does_not_change_with_what_changes_no_number(override, dataset):
    assert name(configuration(f"dataset={dataset}", override)) == name(configuration(f"dataset={dataset}"))


def test_where_data_lie_is_told_from_what_is_called_alike():
    """Places that are spelled like each other, or like a value, are still only places."""
    usual = name(configuration("dataset=omniglot"))
    for places in (
        ("data.root=/one", "data.cache=/one"),
        ("data.root=batch", "data.cache=cpu"),
        ("data.root=flatten", "data.cache=metarun.device.settings.Device"),
    ):
        assert name(configuration("dataset=omniglot", *places)) == usual
    batch, group = (
        configuration("dataset=omniglot", "data.root=batch", f"model.norm={norm}") for norm in ("batch", "group")
    )
    assert name(batch) != name(group)


def test_moved_changes_places_alone():
    node = {"root": "/a", "store": {"root": "/a", "cache": "/a", "name": "/a", "sizes": [1]}, "cache": "/b"}
    before, now = {"root": "/a", "cache": "/a"}, {"root": "/x", "cache": "/y"}
    changed = {"root": "/x", "store": {"root": "/x", "cache": "/y", "name": "/a", "sizes": [1]}, "cache": "/b"}
    assert moved(node, before, now) == changed


def other_value(value: object) -> object:
    """A value of the same kind that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 1]
    return f"{value}x"


@pytest.mark.parametrize("dataset", ["sinusoid", "glyphs"])
@pytest.mark.parametrize("algorithm", ["maml", "imaml"])
def test_the_name_changes_with_every_single_setting(algorithm, dataset):
    config = configuration(f"algorithm={algorithm}", f"dataset={dataset}")
    names = {name(config)}
    leaves = flatten(settings(config))
    for key, value in leaves.items():
        key, value = ("device.program", "compiled") if key == "device.compile" else (key, other_value(value))
        changed = copy.deepcopy(config)
        *path, last = key.split(".")
        node = changed
        for word in path:
            node = node[word]
        node[last] = value
        names.add(name(changed))
        assert [line.partition(":")[0] for line in differences(config, changed)] == [key]
    assert len(names) == len(leaves) + 1


def test_the_fingerprint_does_not_depend_on_the_order_of_keys():
    config = configuration()
    reversed_config = dict(reversed(list(config.items())))
    assert list(reversed_config) != list(config)
    assert fingerprint(reversed_config) == fingerprint(config)


def test_the_name_does_not_depend_on_where_the_command_is_called(tmp_path, monkeypatch):
    here = name(configuration("dataset=omniglot"))
    monkeypatch.chdir(tmp_path)
    assert name(configuration("dataset=omniglot")) == here


def test_a_name_is_a_file_name():
    config = configuration()
    config["choices"]["dataset"] = "../a b/ü:*"
    assert re.fullmatch(r"[\w.-]+", name(config))
    assert os.sep not in name(config)


def test_differences_name_keys_that_only_one_side_has():
    before, now = configuration("algorithm=maml"), configuration("algorithm=imaml")
    lines = differences(before, now)
    assert "algorithm.meta_gradient.solver.steps: (absent) -> 5" in lines
    assert "algorithm.inner.steps: 1 -> 16" in lines
    assert differences(before, before) == []


def test_a_folders_json_is_yaml_too_and_comes_back(tmp_path):
    folder = RunFolder(tmp_path)
    config = configuration("algorithm=imaml")
    assert folder.read_config() is None
    folder.write_json(folder.config, config)
    assert folder.read_config() == config
    assert OmegaConf.to_container(OmegaConf.load(folder.config)) == config  # Hydra's own loader


def test_two_processes_may_prove_a_folder_at_once(tmp_path, monkeypatch):
    """The other one has already removed the file with which both try whether the folder can be written."""
    folder = RunFolder(tmp_path / "run")
    unlink = Path.unlink

    def twice(path, missing_ok=False):
        if path.name == ".writable":
            unlink(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", twice)
    folder.make()
    assert {path.name for path in folder.path.iterdir()} == {"checkpoints", "figures"}


@pytest.mark.parametrize(("name", "told"), [("pro`ram", "did you mean device.program?"), ("!?", "Device takes ")])
def test_a_key_that_no_part_takes_may_be_spelled_of_any_characters(name, told):
    config = configuration(*QUICK)
    config["device"][name] = True
    with pytest.raises(ConfigurationError) as raised:
        make(config, "device")
    assert str(raised.value).startswith(f"there is no key device.{name}; {told}")
