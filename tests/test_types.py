"""The types of metarun/ as basedpyright sees them (pyproject.toml, [tool.basedpyright])."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.scenario
def test_the_type_checker_finds_no_error():
    """One process of its own, 25 s on an idle core; the packages that it looks at are those of this Python."""
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert checked.returncode == 0, f"{checked.stdout}\n{checked.stderr}"
