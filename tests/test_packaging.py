"""The configuration travels with the package: in a wheel, and beside it in a checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from metarun.configuration.config_folder import config_folder, groups
from metarun.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def test_a_checkout_uses_the_configuration_at_its_top():
    assert config_folder(ROOT / "metarun") == CONF


def test_an_installed_package_uses_its_own_copy_first(tmp_path):
    package = tmp_path / "site-packages" / "metarun"
    for folder in (package / "conf", package.parent / "conf"):  # the second could be anybody's
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
    assert config_folder(package) == package / "conf"
    (package / "conf" / "config.yaml").unlink()
    assert config_folder(package) == package.parent / "conf"
    (package.parent / "conf" / "config.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"no config\.yaml in .* Install metarun again"):
        config_folder(package)


def test_the_command_works_from_a_checkout_and_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "metarun", "--cfg", "job", "-p", "seed"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_whole_configuration(tmp_path):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling: pip install hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(unpacked)
    shipped = {f"metarun/conf/{path.relative_to(CONF).as_posix()}" for path in CONF.rglob("*.yaml")}
    code = {f"metarun/{path.relative_to(ROOT / 'metarun').as_posix()}" for path in (ROOT / "metarun").rglob("*.py")}
    assert shipped | code | {"hydra_plugins/metarun_sweep.py"} <= names
    assert "hydra_plugins/__init__.py" not in names, "Hydra's plugins share a name space package"
    assert not {name for name in names if name.startswith(("tests/", "conf/", "scripts/", "outputs/"))}
    # From the wheel alone: every group, and a composed key.
    assert groups(config_folder(unpacked / "metarun")) == groups(CONF)
    script = (
        "import metarun, sys; from metarun.command_line.main import main; "
        "print(metarun.__file__, flush=True); sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--cfg", "job", "-p", "model"], cwd=unpacked, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(unpacked)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(unpacked / "metarun" / "__init__.py")
    assert "_target_: metarun.models.mlp.MLP" in lines
