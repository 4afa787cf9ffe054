"""`metarun --help`, the exit statuses, and what reaches the terminal when something goes wrong."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from metarun import __version__
from metarun.command_line.help import print_help
from metarun.command_line.main import main
from metarun.command_line.subcommands import SUBCOMMANDS, parser_of
from metarun.configuration.config_folder import config_folder, first_comment, groups
from metarun.configuration.defaults import default_choices
from metarun.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"

FILES = {
    "config": """\
# The file's own comment.
defaults:
  - algorithm: maml
  - model: mlp  # a dataset may override this
  - dataset: glyphs
  - experiment: null
  - _self_
  - override hydra/job_logging: disabled

seed: 0  # every draw follows from it

# updates of theta,
# not of phi
steps: 100
title: "a # b"
run:
  # where the files go
  dir: out/${seed}
  overwrite: false  # train again
bare: null
hydra:
  output_subdir: null
  run: {dir: .}
""",
    "algorithm/maml": "# MAML, second order\ndefaults:\n  - inner: gradient_descent\n  - _self_\nproximal_weight: 0.0\n",
    "algorithm/hf": "# Newton inside\ndefaults:\n  - maml\n  - override inner: newton_cg\n  - _self_\n",
    "algorithm/inner/gradient_descent": "# plain steps\nsteps: 5\n",
    "algorithm/inner/newton_cg": "# truncated Newton\nsteps: 5\n",
    "model/mlp": "# two layers\nwidth: 40\n",
    "model/conv4": "# @package model\n\n#four blocks\nwidth: 64\n",
    "dataset/glyphs": "# drawn here\ndefaults:\n  - override /model@_global_.model: conv4\n  - _self_\nways: 5\n",
    "dataset/plain": "ways: 5\n# too late to describe the file\n",
    "experiment/paper": "# @package _global_\n# the paper's table\nsteps: 60000\n",
    "hydra/launcher/slurm": "# left out\nx: 1\n",
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path / "conf"


SUMMARIES = {"evaluate": "test again, on other tasks if you like", "ls": "list runs"}


def rendered(folders: list[Path], width: int, summaries: dict[str, str] | None = None) -> str:
    stream = io.StringIO()
    print_help(folders, summaries or SUMMARIES, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


# --- what help reads -------------------------------------------------------------------------------------------------


def test_groups_with_their_first_comment(conf: Path) -> None:
    assert groups(conf) == {
        "algorithm": {"hf": "Newton inside", "maml": "MAML, second order"},
        "algorithm/inner": {"gradient_descent": "plain steps", "newton_cg": "truncated Newton"},
        "dataset": {"glyphs": "drawn here", "plain": ""},
        "experiment": {"paper": "the paper's table"},
        "model": {"conv4": "four blocks", "mlp": "two layers"},
    }


def test_first_comment_stops_at_content() -> None:
    assert first_comment(["a: 1", "# late"]) == ""
    assert first_comment(["", "#", "# @package _global_", "#  this  "]) == "this"


def test_default_choices_follow_lists_and_overrides(conf: Path) -> None:
    assert default_choices(conf) == {
        "algorithm": "maml",
        "algorithm/inner": "gradient_descent",
        "model": "conv4",  # the dataset's override, though config.yaml says mlp
        "dataset": "glyphs",
        "experiment": "null",
    }
    config = conf / "config.yaml"
    config.write_text(config.read_text().replace("algorithm: maml", "algorithm: hf"))
    assert default_choices(conf)["algorithm/inner"] == "newton_cg"


def test_default_choices_are_those_that_hydra_makes() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = compose("config", return_hydra_config=True).hydra.runtime.choices
    expected = {group: option or "null" for group, option in made.items() if not group.startswith("hydra/")}
    assert default_choices(CONF) == expected


def test_config_folder_prefers_the_one_inside_the_package(tmp_path: Path) -> None:
    package = tmp_path / "metarun"
    with pytest.raises(ConfigurationError, match=r"no config\.yaml in .*metarun/conf and .*/conf\."):
        config_folder(package)
    for folder in (tmp_path / "conf", package / "conf"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        assert config_folder(package) == folder


# --- what help shows -------------------------------------------------------------------------------------------------


AT_80 = f"""\
metarun {__version__}
Train, evaluate, sweep and compare meta-learning algorithms from one command.

Usage
  metarun [GROUP=OPTION ...] [KEY=VALUE ...]  train, then evaluate on the test
                                              tasks
  metarun -m KEY=VALUE,VALUE ... [...]        the same for every combination of
                                              the values

Subcommands
  evaluate  test again, on other tasks if you like
  ls        list runs

Groups  chosen with GROUP=OPTION, as algorithm/inner=newton_cg; * is the default
  algorithm   hf, maml*
    /inner    gradient_descent*, newton_cg
  dataset     glyphs*, plain
  model       conv4*, mlp
  experiment  paper

