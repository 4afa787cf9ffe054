"""metarun.json_text: files hold JSON that any reader reads, and say what has no number."""

import ast
import json
import math

import pytest

from metarun.json_text import as_written, json_text, not_finite

from .test_floors import MODULES, tree_of


def refuse(word: str) -> None:
    raise AssertionError(f"a bare {word}")


def test_what_is_finite_is_written_as_python_writes_it():
    content = {"a": [1, 0.1, None, True], "b": {"c": "ü"}, "d": ()}
    assert json_text(content) == json.dumps(content)
    assert json_text(content, indent=2) == json.dumps(content, indent=2)


def test_what_is_no_number_is_null_and_named():
    content = {"step": 3, "rows": [{"mean": math.nan}, {"mean": 0.5, "pair": (math.inf, -math.inf)}]}
    text = json_text(content)
    assert json.loads(text, parse_constant=refuse) == {
        "step": 3,
        "rows": [{"mean": None}, {"mean": 0.5, "pair": [None, None]}],
        "not_finite": {"rows.0.mean": "nan", "rows.1.pair.0": "inf", "rows.1.pair.1": "-inf"},
    }
    assert not_finite(content) == json.loads(text)["not_finite"]
    assert json_text([math.nan, 1]) == "[null, 1]"


def test_a_flat_object_comes_back_as_it_was():
    content = {"step": 3, "a": math.inf, "b": -math.inf, "c": 0.1, "d": 2}
    assert as_written(json.loads(json_text(content))) == content
    (found,) = as_written(json.loads(json_text({"a": math.nan}))).values()
    assert math.isnan(found)


def test_what_was_said_before_stays_said():
    """A file that is read, changed and written again."""
    once = json.loads(json_text({"a": math.nan, "b": 1.0}))
    assert json.loads(json_text(once)) == once
    assert json.loads(json_text(once | {"b": math.inf}))["not_finite"] == {"a": "nan", "b": "inf"}


@pytest.mark.parametrize("module", MODULES)
def test_there_is_no_other_writer(module):
    """Python's own is for texts that are hashed, compared or shown: no part of a call that writes, nor of a line."""
    for node in ast.walk(tree_of(module)):
        is_line = isinstance(node, ast.BinOp) and ast.unparse(node.right) in (r"'\n'", r"b'\n'")
        if is_line or (isinstance(node, ast.Call) and "write" in ast.unparse(node.func).rpartition(".")[2]):
            assert "json.dump" not in ast.unparse(node), ast.unparse(node)
