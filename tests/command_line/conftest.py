"""What tests of bad input share: nothing may be trained, and the one line of error is what there is."""

from pathlib import Path

import pytest

from metarun.algorithm import Algorithm

from ..training.small import QUICK, run_here


@pytest.fixture
def nothing_trains(monkeypatch):
    """A step of training would be an error, and a cache in the home folder is nobody's to write."""

    def trained(*_arguments, **_named):
        raise AssertionError("training began")

    monkeypatch.setattr(Algorithm, "meta_step", trained)
    monkeypatch.setenv("HOME", "/nonexistent-home")


@pytest.fixture
def refused(tmp_path, capsys):
    """Run the command line; give its one line of error without the prefix. Nothing may be written."""

    def run(*arguments: str, root: str | Path | None = None, status: int = 2) -> str:
        capsys.readouterr()
        assert run_here(*QUICK, f"run.root={root or tmp_path / 'runs'}", *arguments) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        (line,) = err.splitlines()
        assert line.startswith("metarun: error: ")
        assert not (tmp_path / "runs").exists()
        return line.removeprefix("metarun: error: ")

    return run
