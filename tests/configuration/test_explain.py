"""Each mistake on the command line, made against the real Hydra, and the whole sentence that answers it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from metarun.configuration.did_you_mean import closest, unknown_word
from metarun.configuration.explain import explain
from metarun.configuration.overrides import check, parse
from metarun.errors import ConfigurationError

FILES = {
    "config": "defaults: [{algorithm: maml}, {model: mlp}, _self_]\nseed: 0\nsteps: 100\nrun: {overwrite: false}\n",
    "algorithm/maml": "defaults: [{inner: gradient_descent}, _self_]\nproximal_weight: 0.0\n",
    "algorithm/imaml": "defaults: [{inner: gradient_descent}, _self_]\nproximal_weight: 2.0\n",
    "algorithm/inner/gradient_descent": "steps: 5\nstep_size: 0.01\n",
    "algorithm/inner/newton_cg": "steps: 5\ncg_steps: 5\n",
    "model/mlp": "width: 40\n",
    "model/conv4": "width: 64\n",
    "experiment/paper": "# @package _global_\nsteps: 60000\n",
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write(tmp_path / "conf", FILES)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def answer(conf: Path, *argv: str) -> str:
    """What the user reads: from `parse` or `check`, else the explanation of what Hydra raises."""
    try:
        parsed = parse(argv)
        check(parsed, conf)
    except ConfigurationError as error:
        return str(error)
    with initialize_config_dir(str(conf), version_base="1.3"), pytest.raises(HydraException) as raised:
        compose("config", parsed.overrides)
    return explain(raised.value, argv, conf)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        # options
        ("algorithm=mamll", "algorithm has no option 'mamll'; did you mean maml? Options: imaml, maml."),
        ("algorithm=IMAML", "algorithm has no option 'IMAML'; did you mean imaml? Options: imaml, maml."),
        ("algorithm=sgd", "algorithm has no option 'sgd'. Options: imaml, maml."),
        ("algorithm=5", "algorithm has no option '5'. Options: imaml, maml."),
        ("algorithm=", "algorithm= names no option. Options: imaml, maml."),
        (
            "algorithm/inner=newton",
            "algorithm/inner has no option 'newton'; did you mean newton_cg? Options: gradient_descent, newton_cg.",
        ),
        ("hydra/launcher=slrm", "hydra/launcher has no option 'slrm'. Options: basic."),
        ("experiment=papr", "experiment has no option 'papr'; did you mean paper? Options: paper."),
        # groups
        ("algoritm=maml", "there is no group algoritm; did you mean algorithm=maml?"),
        ("algoritm=mamll", "there is no group algoritm; did you mean algorithm=maml?"),
        ("algorithm/iner=newton_cg", "there is no group algorithm/iner; did you mean algorithm/inner=newton_cg?"),
        ("inner=newton_cg", "there is no group inner; did you mean algorithm/inner=newton_cg?"),
        ("a/b=c", "there is no group a/b. Groups: algorithm, algorithm/inner, experiment, model."),
        (
            "algorithm.inner=newton_cg",
            "algorithm.inner is a group, chosen with a slash: write algorithm/inner=newton_cg.",
        ),
        ("experiment=paper", "nothing is chosen for experiment by default: write +experiment=paper."),
        ("+model=conv4", "model is already chosen by default: write model=conv4, without the +."),
        # keys
        ("algorithm.inner.stpes=3", "there is no key algorithm.inner.stpes; did you mean algorithm.inner.steps?"),
        ("stpes=3", "there is no key stpes; did you mean steps?"),
        ("overwrite=true", "there is no key overwrite; did you mean run.overwrite?"),
        ("algorithm.step_size=3", "there is no key algorithm.step_size; did you mean algorithm.inner.step_size?"),
        (
            "algorithm.inner.cg_steps=3",
            "there is no key algorithm.inner.cg_steps with the parts chosen; it comes with algorithm/inner=newton_cg.",
        ),
        (
            "algorithm.cg_steps=3",
            (
                "there is no key algorithm.cg_steps; did you mean algorithm.inner.cg_steps, which comes with "
                "algorithm/inner=newton_cg?"
            ),
        ),
        ("model.depth=3", "there is no key model.depth; model has width."),
        ("seed.x=3", "there is no key seed.x: seed has no keys inside it."),
        ("xyzzy=3", "there is no key xyzzy. metarun --cfg job shows every key."),
        ("~sede", "there is no key sede; did you mean seed?"),
        ("hydra.jbo.name=x", "there is no key hydra.jbo.name; did you mean hydra.job.name?"),
        ("+seed=3", "seed exists already: write seed=3, without the +."),
        # values
        ("seed=", "seed= has no value: write seed=VALUE, or seed=null for none."),
        ("=3", "'=3' has no key before its '=': write KEY=VALUE."),
        ("seed==3", "seed==3 has one '=' too many: write seed=3."),
        ("seed=[1", "seed=[1: the [ is never closed."),
        ("seed='a", "seed='a: the ' is never closed."),
        (
            "seed=a=b",
            (
                "seed=a=b: the value cannot be read. If it is a text, quote it twice, for the shell and for Hydra: "
                "'seed=\"a=b\"'"
            ),
        ),
        (
            "steps={\"a.*\": 1, 'b': 2}",
            "steps={\"a.*\": 1, 'b': 2}: on the command line the keys of a mapping stand without quotes: "
            "'steps={a.*: 1, b: 2}'",
        ),
        ("seed = 3", "'seed = 3' does not begin with a key: write KEY=VALUE, without blanks around the '='."),
        ("seed=0,1", "seed=0,1 gives several values: add -m to run each of them, or write 'seed=[0,1]' for one list."),
        ("algorithm=maml,imaml", "algorithm=maml,imaml gives several values: add -m to run each of them."),
        ("seed=range(0,3)", "seed=range(0,3) asks for several runs: add -m."),
        # words without '=' (behind another argument: a first one is a subcommand, see test_unknown_word)
        ("seed", "'seed' is no KEY=VALUE: write seed=VALUE."),
        ("maml", "'maml' is no KEY=VALUE; did you mean algorithm=maml?"),
        ("algorithm", "'algorithm' is no KEY=VALUE: write algorithm=OPTION. Options: imaml, maml."),
        # flags
        ("--multrun", "there is no flag --multrun; did you mean --multirun?"),
        ("-multirun", "there is no flag -multirun; did you mean --multirun?"),
        (
            "--train-steps=100",
            (
                "there is no flag --train-steps. Settings take no dashes (train_steps=100); flags are listed by "
                "metarun --help."
            ),
        ),
    ],
)
def test_one_mistake(conf: Path, argv: str, expected: str) -> None:
    assert answer(conf, argv) == expected


def test_the_wrong_one_among_several_is_named(conf: Path) -> None:
    argv = ("algorithm.inner.cg_stps=3", "seed=1", "algorithm/inner=newton_cg", "algorithm=imaml")
    assert answer(conf, *argv) == ("there is no key algorithm.inner.cg_stps; did you mean algorithm.inner.cg_steps?")


def test_flags_may_stand_between_overrides() -> None:
    parsed = parse(["seed=0,1", "-m", "algorithm=maml"])
    assert parsed.multirun
    assert parsed.overrides == ["seed=0,1", "algorithm=maml"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-m", "--cfg", "job"], "--multirun and --cfg exclude each other: give one of them."),
        (["--resolve"], "--resolve goes with --cfg: metarun --cfg job --resolve."),
    ],
)
def test_flags_that_do_not_go_together(conf: Path, argv: list[str], expected: str) -> None:
    assert answer(conf, *argv) == expected


@pytest.mark.parametrize(
    "override",
    ["seed=null", "seed=-1", "~experiment", "run.dir=a/b c", "model=conv4", "run={overwrite: true}"],
)
def test_check_lets_pass_what_hydra_understands(conf: Path, override: str) -> None:
    assert check(parse([override]), conf) is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("algorithm=maml,mamll", "algorithm has no option 'mamll'; did you mean maml? Options: imaml, maml."),
        ("sede=range(0,1000)", "there is no key sede; did you mean seed?"),
        ("model.widht=interval(1,9)", "there is no key model.widht; did you mean model.width?"),
    ],
)
def test_a_wrong_value_or_key_of_a_sweep_is_named(conf: Path, override: str, expected: str) -> None:
    # What Hydra raises is the job's; the sweep is explained from its overrides alone.
    assert explain(ConfigCompositionException("any"), ["-m", override], conf) == expected


def test_options_of_the_users_config_dir_are_known(conf: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {"model/transformer": "width: 8\n"})
    error = ConfigCompositionException("any")
    said = explain(error, ["--config-dir", str(mine), "model=transfomer"], conf)
    assert said == "model has no option 'transfomer'; did you mean transformer? Options: conv4, mlp, transformer."
    said = explain(error, ["--config-dir", str(mine), "model=transformer", "model.widht=3"], conf)
    assert said == "there is no key model.widht; did you mean model.width?"


def test_wrong_type_of_a_typed_key(conf: Path) -> None:
    # Our files have no schema, Hydra's own keys do.
    assert answer(conf, "hydra.verbose=false", "hydra.job.name={a: 1}").startswith("hydra.job.name={a: 1} cannot be:")
    assert answer(conf, "hydra.job.num=abc") == (
        "hydra.job.num=abc cannot be: Value 'abc' of type 'str' could not be converted to Integer"
    )


def test_a_choice_that_must_be_made(conf: Path) -> None:
    config = conf / "config.yaml"
    config.write_text(config.read_text().replace("model: mlp", "model: '???'"))
    assert answer(conf, "seed=3") == "model must be chosen: give model=OPTION. Options: conv4, mlp."


def test_a_value_that_must_be_given(conf: Path) -> None:
    with pytest.raises(MissingMandatoryValue) as raised:
        OmegaConf.create({"run": {"dir": "???"}}).run.dir  # noqa: B018
    assert explain(raised.value, [], conf) == "run.dir has no value: give run.dir=VALUE."


def test_a_broken_file_is_named_as_hydra_names_it(conf: Path) -> None:
    write(conf, {"algorithm/broken": "defaults: [{inner: gone}, _self_]\n"})
    said = answer(conf, "algorithm=broken")
    assert said == (
        "with algorithm=broken: In 'algorithm/broken': Could not find 'algorithm/inner/gone'. "
        "HYDRA_FULL_ERROR=1 shows where this comes from."
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("evalute", "'evalute' is no subcommand; did you mean evaluate?"),
        ("help", "'help' is no subcommand; did you mean --help?"),
        ("maml", "'maml' is no subcommand; did you mean algorithm=maml?"),
        ("imalm", "'imalm' is no subcommand; did you mean algorithm=imaml?"),
        ("model", "'model' is a group: write model=OPTION. Options: conv4, mlp."),
        ("xyzzy", "'xyzzy' is no subcommand, and settings are KEY=VALUE. See metarun --help."),
    ],
)
def test_unknown_word(word: str, expected: str) -> None:
    available = {"algorithm": ["imaml", "maml"], "model": ["conv4", "mlp"]}
    assert unknown_word(word, ["evaluate"], available) == expected


def test_closest_falls_back_to_what_contains_the_word() -> None:
    assert closest("natural", ["plain", "natural_gradient", "unnatural_natural_gradient"]) == "natural_gradient"
    assert closest("na", ["natural_gradient"]) is None
