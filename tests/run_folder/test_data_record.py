"""metarun.run_folder.data_record: what the examples of a run were, and what is said where nothing says so any more."""

import json
import logging
from types import SimpleNamespace

import pytest

from metarun.errors import ConfigurationError, DamagedFile
from metarun.run_folder.data_record import check_same_data
from metarun.run_folder.folder import RunFolder

STORE = SimpleNamespace(provenance={"sha256": "a", "split_sha256": "b"})
RECORD = {"provenance": STORE.provenance, "splits": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is damaged (it must be an object, and is a list). Delete it and run again"),
        ('{"provenance": {"sha256": "a"}, "splits": {}}', "is damaged (provenance has no split_sha256). Delete it"),
        (json.dumps(RECORD)[:-1], "is damaged (Expecting"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, text, words):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DamagedFile) as raised:
        check_same_data(RunFolder(tmp_path), STORE, "this run began with", "")
    assert str(raised.value).startswith(f"{tmp_path / 'data.json'} {words}")


def test_other_examples_are_refused_and_a_missing_record_is_said(tmp_path, caplog):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(RECORD))
    check_same_data(RunFolder(tmp_path), STORE, "this run began with", "")
    other = SimpleNamespace(provenance=STORE.provenance | {"sha256": "c"})
    with pytest.raises(ConfigurationError, match="the examples are no longer what this run began with"):
        check_same_data(RunFolder(tmp_path), other, "this run began with", "")
    path.unlink()
    with caplog.at_level(logging.WARNING, "metarun"):
        check_same_data(RunFolder(tmp_path), other, "this run began with", "")
    assert caplog.messages == [
        f"{path} is missing: nothing says whether the examples are those that this run began with"
    ]
