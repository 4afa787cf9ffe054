"""metarun.tasks.sources.class_split: shares of classes in an order by a seed, or a file that says it."""

import hashlib
import json

import pytest

from metarun.tasks.sources.class_split import split_of
from metarun.tasks.types import SPLITS

CLASSES = [f"class {c}" for c in range(10)]


def test_shares_are_of_the_order_of_the_names_hashes():
    order = sorted(CLASSES, key=lambda name: hashlib.sha256(f"7/{name}".encode()).hexdigest())
    assert split_of(CLASSES, None, [0.5, 0.2, 0.3], 7, "a row") == {
        "train": order[:5],
        "val": order[5:7],
        "test": order[7:],
    }


def test_a_class_that_is_added_moves_few_others():
    before, after = (split_of(names, None, [0.6, 0.2, 0.2], 0, "a row") for names in (CLASSES, [*CLASSES, "class new"]))
    moved = sum(len({*before[split]} - {*after[split]}) for split in SPLITS)
    assert moved <= 2, "one at each border"


def test_a_file_says_it_and_leaves_classes_out(tmp_path):
    splits = {"train": ["class 3", "class 1"], "val": ["class 2"], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(splits))
    assert split_of(CLASSES, str(tmp_path / "split.json"), [1, 0, 0], 0, "a row") == splits
    splits["val"] += ["class 11", "class 12"]
    (tmp_path / "split.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match="names 2 val classes without a row: class 11, class 12"):
        split_of(CLASSES, str(tmp_path / "split.json"), [1, 0, 0], 0, "a row")


@pytest.mark.parametrize("fractions", [[0.5, 0.5], [0.5, 0.2, 0.2], [1.5, -0.5, 0]])
def test_shares_add_up(fractions):
    with pytest.raises(ValueError, match=r"three shares \(train, val, test\) that add up to 1"):
        split_of(CLASSES, None, fractions, 0, "a row")
