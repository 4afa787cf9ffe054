"""metarun.tasks.class_store: classes of any size, one split each, hashed."""

import dataclasses
import hashlib
import re

import pytest
import torch

from metarun.tasks.class_store import ClassStore, CorruptStoreError


def small_store() -> ClassStore:
    items = torch.arange(6 * 2 * 3 * 4 * 4).to(torch.uint8).view(6, 2, 3, 4, 4)
    splits = {"train": ["a", "c", "e"], "val": ["b"], "test": ["d", "f"]}
    return ClassStore.build(items, list("abcdef"), splits, source="counting", version="1")


def test_build_records_ids_counts_and_hashes():
    store = small_store()
    assert {split: ids.tolist() for split, ids in store.splits.items()} == {
        "train": [0, 2, 4],
        "val": [1],
        "test": [3, 5],
    }
    assert store.counts.tolist() == [2] * 6 and store.starts.tolist() == [0, 2, 4, 6, 8, 10]
    assert store.names("test") == ["d", "f"] and store.num_bytes == 576
    assert store.provenance == {
        "source": "counting",
        "version": "1",
        "sha256": hashlib.sha256(bytes(i % 256 for i in range(576))).hexdigest(),
        "split_sha256": hashlib.sha256(b"train a\ntrain c\ntrain e\nval b\ntest d\ntest f\n").hexdigest(),
    }


def test_classes_of_any_size_lie_one_after_the_other():
    counts = torch.tensor([1, 5, 2, 1, 2, 1])
    store = dataclasses.replace(small_store(), counts=counts)
    assert store.starts.tolist() == [0, 1, 6, 8, 9, 11]
    assert store.largest == {"train": 2, "val": 5, "test": 1}
    with pytest.raises(ValueError, match="counts must add up to the 12 items, got 13"):
        dataclasses.replace(store, counts=counts + torch.tensor([1, 0, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="counts must be 6 numbers >= 1"):
        dataclasses.replace(store, counts=torch.tensor([0, 6, 2, 1, 2, 1]))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ["a", "b"], "val": ["b"], "test": []}, "b is in train and val"),
        ({"train": ["a", "a"], "val": ["b"], "test": []}, "a is in train, twice"),
        ({"train": ["a"], "val": ["x", "y"], "test": []}, "split val names 2 classes that are not there, first x"),
        ({"train": ["a"], "test": []}, "splits must be train, val, test, got train, test"),
    ],
)
def test_bad_splits_are_refused(splits, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ClassStore.build(torch.zeros(2, 1, 1, 2, 2, dtype=torch.uint8), ["a", "b"], splits, "s", "1")


def test_unsorted_names_and_other_dtypes_are_refused():
    splits = {"train": ["a"], "val": [], "test": ["b"]}
    with pytest.raises(ValueError, match="sorted, distinct names"):
        ClassStore.build(torch.zeros(2, 1, 1, 2, 2, dtype=torch.uint8), ["b", "a"], splits, "s", "1")
    with pytest.raises(ValueError, match="uint8"):
        ClassStore.build(torch.zeros(2, 1, 1, 2, 2, dtype=torch.float64), ["a", "b"], splits, "s", "1")


def test_verify_finds_one_changed_byte():
    store = small_store()
    store.verify()
    store.items[3, 1, 2, 0] += 1
    with pytest.raises(CorruptStoreError, match="items of counting have SHA-256"):
        store.verify()
