"""Tab completion: what a line may become, and the same asked by Hydra's script and by real bash, zsh and fish."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarun.command_line.completion import candidates, print_candidates
from metarun.command_line.completion_scripts import SCRIPTS
from metarun.command_line.main import main
from metarun.command_line.subcommands import SUBCOMMANDS, parser_of
from metarun.commands.report import FORMATS, STATES
from metarun.configuration.chosen_keys import chosen_keys
from metarun.tasks.sources.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


def offered(line: str) -> list[str]:
    return [candidate.word for candidate in candidates(f"metarun {line}")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two runs, a folder of configuration and a file."""
    for run in ("maml_sinusoid", "my run"):
        (tmp_path / "outputs" / run).mkdir(parents=True)
        (tmp_path / "outputs" / run / "config.json").write_text(
            '{"choices": {"algorithm": "imaml_ng", "dataset": "cub"}}'
        )
    (tmp_path / "outputs" / "sweeps" / "one").mkdir(parents=True)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mine.yaml").write_text("# my own\ndepth: 8\n")
    (tmp_path / "page.html").touch()
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METARUN_OUTPUTS", raising=False)
    return tmp_path


# --- what a line may become -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["algorithm", "algorithm/inner", "hydra/launcher"])
@pytest.mark.parametrize("before", ["", "-m seed=0,1 ", "gradients ", "submit --dry-run ", "evaluate RUN_DIR "])
def test_options_of_a_group(group: str, before: str) -> None:
    expected = sorted(f"{group}={file.stem}" for file in (CONF / group).glob("*.yaml"))
    assert expected
    assert offered(f"{before}{group}=") == expected


