"""Tab completion as a shell asks for it: `COMP_LINE="metarun algorithm=" metarun -sc query=bash`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def query(line: str, *, before: str = "") -> list[str]:
    """The words that bash is offered for a half-typed line; asserts that nothing else reaches the terminal."""
    code = f"{before}\nimport sys\nfrom metarun.command_line.main import main\nsys.exit(main(['-sc', 'query=bash']))"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_options_of_a_group() -> None:
    offered = query("metarun algorithm=")
    expected = sorted(f"algorithm={file.stem}" for file in (ROOT / "conf" / "algorithm").glob("*.yaml"))
    assert offered == expected
    assert {"algorithm=maml", "algorithm=fomaml", "algorithm=imaml"} <= set(offered)


def test_options_of_a_group_inside_a_group() -> None:
    expected = sorted(f"algorithm/inner={file.stem}" for file in (ROOT / "conf/algorithm/inner").glob("*.yaml"))
    assert expected
    assert query("metarun algorithm/inner=") == expected


def test_keys() -> None:
    assert query("metarun algorithm=maml see") == ["seed="]


def test_torch_is_not_imported() -> None:
    assert "algorithm=maml" in query("metarun algorithm=", before="import sys; sys.modules['torch'] = None")


@pytest.mark.parametrize("line", ["metarun eval", "metarun evaluate"])
def test_subcommands(line: str) -> None:
    assert "evaluate" in query(line)


@pytest.mark.parametrize("line", ["metarun evaluate ", "metarun evaluate out"])
def test_after_a_subcommand_the_shell_completes_files(line: str) -> None:
    assert query(line) == []


def test_after_gradients_come_groups_options_and_keys() -> None:
    assert query("metarun gradients algorithm=") == query("metarun algorithm=")
    assert query("metarun gradients algorithm=maml see") == ["seed="]


@pytest.mark.parametrize("line", ["metarun seed=[1 alg", "metarun algorithm=nothing see"])
def test_a_line_that_does_not_compose_offers_no_keys_and_no_message(line: str) -> None:
    assert "seed=" not in query(line)


def test_install_is_for_metarun_under_python_m_too() -> None:
    command = [sys.executable, "-m", "metarun", "-sc", "install=bash"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("hydra_bash_completion metarun")
