"""`metarun --help algorithm` and `metarun algorithm=imaml --help`: options, keys, values and comments, at any width."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from metarun import __version__
from metarun.command_line.help_keys import print_keys
from metarun.command_line.main import main
from metarun.configuration.chosen_keys import chosen_keys
from metarun.configuration.config_folder import groups
from metarun.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"

FILES = {
    "config": """\
defaults: [_self_, {optimizer: adam}, {algorithm: maml}, {experiment: null}]
seed: 0   # every draw follows from it
schedule:
  steps: 100           # updates of theta, not of phi; as many as it takes until the validation score is good
  log_every: ${schedule.steps}
""",
    "optimizer/adam": "# Adam\nlr: 0.001   # outer\n",
    "algorithm/maml": "# MAML, second order\ndefaults:\n  - inner: descent\n  - _self_\nadapted: all   # or head\n",
    "algorithm/hf": "# Newton inside\ndefaults:\n  - maml\n  - override inner: newton\n  - _self_\n",
    "algorithm/inner/descent": "# plain steps\nsteps: 5   # in training\n",
    "algorithm/inner/newton": "# truncated Newton\nsteps: 2\nconjugate_gradient_steps: [1, 2, 4, 8, 16, 32]   # of each\n",
    "experiment/paper": "# @package _global_\n# the paper's table\nseed: 7\n",
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path / "conf"


def rendered(conf: Path, width: int, *words: str) -> str:
    stream = io.StringIO()
    print_keys(words, conf, ["evaluate"], Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_a_group_with_its_options_and_keys(conf: Path) -> None:
    assert (
        rendered(conf, 80, "algorithm")
        == f"""\
metarun {__version__}

algorithm=OPTION
    hf    Newton inside
  * maml  MAML, second order

algorithm/inner=OPTION
  * descent  plain steps
    newton   truncated Newton

Keys  set with KEY=VALUE; the values are those that a run would have

algorithm=maml  MAML, second order
  algorithm.adapted  all  or head

algorithm/inner=descent  plain steps
  algorithm.inner.steps  5  in training
"""
    )


WHOLE_AT_80 = f"""\
metarun {__version__}

Keys  set with KEY=VALUE; the values are those that a run would have

algorithm=hf  Newton inside
  algorithm.adapted  all  or head

algorithm/inner=newton  truncated Newton
  algorithm.inner.steps                     2
  algorithm.inner.conjugate_gradient_steps  [1, 2, 4, 8, 16, 32]
      of each

optimizer=adam  Adam
  optimizer.lr  0.1  outer

  seed  7  every draw follows from it

schedule
  schedule.steps      100  updates of theta, not of phi; as many as it takes
                           until the validation score is good
  schedule.log_every  100  from schedule.steps