def test_options_have_their_descriptions() -> None:
    (found,) = candidates("metarun tracker=n")
    assert (found.word, found.is_whole) == ("tracker=none", True)
    assert found.description.startswith("Local files only: ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ev", ["evaluate", "evaluation."]),
        ("version", ["version"]),
        ("alg", ["algorithm=", "algorithm/", "algorithm."]),
        ("algorithm/", ["algorithm/direction=", "algorithm/direction/", "algorithm/inner=", "algorithm/meta_gradient=",
                        "algorithm/meta_gradient/"]),
        ("algorithm=maml see", ["seed="]),
        ("schedule.s", ["schedule.steps=", "schedule.shots="]),
        ("seed=", ["seed=0"]),
        ("run.over", ["run.overwrite="]),
        ("run.overwrite=", ["run.overwrite=true", "run.overwrite=false"]),
        ("algorithm=maml,imaml_h", ["algorithm=maml,imaml_hf"]),
        ("tracker=[none,w", ["tracker=[none,wandb"]),
        ("algorithm=imaml_ng algorithm.direction.metric.c", ["algorithm.direction.metric.corrected="]),
        ("algorithm=maml algorithm.direction.metric.c", []),
        ("-m algorithm=imaml_ng,maml 'optimizer.lr=tag(log,interval(1,2))' algorithm.direction.ma",
         ["algorithm.direction.max_divergence="]),
        ("+experiment=maml_si", ["+experiment=maml_sinusoid"]),
        ("~exp", ["~experiment="]),
        ("--c", ["--config-dir", "--cfg"]),
        ("--cfg ", ["job", "hydra", "all"]),
        ("--help optimizer", ["optimizer", "optimizer=", "optimizer."]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("data ", ["list", "check", "prepare"]),
        ("data check om", ["omniglot"]),
        ("data prepare fo", ["folder"]),
        ("data list om", []),
        ("data check omniglot data.c", ["data.cache="]),
        ("ls --state ", list(STATES)),
        ("report --format ", list(FORMATS)),
        ("report outputs --rows see", ["seed"]),
        ("report outputs --rows seed,optimizer.l", ["seed,optimizer.lr"]),
        ("report outputs --where see", ["seed="]),
        ("report outputs --steps ", []),
        ("xyzzy", []),
        ("seed='0", ["seed=0"]),  # an open quote is closed
        ("seed=[1 see", ["seed="]),  # what cannot be read is left out
    ],
)  # fmt: skip
def test_what_a_word_may_become(line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_the_first_word_is_any_subcommand_group_or_key() -> None:
    keys = {key.name for key in chosen_keys([], CONF).keys}
    found = offered("")
    assert found[: len(SUBCOMMANDS)] == list(SUBCOMMANDS)
    assert {f"{key}=" if "." not in key else f"{key.partition('.')[0]}." for key in keys} <= {*found}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_flags_are_those_of_the_parser(name: str) -> None:
    found = offered(f"{name} -")
    known = [flag for flag in re.findall(r"--[a-z][a-z-]*", parser_of(name).format_help()) if flag != "--ask-parser"]
    assert found
    assert {*found} == {*known} or {*found} < {*known}  # a description may name a flag of another command
    assert "--help" in found


def test_every_subcommands_parser_is_found() -> None:
    assert [parser_of(name).prog for name in SUBCOMMANDS] == [f"metarun {name}" for name in SUBCOMMANDS]


def test_a_line_that_does_not_compose_offers_groups_alone() -> None:
    assert offered("algorithm=nothing alg") == ["algorithm=", "algorithm/"]
    assert offered("algorithm=nothing see") == []


def test_data_sets() -> None:
    assert offered("data check ") == [*CATALOGUE, "folder"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evaluate ", ["outputs/maml_sinusoid", "outputs/my run"]),
        ("evaluate outputs/ma", ["outputs/maml_sinusoid"]),
        ("evaluate outputs/my\\ ", ["outputs/my run"]),
        ("evaluate 'outputs/my ", ["outputs/my run"]),
        ("evaluate outputs/s", ["outputs/sweeps/"]),
        ("evaluate ./outputs/", ["./outputs/maml_sinusoid", "./outputs/my run", "./outputs/sweeps/"]),
        ("report ", ["outputs", "outputs/maml_sinusoid", "outputs/my run"]),
        ("report outputs/my\\ run ma", []),
        ("report outputs --html pa", ["page.html"]),
        ("report outputs --figures ", ["my_conf/", "outputs/"]),
        ("status ", ["my_conf/", "outputs/"]),
        ("ls .", [".hidden/"]),
        ("--config-dir ", ["my_conf/", "outputs/"]),
        ("dataset.path=./ou", ["dataset.path=./outputs/"]),
        ("--config-dir my_conf model=m", ["model=mine", "model=mlp"]),
        ("--config-dir=my_conf model=mine model.", ["model.depth="]),
        ("submit --config-dir my_conf model=mine model.", ["model.depth="]),
        ("evaluate outputs/maml_sinusoid algorithm.direction.metric.c", ["algorithm.direction.metric.corrected="]),
        ("evaluate outputs/maml_sinusoid --allow x dataset.way", ["dataset.ways="]),
    ],
)
def test_folders_and_files(folder: Path, line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_runs_lie_where_the_environment_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere" / "run").mkdir(parents=True)
    (folder / "elsewhere" / "run" / "config.json").touch()
    monkeypatch.setenv("METARUN_OUTPUTS", str(folder / "elsewhere"))
    assert offered("evaluate ") == [f"{folder}/elsewhere/run"]


def test_flags_that_take_several_words(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """What the parser says of a subcommand is all that completion knows of it."""
    from metarun.command_line import subcommands

    def predict(arguments: list[str]) -> None:
        parser = subcommands._parser("predict")
        parser.add_argument("run_dir", metavar="RUN_DIR")
        parser.add_argument("--support", metavar="FOLDER")
        parser.add_argument("--query", metavar="FOLDER|FILES", nargs="+")
        parser.add_argument("--format", choices=("csv", "json"))
        parser.parse_args(arguments)

    def sync(arguments: list[str]) -> None:
        parser = subcommands._parser("sync")
        parser.add_argument("words", metavar="RUN_DIR", nargs="+")
        parser.add_argument("--to", metavar="TRACKER", required=True)
        parser.parse_args(arguments)

    monkeypatch.setitem(SUBCOMMANDS, "predict", ("RUN_DIR", "label", predict))
    monkeypatch.setitem(SUBCOMMANDS, "sync", ("RUN_DIR ... --to TRACKER", "replay", sync))
    assert offered("sync outputs/maml_sinusoid outputs/m") == ["outputs/maml_sinusoid", "outputs/my run"]
    assert offered("sync outputs/maml_sinusoid --to w") == ["wandb"]
    assert offered("pred") == ["predict"]
    assert offered("predict outputs/ma") == ["outputs/maml_sinusoid"]
    assert offered("predict x --support ") == ["my_conf/", "outputs/"]
    assert offered("predict x --query ") == offered("predict x --query a b ") == ["my_conf/", "outputs/", "page.html"]
    assert offered("predict x --query a --f") == ["--format"]
    assert offered("predict x --query a --format ") == ["csv", "json"]
    assert offered("predict x --format csv ") == []


# --- what the scripts are told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bash", "metarun lr_schedule=", "\"'><=;|&(:"], "constant \ncosine \nplateau \n"),
        (["bash", "metarun lr_schedule=c", " \t\n"], "lr_schedule=constant \nlr_schedule=cosine \n"),
        (["bash", "metarun see", "="], "seed=\n"),
        (["bash", "metarun evaluate outputs/my", "="], "outputs/my\\ run \n"),
        (["zsh", "metarun evaluate outputs/my"], "outputs/my\\ run\t\t\n"),
        (["zsh", "metarun see"], "seed=\tof the parameters at the start and of the training tasks\t+\n"),
        (["fish", "metarun evaluate outputs/my"], "outputs/my run\t\t\n"),
        (["fish", "A=1 metarun vers"], "version\tprint the version\t\n"),
    ],
)
def test_lines_for_a_script(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    print_candidates(arguments)
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("shell", SCRIPTS)
def test_completion_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]


