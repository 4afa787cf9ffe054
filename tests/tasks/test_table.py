"""metarun.tasks.sources.table (and rows): a CSV of features becomes episodes and regressions whose rows are known."""

import csv
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun.tasks.class_store import ClassStore, sha256_of
from metarun.tasks.episodes import Episodes
from metarun.tasks.sources.table import regression_table, table
from metarun.tasks.stored_regression import StoredRegression
from metarun.tasks.types import SPLITS

from ..training.small import SIX_STEPS, only_folder, run_here

SETTINGS: dict[str, Any] = {
    "features": None,
    "split": None,
    "delimiter": ",",
    "split_file": None,
    "split_fractions": [0.6, 0.2, 0.2],
    "split_seed": 0,
    "min_examples": None,
    "standardise": False,
}


def write(path: Path, columns: list[str], rows: list[list[Any]], delimiter: str = ",") -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return str(path)


def kinds(path: Path, num_classes: int = 10, num_rows: int = 6) -> str:
    """Classes in turn, line by line: row k of class c is (100 c + k, -k)."""
    rows = [[100 * c + k, f"kind {c}", -k] for k in range(num_rows) for c in range(num_classes)]
    return write(path, ["a", "label", "b"], rows)


def store_of(path: str, **changes: Any) -> ClassStore:
    return table(path, **{"target": "label", **SETTINGS, **changes})


def people(path: Path, num_tasks: int = 10, num_rows: int = 8) -> str:
    rows = [[f"p{t}", 100 * t + k, k, 1000 * t + k] for k in range(num_rows) for t in range(num_tasks)]
    return write(path, ["who", "dose", "day", "effect"], rows)


def regressions(path: str, **changes: Any) -> ClassStore:
    settings = {"target": "effect", "task": "who", "standardise_target": False, **SETTINGS, **changes}
    return regression_table(path, **settings)


# ---- classification --------------------------------------------------------------------------------------------------


def test_the_examples_of_a_class_are_its_lines_in_their_order(tmp_path):
    store = store_of(kinds(tmp_path / "t.csv"))
    assert store.classes == tuple(f"kind {c}" for c in range(10)) and store.counts.tolist() == [6] * 10
    for c in range(10):
        own = store.items[store.starts[c] : store.starts[c] + 6]
        assert torch.equal(own, torch.tensor([[100.0 * c + k, -k] for k in range(6)]))


def test_an_episode_is_the_rows_that_its_latent_names(tmp_path):
    episodes = Episodes(store=store_of(kinds(tmp_path / "t.csv")), ways=2, rotations=False)
    batch = episodes.sample(5, "train", torch.arange(20), 2, 3)
    names = episodes.store.classes
    for part, which in ((batch.support_set, "support_images"), (batch.query_set, "query_images")):
        positions = batch.latent[which]
        for task in range(20):
            expected = [
                [100 * int(names[c].split()[1]) + k, -k]
                for c, own in zip(batch.latent["classes"][task].tolist(), positions[task].tolist(), strict=True)
                for k in own
            ]
            assert part.inputs[task].tolist() == expected
            assert part.targets[task].tolist() == [label for label in range(2) for _ in range(positions.shape[-1])]
            assert all(names[c] in episodes.store.names("train") for c in batch.latent["classes"][task].tolist())
    both = torch.cat([batch.latent["support_images"], batch.latent["query_images"]], -1)
    assert (both.sort(-1).values.diff(dim=-1) > 0).all(), "no row is in both sets"


def test_splits_are_disjoint_and_are_those_of_the_names(tmp_path):
    store = store_of(kinds(tmp_path / "t.csv"), split_seed=3)
    order = sorted(store.classes, key=lambda name: hashlib.sha256(f"3/{name}".encode()).hexdigest())
    assert {split: set(store.names(split)) for split in SPLITS} == {
        "train": set(order[:6]),
        "val": set(order[6:8]),
        "test": set(order[8:]),
    }
    assert sorted(name for split in SPLITS for name in store.names(split)) == sorted(store.classes)


