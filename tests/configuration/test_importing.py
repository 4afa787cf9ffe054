"""Classes of the user's: found in the current folder, and named with where was looked."""

import sys
from pathlib import Path

import pytest

from metarun.configuration.importing import class_of, look_in_current_folder
from metarun.errors import ConfigurationError

from ..training.small import python


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A current folder with packages: one that can be imported, and others that cannot."""
    files = {
        "good_package/__init__.py": "from good_package.net import MyNet\nnumber = 3\n",
        "good_package/net.py": "import torch\n\nclass MyNet(torch.nn.Linear):\n    pass\n",
        "no_syntax.py": "x = 1\ndef f(:\n",
        "no_name.py": "x = 1\ny = z\n",
        "no_need.py": "import not_installed_at_all\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    look_in_current_folder()
    yield tmp_path
    for name in ("good_package", "good_package.net", "no_syntax", "no_name", "no_need"):
        sys.modules.pop(name, None)


def test_the_current_folder_is_looked_through_last(package):
    assert sys.path[-1] == str(package)
    look_in_current_folder()
    assert sys.path.count(str(package)) == 1
    class_of("model._target_", "good_package.MyNet")
    class_of("model._target_", "good_package.net.MyNet")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.Net", "there is no module nowhere. Looked in the current folder ({0}), in PYTHONPATH ("),
        ("good_package.MyNett", "good_package ({0}/good_package/__init__.py) has no MyNett; did you mean MyNet?"),
        ("good_package.net.Other.forward", "good_package.net ({0}/good_package/net.py) has no Other."),
        ("good_package.number", "must name a class, and good_package.number is of type int"),
        ("no_syntax.Net", "no_syntax cannot be imported ({0}/no_syntax.py, line 2: SyntaxError: "),
        ("no_name.Net", "no_name cannot be imported ({0}/no_name.py, line 2: NameError: name 'z' is not defined)"),
        (
            "no_need.Net",
            "no_need cannot be imported ({0}/no_need.py, line 1: ModuleNotFoundError: No module named 'not_in",
        ),
        (3, "must name a class with its module, such as my_package.MyNet, got 3"),
        ("Net", "must name a class with its module, such as my_package.MyNet, got 'Net'"),
        ("a..b", "must name a class with its module, such as my_package.MyNet, got 'a..b'"),
    ],
)
def test_a_class_that_is_not_there(target, message, package):
    with pytest.raises(ConfigurationError) as raised:
        class_of("model._target_", target)
    assert str(raised.value).startswith("model._target_ ")
    assert message.format(package) in str(raised.value)


def test_the_command_finds_a_package_beside_it(package):
    """As the installed command is started, with no folder of the user's on its path; a missing argument is the class's word."""
    start = (
        "import sys; sys.path.remove(''); sys.argv = ['metarun', *sys.argv[1:]]; "
        "from metarun.command_line.main import main; sys.exit(main())"
    )
    done = python("-c", start, "tracker=none", "device=cpu", "model._target_=good_package.MyNet", cwd=package)
    out, err = done.communicate()
    assert (done.returncode, out) == (2, "")
    assert err.startswith(
        "metarun: error: there is no key model.input_shape; MyNet takes in_features, out_features, bias"
    )