def test_another_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("metarun: error: metarun completion: argument shell: invalid choice: 'tcsh'")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("line", ["metarun algorithm=", "metarun ", "metarun report --f", "metarun data check om"])
def test_torch_is_not_imported(line: str) -> None:
    code = "import sys; sys.modules['torch'] = None; from metarun.command_line.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "_complete", "zsh", line]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    words = [shown.split("\t")[0] for shown in done.stdout.splitlines()]
    assert words == [candidate.word for candidate in candidates(line)]


# --- Hydra's own script -----------------------------------------------------------------------------------------------


def query(line: str) -> list[str]:
    """The words that Hydra's script for bash is told; asserts that nothing else reaches the terminal."""
    command = [sys.executable, "-m", "metarun", "-sc", "query=bash"]
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    "line", ["metarun algorithm=", "metarun gradients see", "metarun ev", "metarun algorithm=no see"]
)
def test_hydras_script_is_told_the_same(line: str) -> None:
    assert query(line) == [candidate.word for candidate in candidates(line)]


def test_install_is_for_metarun_under_python_m_too() -> None:
    command = [sys.executable, "-m", "metarun", "-sc", "install=bash"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("hydra_bash_completion metarun")


# --- real shells ------------------------------------------------------------------------------------------------------

SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
TYPED = [
    ("metarun evaluate outputs/ma", "metarun|evaluate|outputs/maml_sinusoid"),
    ("metarun evaluate outputs/my\\ ", "metarun|evaluate|outputs/my run"),
    ("metarun tracker=n", "metarun|tracker=none"),
    ("metarun seed=1 schedule.che", "metarun|seed=1|schedule.checkpoint_every="),
    ("metarun --config-dir my_conf model=mi", "metarun|--config-dir|my_conf|model=mine"),
    ("metarun data check omn", "metarun|data|check|omniglot"),
    ("metarun report outputs --fi", "metarun|report|outputs|--figures"),
    ("metarun dataset.path=./my", "metarun|dataset.path=./my_conf/"),
]


@pytest.fixture
def path_with_metarun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `metarun` of this repository, first on the path."""
    command = folder / ".hidden" / "metarun"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m metarun "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("shell", SHELLS)
def test_in_a_real_shell(shell: str, path_with_metarun: None, folder: Path, tmp_path: Path) -> None:
    """Every line at once: a shell types them after each other, and leaves their words in a file."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "dumb"}
        os.execvp(shell, SHELLS[shell])
    result = tmp_path / "words"

    def wait(count: int) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and (not result.exists() or result.read_text().count("\n") < count):
            if select.select([terminal], [], [], 0.05)[0]:
                os.read(terminal, 65536)
        assert result.read_text().count("\n") == count

    try:
        setup = f"""words() {{ local IFS='|'; echo "$*" >> '{result}'; }}; eval "$(metarun completion {shell})"; words ready\n"""
        os.write(terminal, setup.encode())
        wait(1)
        for number, (line, _) in enumerate(TYPED):
            # Tab, and to the beginning of the line for a command that keeps its words.
            os.write(terminal, line.encode() + b"\t\x01words \x05\n")
            wait(number + 2)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert result.read_text().splitlines()[1:] == [words for _, words in TYPED]


def test_in_fish(path_with_metarun: None) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish here")
    asked = ["metarun tracker=", "metarun evaluate outputs/m", "metarun data check omn", "metarun seed=1 see"]
    script = "metarun completion fish | source\n" + "".join(f"complete -C '{line}'\necho ==\n" for line in asked)
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
    answers = [answer.split("\n") for answer in done.stdout.removesuffix("\n==\n").split("\n==\n")]
    expected = [sorted(f"{c.word}\t{c.description}".rstrip("\t") for c in candidates(line)) for line in asked]
    assert [sorted(answer) for answer in answers] == expected