def test_features_are_standardised_by_the_training_classes_alone(tmp_path, caplog):
    path = kinds(tmp_path / "t.csv")
    raw = store_of(path)
    with caplog.at_level(logging.INFO, "metarun"):
        store = store_of(path, standardise=True)
    training = np.array(
        [[100 * int(name.split()[1]) + k, -k] for name in raw.names("train") for k in range(6)], dtype=np.float64
    )
    expected = (raw.items.double().numpy() - training.mean(0)) / training.std(0)
    assert torch.equal(store.items, torch.from_numpy(expected.astype(np.float32)))
    assert caplog.messages == [
        f"table {path}: features have mean 0 and deviation 1 over the 36 training examples alone (dataset.standardise)"
    ]
    kept = json.loads(store.provenance["standardised"])
    assert kept == {"mean": training.mean(0).tolist(), "std": training.std(0).tolist()}
    # What the other classes hold changes nothing for these.
    lines = Path(path).read_text().splitlines()
    other = store.names("test")[0]
    Path(path).write_text("\n".join(f"9e9,{other},7" if f",{other}," in line else line for line in lines))
    again = store_of(path, standardise=True)
    ids = store.splits["train"].tolist()
    for c in ids:
        assert torch.equal(again.items[6 * c : 6 * c + 6], store.items[6 * c : 6 * c + 6])


def test_a_constant_feature_is_centred_and_named(tmp_path, caplog):
    rows = [[0.1, k, f"kind {c}"] for c in range(10) for k in range(3)]
    path = write(tmp_path / "t.csv", ["same", "k", "label"], rows)
    with caplog.at_level(logging.INFO, "metarun"):
        store = store_of(path, standardise=True)
    assert caplog.messages[0].endswith("(dataset.standardise); constant there, and only centred: same")
    assert store.items[:, 0].abs().max() < 1e-7
    values = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert torch.equal(store.items[:3, 1], ((values - 1) / values.std(correction=0)).float())


def test_a_column_says_the_split(tmp_path):
    words = ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    rows = [[c + k / 10, f"kind {c}", words[c]] for c in range(10) for k in range(4)]
    path = write(tmp_path / "t.csv", ["a", "label", "part"], rows)
    store = store_of(path, split="part")
    assert [store.names(split) for split in SPLITS] == [
        [f"kind {c}" for c in range(5)],
        ["kind 5", "kind 6"],
        ["kind 7", "kind 8", "kind 9"],
    ]
    assert store.items.shape == (40, 1), "the split is no feature"
    rows[7][2] = "test"  # a row of kind 1, in line 9
    message = (
        "a class must be in one split only, and kind 1 is in train (line 6) and in test (line 9). It is the class that is split "
        "here, not its rows."
    )
    path = write(tmp_path / "t.csv", ["a", "label", "part"], rows)
    with pytest.raises(ValueError, match="must be in one split only") as caught:
        store_of(path, split="part")
    assert str(caught.value) == f"table {path}: {message}"
    rows[7][2] = "holdout"
    with pytest.raises(ValueError, match="line 9: the split must be train, val or test, and is 'holdout'"):
        store_of(write(tmp_path / "t.csv", ["a", "label", "part"], rows), split="part")


def test_columns_are_chosen_and_small_classes_left_out(tmp_path, caplog):
    rows = [[k, "free text", f"kind {c}", 10 * k] for c in range(6) for k in range(2 + c)]
    path = write(tmp_path / "t.csv", ["a", "remark", "label", "b"], rows)
    store = store_of(path, features=["b", "a"], min_examples=4)
    assert store.classes == ("kind 2", "kind 3", "kind 4", "kind 5")
    assert store.items[:4].tolist() == [[0, 0], [10, 1], [20, 2], [30, 3]]
    assert caplog.messages == [f"2 classes of table {path} are left out: kind 0, kind 1"]
    assert json.loads(store.provenance["left_out"]) == ["kind 0", "kind 1"]
    with pytest.raises(ValueError, match=r"line 2: column remark must hold numbers, and here is 'free text'"):
        store_of(path)
    with pytest.raises(ValueError, match=r"no class of .* is left: .* Lower dataset.min_examples"):
        store_of(path, features=["a"], min_examples=50)


