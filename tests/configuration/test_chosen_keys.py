"""Keys, values and comments of what is chosen, from files of one's own as well."""

from pathlib import Path

import pytest

from metarun.configuration.chosen_keys import Key, chosen_keys
from metarun.errors import ConfigurationError

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = {
    "config": """\
defaults: [_self_, {optimizer: adam}, {algorithm: maml}, {model: mlp}, {experiment: null}]
seed: 0   # of everything
run:
  root: out/${seed}   # where
""",
    "optimizer/adam": "# Adam\nlr: 0.001   # outer\n_target_: torch.optim.Adam\n_partial_: true\n",
    "algorithm/maml": "# MAML\ndefaults: [{inner: descent}, _self_]\nadapted: all   # or head\n",
    "algorithm/anil": "# ANIL\ndefaults: [maml, _self_]\nadapted: head\n",
    "algorithm/inner/descent": """\
# @package _global_
# Descent
algorithm:
  inner:
    steps: 5    # in training
    rate: ${optimizer.lr}
    weights: {"head.*": 0.5, "*": 2}   # by pattern
""",
    "model/mlp": "# @package model\n# two layers\nhidden: [40, null]\nhas_bias: true\ngone: ${not.there}\n",
    "experiment/paper": "# @package _global_\nalgorithm: {inner: {steps: 1}}\nseed: 7   # the paper's\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write(tmp_path / "conf", FILES)


def triples(keys: list[Key]) -> list[tuple[str, str, str]]:
    return [(key.name, key.value, key.comment) for key in keys if not key.name.startswith("hydra.")]


def test_values_are_resolved_and_comments_stand_beside_them(conf: Path) -> None:
    chosen = chosen_keys(["algorithm=anil"], conf)
    assert triples(chosen.keys) == [
        ("seed", "0", "of everything"),
        ("run.root", "out/0", "where"),
        ("optimizer.lr", "0.001", "outer"),
        ("algorithm.inner.steps", "5", "in training"),
        ("algorithm.inner.rate", "0.001", "from optimizer.lr"),
        ("algorithm.inner.weights", "{head.*: 0.5, *: 2}", "by pattern"),
        ("algorithm.adapted", "head", "or head"),  # anil.yaml says nothing of it, maml.yaml does
        ("model.hidden", "[40, null]", ""),
        ("model.has_bias", "true", ""),
        ("model.gone", "${not.there}", "from not.there"),
    ]
    choices = {group: option for group, option in chosen.choices.items() if not group.startswith("hydra/")}
    assert choices == {
        "optimizer": ["adam"],
        "algorithm": ["anil"],
        "algorithm/inner": ["descent"],
        "model": ["mlp"],
        "experiment": [],
    }


def test_several_options_of_a_group(conf: Path) -> None:
    write(conf, {"tracker/a": "# @package tracker.a\nx: 1   # of a\n", "tracker/b": "# @package tracker.b\ny: 2\n"})
    config = conf / "config.yaml"
    config.write_text(config.read_text().replace("{model: mlp}", "{tracker: [a, b]}"))
    chosen = chosen_keys([], conf)
    assert chosen.choices["tracker"] == ["a", "b"]
    assert triples(chosen.keys)[-2:] == [("tracker.a.x", "1", "of a"), ("tracker.b.y", "2", "")]


def test_the_last_file_with_a_comment_has_the_word(conf: Path) -> None:
    keys = {key.name: key for key in chosen_keys(["experiment=paper", "run.root=x"], conf).keys}
    assert keys["seed"] == Key(name="seed", value="7", comment="the paper's")
    assert keys["algorithm.inner.steps"] == Key(name="algorithm.inner.steps", value="1", comment="in training")
    assert keys["run.root"] == Key(name="run.root", value="x", comment="where")


def test_a_folder_of_ones_own(conf: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "my conf", {"model/mine": "# mine\nwidth: 8   # of each layer\n"})
    keys = triples(chosen_keys(["--config-dir", str(mine), "model=mine"], conf).keys)
    assert keys[-1] == ("model.width", "8", "of each layer")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=mpl"], "model has no option 'mpl'; did you mean mlp? Options: mlp."),
        (["algorithm.inner.stpes=1"], "there is no key algorithm.inner.stpes; did you mean algorithm.inner.steps?"),
        (
            ["seed=0,1"],
            "seed=0,1 gives several values: add -m to run each of them, or write 'seed=[0,1]' for one list.",
        ),
    ],
)
def test_what_does_not_compose_is_explained(conf: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        chosen_keys(words, conf)
    assert str(raised.value) == said


def test_the_keys_of_the_issue() -> None:
    keys = {key.name: key for key in chosen_keys(["algorithm=imaml", "dataset=omniglot"], CONF).keys}
    assert keys["optimizer.lr"] == Key(name="optimizer.lr", value="0.001", comment="the outer learning rate")
    assert keys["dataset.ways"] == Key(name="dataset.ways", value="5", comment="classes of a training task")
    assert keys["algorithm.inner.steps"] == Key(name="algorithm.inner.steps", value="16", comment="in training")
    assert keys["schedule.steps"] == Key(name="schedule.steps", value="20000", comment="outer (meta) steps")
    assert keys["hydra.launcher.jobs"].value == "auto"


def test_they_are_the_keys_of_the_composed_configuration() -> None:
    """Held against Hydra's own composition: every value without children, but for classes and Hydra's."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = OmegaConf.to_container(compose("config", ["algorithm=imaml_ng"]), resolve=True)

    def leaves(node, prefix=""):
        for name, child in node.items():
            if isinstance(child, dict) and child:
                yield from leaves(child, f"{prefix}{name}.")
            elif not name.startswith("_"):
                yield f"{prefix}{name}", child

    found = {key.name: key.value for key in chosen_keys(["algorithm=imaml_ng"], CONF).keys}
    ours = {name: value for name, value in found.items() if not name.startswith("hydra.")}
    expected = dict(leaves(content))
    assert list(ours) == list(expected)
    numbers = {name: value for name, value in expected.items() if type(value) in (int, float)}
    assert {name: float(ours[name]) for name in numbers} == numbers