"""


def test_everything_that_is_chosen(conf: Path) -> None:
    assert rendered(conf, 80, "experiment=paper", "algorithm=hf", "optimizer.lr=0.1") == WHOLE_AT_80


def test_everything_at_120_columns(conf: Path) -> None:
    lines = rendered(conf, 120, "algorithm=hf").splitlines()
    assert "  algorithm.inner.conjugate_gradient_steps  [1, 2, 4, 8, 16, 32]  of each" in lines
    assert (
        "  schedule.steps      100  updates of theta, not of phi; as many as it takes until the validation score is good"
        in lines
    )


def test_everything_at_60_columns(conf: Path) -> None:
    text = rendered(conf, 60, "algorithm=hf")
    assert "  algorithm.inner.conjugate_gradient_steps  [1, 2, 4, 8, 16, 32]\n      of each\n" in text
    assert (
        "  schedule.steps      100  updates of theta, not of phi; as\n"
        "                           many as it takes until the\n"
        "                           validation score is good\n"
    ) in text


@pytest.mark.parametrize(
    ("topic", "lines"),
    [
        ("optimizer.lr", ["optimizer=adam  Adam", "  optimizer.lr  0.001  outer"]),
        ("seed", ["  seed  0  every draw follows from it"]),
        ("algorithm.inner", ["algorithm/inner=descent  plain steps", "  algorithm.inner.steps  5  in training"]),
    ],
)
def test_a_key_alone(conf: Path, topic: str, lines: list[str]) -> None:
    head = [f"metarun {__version__}", "", "Keys  set with KEY=VALUE; the values are those that a run would have", ""]
    assert rendered(conf, 80, topic).splitlines() == [*head, *lines]


def test_an_option_stands_for_its_group(conf: Path) -> None:
    assert rendered(conf, 80, "hf") == rendered(conf, 80, "algorithm=hf", "algorithm")


def test_several_options_of_a_group(conf: Path) -> None:
    (conf / "tracker").mkdir()
    for name in "abc":
        (conf / "tracker" / f"{name}.yaml").write_text(f"# @package tracker.{name}\n# words of {name}\nx: 1\n")
    (conf / "config.yaml").write_text(
        (conf / "config.yaml").read_text().replace("{optimizer: adam}", "{tracker: [a, b]}")
    )
    assert rendered(conf, 80, "tracker").splitlines()[2:] == [
        "tracker=OPTION",
        "  * a  words of a",
        "  * b  words of b",
        "    c  words of c",
        "",
        "Keys  set with KEY=VALUE; the values are those that a run would have",
        "",
        "tracker=[a,b]",
        "  tracker.a.x  1",
        "  tracker.b.x  1",
    ]


def test_files_of_ones_own(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "algorithm").mkdir(parents=True)
    (tmp_path / "mine" / "algorithm" / "own.yaml").write_text(
        "# my own\ndefaults: [maml, _self_]\nadapted: body   # mine\n"
    )
    lines = rendered(conf, 80, "--config-dir", str(tmp_path / "mine"), "algorithm=own", "algorithm").splitlines()
    assert "  * own   my own" in lines
    assert lines[lines.index("algorithm=own  my own") + 1] == "  algorithm.adapted  body  mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["algoritm"],
            "--help knows groups, keys, options and subcommands, and 'algoritm' is none; did you mean algorithm? "
            "Groups: algorithm, algorithm/inner, experiment, optimizer.",
        ),
        (["evalute"], "'evalute' is none; did you mean evaluate?"),
        (["-m", "seed=0,1"], "--help shows one configuration: leave out -m and --cfg, and give one value to each key."),
        (["seed=0,1"], "seed=0,1 gives several values: add -m to run each of them"),
        (["algorithm=mam"], "algorithm has no option 'mam'; did you mean maml?"),
    ],
)
def test_what_cannot_be_shown(conf: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        rendered(conf, 80, *words)
    assert said in str(raised.value)


def test_an_option_of_several_groups_is_asked_about() -> None:
    with pytest.raises(ConfigurationError) as raised:
        rendered(CONF, 80, "reptile")
    assert str(raised.value) == (
        "reptile is an option of several groups: give one of algorithm=reptile, algorithm/meta_gradient=reptile and --help."
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_repositorys_keys_fit_and_no_word_is_broken(width: int) -> None:
    words = ("algorithm=imaml_ng", "dataset=omniglot")
    lines = rendered(CONF, width, *words).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    # A name and a value that are longer together than a narrow screen stay whole.
    assert [
        line for line in lines if len(line) > width and not (line.startswith("  ") and len(line.split()) == 2)
    ] == []
    for key in chosen_keys(words, CONF).keys:
        if not key.name.startswith("hydra."):
            at = [n for n, line in enumerate(lines) if f"{line} ".startswith(f"  {key.name} ")]
            assert len(at) == 1
            shown = " ".join(" ".join(lines[at[0] :]).split())
            assert shown.startswith(" ".join(f"{key.name} {key.value} {key.comment}".split()))


@pytest.mark.parametrize("group", [*groups(CONF), "hydra/launcher", "hydra/sweeper"])
def test_every_group_tells_each_of_its_options(group: str) -> None:
    text = rendered(CONF, 300, group)
    for option, description in groups(CONF / group.partition("/")[0] if group.startswith("hydra") else CONF)[
        group.removeprefix("hydra/")
    ].items():
        lines = [line.removeprefix("  * ").split(maxsplit=1) for line in text.splitlines() if description in line]
        assert [option, description] in lines


def test_it_answers_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from metarun.command_line.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "algorithm=imaml", "dataset=omniglot", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert ["optimizer.lr", "0.001", "the outer learning rate"] in lines
    assert ["dataset.ways", "5", "classes of a training task"] in lines
    assert ["algorithm.inner.steps", "16", "in training"] in lines


def test_where_help_stands_does_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for argv in (["--help", "optimizer"], ["optimizer", "--help"], ["-h", "optimizer"]):
        assert main(argv) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2]
    assert "optimizer.lr" in shown[0]
