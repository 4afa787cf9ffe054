"""Every named set, and a folder of images, from its archive through the packed file to a finished `metarun algorithm=imaml`."""

import json
import os
import shutil
from pathlib import Path

import pytest

from metarun.tasks.sources.catalogue import CATALOGUE

from ..training.small import QUICK, only_folder, run_here
from . import small_archives
from .test_folder import write_classes

# One step of two tasks, one query, so that three images a class will do.
SHORT = (
    "algorithm=imaml",
    "algorithm.inner.steps=1",
    "evaluation.inner_steps=[1]",
    "algorithm.meta_gradient.solver.steps=1",
    "schedule.steps=1",
    "schedule.tasks_per_step=2",
    "dataset.queries=1",
    "dataset.test_queries=1",
    *QUICK,
    "evaluation.tasks=2",
    "evaluation.val_tasks=2",
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_archives.shrink_catalogue(monkeypatch)


@pytest.mark.parametrize("name", CATALOGUE)
def test_from_the_archive_to_a_result(name, tmp_path, capsys):
    entry = CATALOGUE[name]
    folder = small_archives.make(name, tmp_path / "data")
    places = (f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path / 'cache'}")
    narrow = ("model.width=4",) if entry.has_images else ()
    assert run_here(f"dataset={name}", *SHORT, *narrow, *places, f"run.root={tmp_path / 'runs'}") == 0
    run = only_folder(tmp_path / "runs")
    protocol = json.loads((run / "result.json").read_text())["protocol"]
    assert (protocol["dataset"], protocol["ways"], protocol["shots"], protocol["queries"]) == (name, 5, 1, 1)
    data = json.loads((run / "data.json").read_text())
    assert [len(names) for names in data["splits"].values()] == list(entry.classes)
    assert data["provenance"]["source"] == name and str(folder) in data["provenance"]["originals"]
    shape = "x".join(map(str, reversed(entry.shape)))
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{entry.num_items:,} of {shape} in {sum(entry.classes):,} classes" in words

    if name == "letter":  # from then on neither the originals nor torchmeta are needed; test_named has it for images
        shutil.rmtree(tmp_path / "data")
        assert run_here(f"dataset={name}", *SHORT, *narrow, *places, f"run.root={tmp_path / 'again'}", "seed=1") == 0


def test_a_folder_of_images_and_its_split(tmp_path, capsys):
    write_classes(tmp_path / "pets", {f"class {c:02d}": 2 + c % 3 for c in range(30)})
    settings = (f"dataset.path={tmp_path / 'pets'}", "dataset.image_size=32", f"data.cache={tmp_path / 'cache'}")
    arguments = ("dataset=folder", *settings, "model.width=4", *SHORT, f"run.root={tmp_path / 'runs'}")
    assert run_here(*arguments) == 0
    run = only_folder(tmp_path / "runs")
    splits = json.loads((run / "data.json").read_text())["splits"]
    assert [len(names) for names in splits.values()] == [18, 6, 6]
    assert sorted(name for names in splits.values() for name in names) == [f"class {c:02d}" for c in range(30)]
    assert "84 of 32x32x3 in 30 classes of 2 to 4" not in (out := capsys.readouterr().out)
    assert "of 32x32x3 in 30 classes of 2 to 4" in " ".join(out.replace("│", " ").split())


def test_classes_of_the_test_may_be_larger_than_those_of_training(tmp_path):
    """The memory of an evaluated task used to be measured on a training task of its size, which these cannot fill."""
    sizes = {"train": 2, "val": 3, "test": 6}
    write_classes(tmp_path / "pets", {f"{split}/{split} {c}": n for split, n in sizes.items() for c in range(5)})
    settings = (f"dataset.path={tmp_path / 'pets'}", "dataset.image_size=32", f"data.cache={tmp_path / 'cache'}")
    own = ("dataset.test_queries=5", "evaluation.val_queries=2", f"run.root={tmp_path / 'runs'}")
    assert run_here("dataset=folder", *settings, "model.width=4", *SHORT, *own) == 0
    protocol = json.loads((only_folder(tmp_path / "runs") / "result.json").read_text())["protocol"]
    assert (protocol["queries"], protocol["val_queries"]) == (5, 2)


def test_images_that_changed_do_not_go_on_with_an_unfinished_run(tmp_path, capsys):
    write_classes(tmp_path / "pets", {f"class {c:02d}": 3 for c in range(30)})
    settings = (f"dataset.path={tmp_path / 'pets'}", "dataset.image_size=32", f"data.cache={tmp_path / 'cache'}")
    arguments = ("dataset=folder", *settings, "model.width=4", *SHORT, f"run.root={tmp_path / 'runs'}")
    assert run_here(*arguments) == 0
    run = only_folder(tmp_path / "runs")
    (run / "result.json").unlink()  # as if it had been stopped
    shutil.copy(tmp_path / "pets" / "class 00" / "000.png", tmp_path / "pets" / "class 01" / "000.png")
    capsys.readouterr()
    assert run_here(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the examples are no longer what this run began with" in line and "run.overwrite=true" in line


def test_images_that_changed_are_not_answered_with_a_finished_run(tmp_path, capsys):
    pets, cache = tmp_path / "pets", tmp_path / "cache"
    write_classes(pets, {f"class {c:02d}": 3 for c in range(30)})
    settings = (f"dataset.path={pets}", "dataset.image_size=32", f"data.cache={cache}")
    arguments = ("dataset=folder", *settings, "model.width=4", *SHORT, f"run.root={tmp_path / 'runs'}")
    assert run_here(*arguments) == 0
    run = only_folder(tmp_path / "runs")
    result = (run / "result.json").read_bytes()

    def answer() -> tuple[int, str, str]:
        capsys.readouterr()
        return (run_here(*arguments), *capsys.readouterr())

    # The same images, written again, and packed again for that: still the same.
    first = pets / "class 00" / "000.png"
    os.utime(first, ns=(0, 0))
    status, out, err = answer()
    assert (status, err) == (0, "") and out.startswith(f"This configuration has been run already: {run}.")
    assert run_here("evaluate", str(run)) == 0
    assert run_here(*arguments, "data.max_pixels=1000") == 0  # a limit of reading, and no part of what a run is
    assert only_folder(tmp_path / "runs") == run
    assert len(list(cache.glob("*.classes"))) == 2

    original = (pets / "class 01" / "000.png").read_bytes()
    shutil.copy(first, pets / "class 01" / "000.png")
    changed = (
        f"metarun: error: the examples are no longer what this finished run was trained on ({run / 'data.json'}). "
        "Give dataset.path the data as they were, or choose another run.folder to keep this result, or replace it with "
        "run.overwrite=true."
    )
    assert answer() == (2, "", f"{changed}\n")
    assert (run / "result.json").read_bytes() == result
    configuration = (run / "config.json").read_text()
    stored = json.loads(configuration)
    del stored["data"]["max_pixels"], stored["dataset"]["source"]["store"]["max_pixels"]  # of a version without it
    (run / "config.json").write_text(json.dumps(stored))
    assert run_here("evaluate", str(run)) == 2
    assert capsys.readouterr().err == (
        f"metarun: error: the examples are no longer what this run was trained on ({run / 'data.json'}). "
        "Give dataset.path the data as they were, or name others to test on them.\n"
    )
    (run / "config.json").write_text(configuration)
    shutil.copytree(pets, tmp_path / "others")
    assert run_here("evaluate", str(run), f"dataset.path={tmp_path / 'others'}") == 0
    (pets / "class 01" / "000.png").write_bytes(original)
    (pets / "class 00").rename(pets / "class 00 by another name")
    status, _, err = answer()
    assert status == 2 and err.startswith(
        "metarun: error: the split of the classes is no longer what this finished run"
    )

    # Elsewhere there may be no images, and the result stands.
    pets.rename(tmp_path / "away")
    assert answer()[0] == 0
    (tmp_path / "away").rename(pets)
    assert run_here(*arguments, "run.overwrite=true") == 0
    assert answer()[0] == 0


def test_too_few_images_are_named_before_anything_is_trained(tmp_path, capsys):
    counts = {f"class {c:02d}": 25 for c in range(30)} | {"class 03": 7, "class 08": 12}
    write_classes(tmp_path / "pets", counts)
    settings = (f"dataset.path={tmp_path / 'pets'}", "dataset.image_size=32", f"data.cache={tmp_path / 'cache'}")
    arguments = ("dataset=folder", *settings, "dataset.shots=5", "dataset.queries=15", f"run.root={tmp_path / 'runs'}")
    assert run_here(*arguments, "dataset.split_seed=1", *QUICK) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("5 shots + 15 queries need 20 images per class", "classes have fewer, class", "queries="):
        assert words in line
    assert not Path(tmp_path / "runs").exists()
    assert run_here(*arguments, *QUICK, *SHORT[4:6], "dataset.min_images=20", "model.width=4", "schedule.steps=1") == 0
