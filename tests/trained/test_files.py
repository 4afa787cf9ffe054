"""metarun.trained.files: tasks in folders of images and in tables, and what is said of those that are none."""

import pytest
import torch

import metarun
from metarun.errors import ConfigurationError
from metarun.trained.files import read_task

from .runs import files_of


def test_a_folder_of_pictures_is_read_in_order(glyph_run, pictures, tmp_path):
    run = metarun.load(glyph_run)
    broken = tmp_path / "sign 1" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    loose = tmp_path / "loose.png"
    loose.write_bytes((pictures / "query" / "sign 0" / "2.png").read_bytes())
    task = read_task(run, pictures / "support", [pictures / "query" / "sign 2", loose, broken])
    support, labels = files_of(pictures / "support")
    query = [*sorted((pictures / "query" / "sign 2").iterdir()), loose]
    assert task.targets == labels
    assert torch.equal(task.support, run.inputs(support, {}))
    assert torch.equal(task.query, run.inputs(query, {}))
    assert task.names == [(str(file),) for file in query]
    assert task.labels == ["sign 2"] * 3 + [None]
    assert {*task.unreadable} == {str(broken)}
    assert "its bytes are of no format that Pillow knows" in task.unreadable[str(broken)]


def test_what_makes_no_task_of_pictures(glyph_run, pictures, tmp_path):
    run = metarun.load(glyph_run)
    for support, query, words in (
        (tmp_path / "none", [], "--support must be a folder with one folder of images for each class, and"),
        (tmp_path, [], "--support: .* holds no folders of images: one folder for each class is expected"),
        (
            pictures / "support",
            [tmp_path / "none.png"],
            "--query must name images or folders of images, and .* is not there",
        ),
        (pictures / "support", [tmp_path], "--query: .* holds no image"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            read_task(run, support, query)


def write(path, text):
    path.write_text(text)
    return path


def test_a_table_is_read_by_the_names_of_its_columns(sinusoid_run, tmp_path):
    run = metarun.load(sinusoid_run)
    support = write(tmp_path / "support.csv", "y,x\n1.5,0.25\n2.5,-1\n\n")
    query = write(tmp_path / "query.csv", "x\n3\n4e-1\n")
    task = read_task(run, support, [query])
    assert task.columns == (("x",), ("y",))
    assert task.support.tolist() == [[0.25], [-1]]
    assert task.targets.tolist() == [[1.5], [2.5]]
    assert task.query.tolist() == [[3], [0.4]]
    assert task.names == [("3",), ("4e-1",)]
    first = read_task(
        run, write(tmp_path / "plain.csv", "x,y\n0.25,1.5\n"), []
    )  # without a query: the inputs come first
    assert (first.support.tolist(), first.targets.tolist()) == ([[0.25]], [[1.5]])


@pytest.mark.parametrize(
    "text, words",
    [
        ("x,y\n1,2\n3\n", "row 3: 1 cells, and there are 2 columns"),
        ("x,y\n1,2\n3,nan\n", "row 3: y must be a finite number, got 'nan'"),
        ("x,y\n1,two\n", "row 2: y must be a finite number, got 'two'"),
        ("x,y\n", r"must have a line of names and a row at least, got 1 line\(s\)"),
        ("1,2\n3,4\n", "the first line of .* must name its columns, each once, got 1, 2"),
        ("x,x\n3,4\n", "the first line of .* must name its columns, each once, got x, x"),
        ("x,y,z\n3,4,5\n", "inputs have 1 columns and what it predicts 1: .* Got x, y, z and x"),
        ("y,z\n3,4\n", "inputs have 1 columns and what it predicts 1: .* Got y, z and x"),
    ],
)
def test_what_makes_no_task_of_numbers(text, words, sinusoid_run, tmp_path):
    run = metarun.load(sinusoid_run)
    query = write(tmp_path / "query.csv", "x\n3\n")
    with pytest.raises(ConfigurationError, match=words):
        read_task(run, write(tmp_path / "support.csv", text), [query])


def test_pictures_are_no_table(sinusoid_run, pictures):
    with pytest.raises(
        ConfigurationError, match=r"this run was trained on rows of numbers, and .* cannot be read as a CSV"
    ):
        read_task(metarun.load(sinusoid_run), pictures / "support", [])