More
  metarun --help algorithm                         what the options of a group
                                                   are, and their keys
  metarun algorithm=imaml dataset=omniglot --help  every key of what is chosen,
                                                   its value
  metarun report --help                            what a subcommand takes
  --config-dir DIR                                 your own groups and options
                                                   beside ours
  --cfg job                                        print the configuration as
                                                   YAML, and stop
"""


def test_the_whole_help_at_80_columns(conf: Path) -> None:
    assert rendered([conf], 80) == AT_80


def test_the_help_at_60_columns(conf: Path) -> None:
    text = rendered([conf], 60)
    assert text.splitlines()[:9] == [
        f"metarun {__version__}",
        "Train, evaluate, sweep and compare meta-learning algorithms",
        "from one command.",
        "",
        "Usage",
        "  metarun [GROUP=OPTION ...] [KEY=VALUE ...]",
        "      train, then evaluate on the test tasks",
        "  metarun -m KEY=VALUE,VALUE ... [...]",
        "      the same for every combination of the values",
    ]
    assert "\n  metarun algorithm=imaml dataset=omniglot --help\n      every key of what is chosen, its value\n" in text


def test_a_folder_of_ones_own_is_in_the_help(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "transformer.yaml").write_text("width: 8\n")
    assert "  model       conv4*, mlp, transformer\n" in rendered([conf, tmp_path / "mine"], 120)


WORDS = {name: line for name, (_, line, _) in SUBCOMMANDS.items()}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits_the_console_breaks_no_word_and_leaves_no_blanks_at_line_ends(width: int) -> None:
    lines = rendered([CONF], width, WORDS).splitlines()
    assert [line for line in lines if line != line.rstrip() or len(line) > width] == []
    # The same words at any width, but for the column that a line begins in.
    assert " ".join(lines).split() == rendered([CONF], 400, WORDS).split()


def test_help_is_one_screen() -> None:
    assert len(rendered([CONF], 100, WORDS).splitlines()) < 60


def metarun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metarun", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_subcommand_and_every_option_of_the_repository(flag: str) -> None:
    done = metarun(flag)
    assert (done.returncode, done.stderr) == (0, "")
    words = {*re.findall(r"[\w/]+", done.stdout)}
    files = [file for file in CONF.rglob("*.yaml") if file.parent != CONF and "hydra" not in file.parts]
    assert files
    assert {file.stem for file in files} - words == set()
    assert {file.parent.name for file in files} - {word.strip("/") for word in words} == set()
    assert SUBCOMMANDS.keys() - words == set()


@pytest.mark.parametrize("width", ["60", "80", "120"])
@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_help_of_each_subcommand_fits_and_breaks_no_word(
    name: str, width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in ([name, "--help"], ["--help", name]):
        monkeypatch.setenv("COLUMNS", width)
        with pytest.raises(SystemExit) as left:
            main(argv)
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: metarun {name}")
        assert [line for line in text.splitlines() if len(line) > int(width)] == []
        monkeypatch.setenv("COLUMNS", "400")
        assert text.split() == parser_of(name).format_help().split()


def test_every_option_of_the_repository_has_a_description() -> None:
    bare = [f"{group}={name}" for group, options in groups(CONF).items() for name, text in options.items() if not text]
    assert bare == []


def test_help_imports_neither_torch_nor_hydra_nor_omegaconf() -> None:
    code = (
        "import sys; from metarun.command_line.main import main; status = main(['--help']); "
        "slow = {'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules); sys.exit(status or ' '.join(slow) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_hydras_own_flags_work_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from metarun.command_line.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "seed=7", "--cfg", "job", "algorithm=imaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed: 7" in done.stdout.splitlines()


# --- exit statuses ---------------------------------------------------------------------------------------------------


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, conf: Path, tmp_path: Path) -> SimpleNamespace:
    """A stand-in for the commands run and evaluate whose `run` records its configurations and then does `build.then(cfg)`."""
    config = conf / "config.yaml"
    settings = f"hydra:\n  output_subdir: null\n  run: {{dir: {tmp_path}}}\n  sweep: {{dir: {tmp_path}}}\n"
    config.write_text(config.read_text().partition("hydra:\n")[0] + settings)
    stand_in = SimpleNamespace(seen=[], then=lambda cfg: None)

    def run(cfg: Any) -> Any:
        stand_in.seen.append(cfg.seed)
        return stand_in.then(cfg)

    def evaluate_run(run_dir: Path, overrides: list[str], allowed: list[str]) -> None:
        stand_in.seen.append((run_dir, overrides, allowed))

    stand_in.run, stand_in.evaluate_run = run, evaluate_run
    for name in ("metarun.commands.run", "metarun.commands.evaluate"):
        monkeypatch.setitem(sys.modules, name, stand_in)
    for module in ("main", "hydra_main"):
        monkeypatch.setattr(f"metarun.command_line.{module}.config_folder", lambda: conf)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("METARUN_FULL_ERROR", raising=False)
    return stand_in


def raising(error: BaseException) -> Any:
    def then(_: Any) -> None:
        raise error

    return then


def test_a_run_and_a_sweep(build: SimpleNamespace) -> None:
    argv = list(sys.argv)
    assert main(["seed=3"]) == 0
    assert main(["-m", "seed=4,5"]) == 0
    assert build.seen == [3, 4, 5]
    assert sys.argv == argv
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigurationError("ways must be >= 2, got [1]."), 2, "metarun: error: ways must be >= 2, got [1].\n"),
        (FileNotFoundError("no data in here"), 1, "metarun: error: no data in here\n"),
        (OSError(28, "No space left on device"), 1, "metarun: error: [Errno 28] No space left on device\n"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "metarun: error: Permission denied: a/b\n"),
        (KeyboardInterrupt(), 130, "metarun: interrupted\n"),
    ],
)
def test_one_line_and_the_status(
    build: SimpleNamespace, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    build.then = raising(error)
    assert main(["seed=3"]) == status
    assert capsys.readouterr().err == line


def test_a_long_path_is_not_wrapped(build: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["a" * 30] * 10)
    build.then = raising(ConfigurationError(f"no such folder {path}"))
    assert main([]) == 2
    assert capsys.readouterr().err == f"metarun: error: no such folder {path}\n"


def test_a_bug_keeps_its_traceback(build: SimpleNamespace) -> None:
    bug = ZeroDivisionError("a bug")
    build.then = raising(bug)
    with pytest.raises(ZeroDivisionError) as raised:
        main(["seed=3"])
    assert raised.value is bug


def test_a_failing_job_of_a_sweep_is_named_and_the_others_run(
    build: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def then(cfg: Any) -> None:
        if cfg.seed == 1:
            raise ConfigurationError("seed 1 cannot be")

    build.then = then
    assert main(["-m", "seed=1,2"]) == 2
    assert build.seen == [1, 2]
    said = capsys.readouterr().err
    assert "Error executing job with overrides: ['seed=1']" in said
    assert said.endswith("metarun: error: seed 1 cannot be\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["algorithm=mamll"], "algorithm has no option 'mamll'; did you mean maml? Options: hf, maml."),
        (["-m", "algorithm=maml,mamll"], "algorithm has no option 'mamll'; did you mean maml? Options: hf, maml."),
        (["--multrun", "seed=3"], "there is no flag --multrun; did you mean --multirun?"),
        (["--config-dir", "nowhere", "--help"], "--config-dir must name a folder, and nowhere is not one."),
        (["--config-dir=nowhere", "--help"], "--config-dir must name a folder, and nowhere is not one."),
        (["evalute", "out"], "'evalute' is no subcommand; did you mean evaluate?"),
        (
            ["evaluate"],
            (
                "metarun evaluate: the following arguments are required: RUN_DIR. "
                "usage: metarun evaluate RUN_DIR [KEY=VALUE ...] [--allow CLASS]"
            ),
        ),
        (["evaluate", "nowhere"], "metarun evaluate needs the folder of a run, and nowhere is not a folder."),
        (["--config-dir", "nowhere", "seed=3"], "--config-dir must name a folder, and nowhere is not one."),
        (
            ["--config-name", "nothing"],
            (
                "Cannot find primary config 'nothing'. Check that it's in your config search path. "
                "HYDRA_FULL_ERROR=1 shows where this comes from."
            ),
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(
    build: SimpleNamespace, capsys: pytest.CaptureFixture[str], argv: list[str], line: str
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said == f"metarun: error: {line}\n"
    assert build.seen == []


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr().out == f"metarun {__version__}\n"


def test_full_error_shows_the_traceback_too(
    build: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    build.then = raising(ConfigurationError("cannot be"))
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith("metarun: error: cannot be\n")


def test_a_run_started_by_a_run_shows_no_traceback_that_nobody_asked_for(build: SimpleNamespace) -> None:
    build.then = lambda cfg: build.seen.append({name: os.environ[name] for name in os.environ if "FULL_ERROR" in name})
    assert main(["seed=3"]) == 0
    assert build.seen == [3, {"HYDRA_FULL_ERROR": "1", "METARUN_FULL_ERROR": "0"}]


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate(build: SimpleNamespace, tmp_path: Path) -> None:
    assert main(["evaluate", str(tmp_path), "seed=3", "dataset.ways=20"]) == 0
    assert build.seen == [(tmp_path, ["seed=3", "dataset.ways=20"], [])]
    build.seen.clear()
    assert main(["evaluate", str(tmp_path), "--allow", "a.B", "seed=3", "--allow", "a.C"]) == 0
    assert build.seen == [(tmp_path, ["seed=3"], ["a.B", "a.C"])]


def test_evaluate_refuses_a_word_without_a_value(
    build: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path), "seed"]) == 2
    assert capsys.readouterr().err == "metarun: error: after RUN_DIR come KEY=VALUE pairs, and 'seed' has no '='.\n"


def test_evaluate_help() -> None:
    done = metarun("evaluate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: metarun evaluate RUN_DIR [KEY=VALUE ...] [--allow CLASS]\n")
