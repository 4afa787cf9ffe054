"""Examples in pages: Python that runs, sessions that print what they say, and a README that can be read at once."""

import ast
import doctest
import importlib
import re
import shlex

import pytest

from metarun.command_line.main import main

from .pages import ROOT, pages

PAGES = [pytest.param(page, id=page.path.stem) for page in pages()]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_python_that_begins_with_a_prompt(page, tmp_path, monkeypatch):
    """The page's blocks that begin with >>> are one session, in a folder with the files that the page shows."""
    session = "\n".join(body for body in page.blocks("python") if body.startswith(">>>"))
    for name, text in page.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("METARUN_OUTPUTS", str(tmp_path / "outputs"))
    test = doctest.DocTestParser().get_doctest(session, {}, page.name, str(page.path), 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=told.append)
    assert told == []


@pytest.mark.parametrize("page", PAGES)
def test_python_without_a_prompt(page):
    """It can be parsed, and what it imports of installed packages is there."""
    own = {path.rpartition("/")[2].removesuffix(".py") for path in page.files}
    for body in page.blocks("python"):
        if body.startswith(">>>"):
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in own:
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
            elif isinstance(node, ast.Import):
                for name in node.names:
                    if name.name.split(".")[0] not in own:
                        importlib.import_module(name.name)


@pytest.mark.parametrize("page", PAGES)
def test_sessions(page, tmp_path, monkeypatch, capfd):
    """A block of text that begins with `$ metarun` prints what stands below that line."""
    monkeypatch.chdir(tmp_path)
    for body in page.blocks("text"):
        for command, printed in re.findall(r"^\$ metarun (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
            main(shlex.split(command))
            told = capfd.readouterr()
            assert told.out + told.err == printed


def test_sessions_are_found():
    assert any("$ metarun" in body for page in pages() for body in page.blocks("text"))
