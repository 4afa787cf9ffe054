"""metarun.tasks.sources.arrays: X and y in a file of numpy.savez, for classification and regression."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources.arrays import arrays, regression_arrays
from metarun.tasks.stored_regression import StoredRegression
from metarun.tasks.types import SPLITS

SETTINGS: dict[str, Any] = {
    "split_file": None,
    "split_fractions": [0.6, 0.2, 0.2],
    "split_seed": 0,
    "min_examples": None,
    "standardise": False,
}
Y = np.array([3, 1, 2, 3, 1, 2, 3, 1, 2])
X = np.arange(9.0)[:, None] * [1, 10]


def store_of(path: Path, /, *, name: str = "x.npz", standardise: bool = False, **content: Any) -> ClassStore:
    np.savez(path / name, **content)
    return arrays(str(path / name), **SETTINGS | {"standardise": standardise})


def test_examples_of_a_class_are_in_the_order_of_the_file(tmp_path):
    store = store_of(tmp_path, X=X, y=Y)
    assert store.classes == ("1", "2", "3")
    assert store.items[:, 0].tolist() == [1, 4, 7, 2, 5, 8, 0, 3, 6]
    assert torch.equal(store.items[:, 1], 10 * store.items[:, 0])


@pytest.mark.parametrize("labels", [Y.astype(float), Y.astype(str), Y.astype("S1"), Y.astype(np.uint8)])
def test_labels_are_texts_or_whole_numbers_of_any_kind(labels, tmp_path):
    assert store_of(tmp_path, X=X, y=labels).provenance["sha256"] == store_of(tmp_path, X=X, y=Y).provenance["sha256"]


@pytest.mark.parametrize("split", [["test", "train", "val"], ["val", "test", "train"] * 3])
def test_a_split_is_for_each_class_or_for_each_example(split, tmp_path):
    """Of each class: in the order of numpy.unique(y), 1, 2, 3. Of each example: 3, 1, 2, three times."""
    store = store_of(tmp_path, X=X, y=Y, split=np.array(split))
    assert [store.names(each) for each in SPLITS] == [["2"], ["3"], ["1"]]


def test_features_may_have_any_shape_and_are_standardised_place_by_place(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(9, 4, 5))
    split = np.array(["train", "train", "test"])
    store = store_of(tmp_path, X=inputs.astype(np.float32), y=Y, split=split, standardise=True)
    assert store.items.shape == (9, 4, 5)
    single = inputs.astype(np.float32).astype(np.float64)
    training = single[Y != 3]
    expected = (single - training.mean(0)) / training.std(0)
    order = np.argsort(Y, kind="stable")
    assert torch.equal(store.items, torch.from_numpy(expected[order].astype(np.float32)))


def test_regressions_have_numbers_and_a_task_for_each(tmp_path):
    targets = np.stack([X[:, 0] ** 2, -X[:, 0]], 1)
    np.savez(tmp_path / "r.npz", X=X[:, 0], y=targets, task=Y)
    store = regression_arrays(str(tmp_path / "r.npz"), standardise_target=False, **SETTINGS)
    source = StoredRegression(store=store)
    assert (source.input_shape, source.output_size) == ((1,), 2)
    batch = source.sample(0, "train", torch.arange(5), 1, 2)
    for part in (batch.support_set, batch.query_set):
        assert torch.equal(part.targets[..., :1], part.inputs**2) and torch.equal(part.targets[..., 1:], -part.inputs)
        remainder = {"3": 0, "1": 1, "2": 2}  # of a row's number by 3, by its task
        names = [store.classes[i] for i in batch.latent["task"].tolist()]
        assert (part.inputs[..., 0] % 3 == torch.tensor([remainder[n] for n in names])[:, None]).all()


NAN = X.copy()
NAN[4, 1] = np.nan


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"X": X}, "must hold X, y, and has no y: it holds X."),
        ({"X": X, "y": Y[:5]}, "y must be [9], as X has so many examples, and is [5]."),
        ({"X": X, "y": Y + 0.5}, "y must be whole numbers or texts, and row 0 is 3.5. For numbers to predict: dataset="),
        ({"X": NAN, "y": Y}, "row 4 of X: position [1] is nan. Every number must be finite: fill the gaps"),
        ({"X": X.astype(str), "y": Y}, "X must be an array of numbers, and is [9, 2] of <U32."),
        (
            {"X": X, "y": Y, "split": np.array(["train"] * 4)},
            "split must have one entry for each of the 9 examples, or for each of the 3 values of y, and is [4].",
        ),
        (
            {"X": X, "y": Y, "split": np.array(["train"] * 8 + ["test"])},
            "a class must be in one split only, and 2 is in train (row 2) and in test (row 8).",
        ),
        (
            {"X": X, "y": Y, "split": np.array(["train", "dev", "test"])},
            "row 2: the split must be train, val or test, and is 'dev'.",
        ),
        ({"X": X, "y": np.array([{}] * 9)}, "holds Python objects, or is no file of numpy.savez. Save plain numbers and texts"),
    ],
)  # fmt: skip
def test_arrays_are_refused_in_one_line(content, words, tmp_path):
    with pytest.raises(ValueError) as caught:
        store_of(tmp_path, **content)
    assert str(caught.value).startswith(f"arrays {tmp_path / 'x.npz'}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_none_of_numpys(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a file of numpy.savez, and .*x.npz is not there"):
        arrays(str(tmp_path / "x.npz"), **SETTINGS)
    with pytest.raises(ValueError, match=r"dataset=arrays needs the file of your arrays. Set dataset.path=FILE.npz"):
        arrays(None, **SETTINGS)
    for data in (b"PK\x03\x04 no zip", b"", b"text"):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"is damaged, or no file|holds Python objects, or is no file"):
            arrays(str(tmp_path / "x.npz"), **SETTINGS)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="holds one array without a name"):
        arrays(str(tmp_path / "x.npy"), **SETTINGS)
    np.savez(tmp_path / "r.npz", X=X, y=Y)
    with pytest.raises(ValueError, match=r"must hold X, y, task, and has no task: it holds X, y"):
        regression_arrays(str(tmp_path / "r.npz"), standardise_target=False, **SETTINGS)