def test_too_few_examples_name_the_class_and_the_keys(tmp_path):
    episodes = Episodes(store=store_of(kinds(tmp_path / "t.csv")), ways=2, rotations=False)
    with pytest.raises(
        ValueError, match=r"1 shots \+ 6 queries need 7 examples per class, but in split train 6 of 6 .* kind"
    ):
        episodes.check("train", 1, 6)


@pytest.mark.parametrize(
    ("lines", "changes", "words"),
    [
        (None, {}, "dataset.path must be a CSV file, and {path} is not there."),
        ("a,label\n1,x\n,x\n", {}, "table {path}, line 3: column a is nan. Every number must be finite: fill the gaps, or "),
        ("a,label\nnan,x\ninf,x\n", {}, "table {path}, line 2: column a is nan, and so have 1 more rows. Every number"),
        ("a,label\n1,x\n2,\n", {}, "table {path}, line 3: column label is empty. Fill it, or leave the line out."),
        ("a,label\n1,x\n2\n", {}, "table {path}, line 3: 1 cells, and the first line names 2 columns."),
        ("a,label\n1,x\n", {"target": "lable"}, "table {path} has no column lable (dataset.target); did you mean label?"),
        ("a,label\n1,x\n", {"features": ["b"]}, "table {path} has no column b (dataset.features). Its columns: a, label."),
        ("a;label\n1;x\n", {}, "written with ';' between its cells: set dataset.delimiter=';'."),
        ("a,a,label\n1,2,x\n", {}, "table {path} has several columns called 'a'. Name them apart in its first line."),
        ("label\nx\n", {}, "table {path} has no column left for the inputs. Set dataset.features=[COLUMN,...]."),
        ("a,label\n", {}, "table {path} must have a line of column names and a line for each example; it has no example."),
        ("", {}, "table {path} must have a line of column names and a line for each example; it has no example."),
        ("a,label\n1,x\n", {"delimiter": "::"}, "delimiter must be one character, got '::'. Set dataset.delimiter."),
        ("a,label\n1,x\n", {"target": None}, "dataset=table needs the column that names the classes. Set dataset.target="),
        ("a,label\n1,x\n", {"min_examples": 1}, "min_examples must be an integer >= 2, got 1"),
    ],
)  # fmt: skip
def test_a_table_is_refused_in_one_line(lines, changes, words, tmp_path):
    path = tmp_path / "t.csv"
    if lines is not None:
        path.write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        store_of(str(path), **changes)
    assert words.format(path=path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_spreadsheets_write_is_read(tmp_path):
    """A mark of UTF-8 before the first name, other marks between the cells, lines of nothing, cells in quotes."""
    text = '\ufeff"a";"label"\r\n"1";"x, y"\r\n;\r\n2;"x, y"\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    store = store_of(str(tmp_path / "t.csv"), delimiter=";", split_fractions=[1, 0, 0])
    assert store.classes == ("x, y",) and store.items.tolist() == [[1], [2]]
    (tmp_path / "t.csv").write_bytes("a,label\n1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="cannot be read as CSV in UTF-8"):
        store_of(str(tmp_path / "t.csv"))


def test_hashes_notice_every_change(tmp_path):
    """A row that goes over to the class beside it leaves the items as they were, one after the other."""
    rows = [[k, f"kind {k // 2}"] for k in range(8)]
    path = write(tmp_path / "t.csv", ["a", "label"], rows)
    before = store_of(path).provenance
    assert before["sha256"] == sha256_of(torch.arange(8.0)[:, None])
    rows[1][1] = "kind 1"  # the second and last row of kind 0
    after = store_of(write(tmp_path / "t.csv", ["a", "label"], rows)).provenance
    assert after["sha256"] == before["sha256"] and after["classes_sha256"] != before["classes_sha256"]


# ---- regression ------------------------------------------------------------------------------------------------------


def test_targets_may_be_several_and_standardised(tmp_path, caplog):
    path = people(tmp_path / "r.csv")
    with caplog.at_level(logging.INFO, "metarun"):
        store = regressions(path, target=["effect", "day"], standardise_target=True)
    raw = regressions(path, target=["effect", "day"])
    assert raw.items.shape == (80, 1), "what is to be predicted is no feature"
    rows = np.array([[1000 * int(name[1:]) + k, k] for name in raw.names("train") for k in range(8)], dtype=np.float64)
    expected = (raw.targets.double().numpy() - rows.mean(0)) / rows.std(0)
    assert torch.equal(store.targets, torch.from_numpy(expected.astype(np.float32)))
    assert StoredRegression(store=store).output_size == 2
    assert "errors are in units of their deviation" in caplog.text
    # Left as they are, targets of another size than steps are usually for are spoken of.
    assert "consider dataset.standardise_target=true" in caplog.text


def test_a_regression_needs_a_task_for_each_row_and_rows_for_each_task(tmp_path):
    path = people(tmp_path / "r.csv")
    for changes, words in (
        ({"task": None}, "which task a line is of. Set dataset.task=COLUMN."),
        ({"task": None, "target": None}, "which task a line is of. Set dataset.target=COLUMN and dataset.task=COLUMN."),
        ({"target": "who", "task": "dose"}, "line 2: column who must hold numbers, and here is 'p0'."),
    ):
        with pytest.raises(ValueError) as caught:
            regressions(path, **changes)
        assert words in str(caught.value)


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch) -> tuple[str, ...]:
    monkeypatch.setenv("COLUMNS", "300")
    return (*SIX_STEPS, "device.program=eager", "dataset.shots=1", "dataset.queries=2")


def test_a_table_without_any_code_and_a_change_of_it_is_noticed(tmp_path, quick, capsys):
    path = kinds(tmp_path / "t.csv")
    words = (*quick, "dataset=table", f"dataset.path={path}", "dataset.target=label", "dataset.ways=2")
    assert run_here(*words, f"run.root={tmp_path / 'runs'}") == 0
    folder = only_folder(tmp_path / "runs")
    assert "60 of 2 in 10 classes of 6, 0 MiB, in memory" in capsys.readouterr().out
    data, config = (json.loads((folder / name).read_text()) for name in ("data.json", "config.json"))
    store = store_of(path, standardise=True)
    assert data["provenance"] == dict(store.provenance)
    assert data["splits"] == {split: store.names(split) for split in SPLITS}
    assert config["model"]["input_shape"] is None, "found in the data"
    # 2 features, two hidden layers of 40, two ways
    result = json.loads((folder / "result.json").read_text())
    assert result["num_parameters"] == 2 * 40 + 40 + 40 * 40 + 40 + 40 * 2 + 2
    assert result["protocol"]["ways"] == 2
    assert run_here("evaluate", str(folder)) == 0
    (evaluation,) = (folder / "evaluations").iterdir()
    assert json.loads(evaluation.read_text())["results"] == result["results"]
    text = Path(path).read_text()
    Path(path).write_text(text.replace("100,kind 1", "101,kind 1"))
    for command in (words, ("evaluate", str(folder))):
        capsys.readouterr()
        assert run_here(*command, *([f"run.root={tmp_path / 'runs'}"] if command is words else [])) == 2
        assert "the examples are no longer what this" in capsys.readouterr().err
    Path(path).write_text(text)
    shutil.copy(path, tmp_path / "other.csv")
    assert run_here("evaluate", str(folder), f"dataset.path={tmp_path / 'other.csv'}") == 0


def test_a_regression_without_any_code_resumes_to_the_same_bits(tmp_path, quick, capsys):
    from ..training.small import assert_same_runs, run_and_kill

    path = people(tmp_path / "r.csv")
    words = (*quick, "dataset=table_regression", f"dataset.path={path}", "dataset.target=effect", "dataset.task=who")
    words += ("dataset.standardise_target=true",)
    assert run_here(*words, f"run.root={tmp_path / 'whole'}") == 0
    run_and_kill(5, *words, f"run.root={tmp_path / 'killed'}")
    assert run_here(*words, f"run.root={tmp_path / 'killed'}") == 0
    assert_same_runs(only_folder(tmp_path / "whole"), only_folder(tmp_path / "killed"))
    assert "80 of 2 in 10 tasks of 8, 0 MiB, in memory" in capsys.readouterr().out
    assert json.loads((only_folder(tmp_path / "whole") / "data.json").read_text())["splits"]["train"]
