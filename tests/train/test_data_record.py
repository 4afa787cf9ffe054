"""metarun.train.data_record: whether a run's examples are still those that it began with."""

import json
from types import SimpleNamespace

import pytest

from metarun.errors import ConfigurationError
from metarun.train.data_record import check_same_data, own_pictures
from metarun.train.folder import RunFolder

BEFORE = {"sha256": "a", "split_sha256": "b", "version": "1"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"version": "2"}, None),
        ({"sha256": "c"}, "the examples are no longer what it saw ({data}). Give dataset.path the folder as it was, or stop."),
        ({"split_sha256": "c"}, "the split of the classes is no longer what it saw ({data}). Give dataset.path the folder as "
         "it was, or stop."),
        ({"sha256": "c", "version": "2"}, "the examples are no longer what it saw ({data}). Give dataset.path the folder as it "
         "was, or stop. Files that did not change may be read otherwise: version 1 of the preparation read them then, and 2 "
         "now."),
    ],
)  # fmt: skip
def test_other_examples_are_refused_and_another_preparation_is_named(changes, words, tmp_path):
    folder = RunFolder(tmp_path)
    folder.data.write_text(json.dumps({"provenance": BEFORE, "splits": {}}))
    store = SimpleNamespace(provenance=BEFORE | changes)
    if words is None:
        check_same_data(folder, store, "it saw", "stop")
        return
    with pytest.raises(ConfigurationError) as caught:
        check_same_data(folder, store, "it saw", "stop")
    assert str(caught.value) == words.format(data=folder.data)


def test_what_changes_no_picture_is_no_part_of_own_pictures():
    store = {"_target_": "metarun.tasks.sources.folder.folder", "path": "pets", "cache": "x", "max_pixels": 5}
    found = own_pictures({"dataset": {"source": {"store": store}}})
    assert found == {"_target_": store["_target_"], "path": "pets"}
    assert (
        own_pictures({"dataset": {"source": {"store": {"_target_": "metarun.tasks.sources.named.named_set"}}}}) is None
    )
