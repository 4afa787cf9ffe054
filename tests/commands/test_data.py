"""`metarun data list | check | prepare`: what is here, what is wrong with it, and getting the rest."""

import dataclasses
import hashlib
import http.server
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metarun.configuration.config_folder import config_folder, groups
from metarun.tasks.packed_file import open_store
from metarun.tasks.sources.catalogue import CATALOGUE

from ..tasks import small_archives
from ..tasks.test_folder import write_classes
from ..training.small import python, run_here


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_archives.shrink_catalogue(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    for name in list(logging.root.manager.loggerDict):  # Hydra, earlier in this process, may have silenced them
        if name.startswith("metarun"):
            monkeypatch.setattr(logging.getLogger(name), "disabled", False)


@pytest.fixture
def places(tmp_path) -> tuple[str, ...]:
    return (f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path / 'cache'}")


@pytest.fixture
def data(capsys, places):
    """`metarun data ...`: exit status, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        names, settings = ([word for word in words if ("=" in word) == is_setting] for is_setting in (False, True))
        status = run_here("data", *names, *places, *settings)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def test_list_shows_every_set_and_whether_it_is_here(data, tmp_path):
    small_archives.make("cub", tmp_path / "data")
    small_archives.make("letter", tmp_path / "data")
    assert data("prepare", "letter")[0] == 0
    status, out, err = data("list")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line and line.split()[0] in CATALOGUE}
    assert set(rows) == set(CATALOGUE)
    for name, entry in CATALOGUE.items():
        for words in ("/".join(map(str, entry.classes)), f"{entry.num_items:,}", entry.licence):
            assert words in rows[name]
    here = {name: row.split("iB")[1].split()[0] if "iB" in row else row for name, row in rows.items()}
    assert here["cub"] == "archive" and here["omniglot"] == "-" and "packed" in rows["letter"]
    assert "Google Drive" in rows["miniimagenet"] and "OpenML" in rows["plants_shape"]
    assert "dataset.path=FOLDER" in out and str(tmp_path / "data") in out and str(tmp_path / "cache") in out


def test_list_names_every_data_set_there_is(data):
    """Those without files by name alone, with what they take."""
    _, out, _ = data("list")
    named = set(out.replace("=", " ").replace(",", " ").split())
    assert set(groups(config_folder())["dataset"]) - named == set()
    assert "ant_velocity_finn (pip install 'metarun[mujoco]')" in " ".join(out.split())


def test_list_answers_without_torch(tmp_path):
    script = (
        "import sys; from metarun.command_line.main import main; "
        "code = main(['data', 'list']); print('torch' in sys.modules, code)"
    )
    out, err = python("-c", script, cwd=tmp_path, HOME=str(tmp_path)).communicate()
    assert out.splitlines()[-1] == "False 0", err


def test_prepare_packs_what_is_here_and_says_what_it_did(data, tmp_path):
    small_archives.make("miniimagenet", tmp_path / "data")
    status, out, err = data("prepare", "miniimagenet")
    assert (status, err) == (0, "")
    assert "not the official bytes (MD5), so its content decides" in out  # a small archive is not the official one
    assert "miniimagenet: 21 classes (8 train / 6 val / 7 test), 63 examples of 84x84x3" in out
    open_store(tmp_path / "cache" / "miniimagenet-84-v1.classes", is_whole=True).verify()
    status, out, err = data("prepare", "miniimagenet")
    assert (status, err) == (0, "") and "miniimagenet is here already" in out
    status, out, err = data("check", "miniimagenet")
    assert status == 0 and "SHA-256 as recorded" in out


def test_prepare_takes_a_size_and_a_folder_of_images(data, tmp_path):
    small_archives.make("doublemnist", tmp_path / "data")
    assert "of 28x28x1" in data("prepare", "doublemnist", "dataset.image_size=28")[1]
    write_classes(tmp_path / "pets", {f"class {c}": 3 for c in range(10)})
    status, out, _ = data("prepare", "folder", f"dataset.path={tmp_path / 'pets'}", "dataset.image_size=16")
    assert status == 0 and "folder: 10 classes (6 train / 2 val / 2 test), 30 examples of 16x16x3" in out
    status, _, err = data("prepare", "folder")
    assert status == 2 and "Set dataset.path=FOLDER" in err


def test_check_says_file_by_file_what_is_expected_where(data, tmp_path):
    status, out, err = data("check", "miniimagenet")
    assert status == 2
    for words in ("mini-imagenet.tar.gz: missing", "mini-imagenet-cache-val.pkl: missing", "test.csv: missing"):
        assert words in out
    assert str(tmp_path / "data" / "miniimagenet") in out and "not packed yet" in out
    assert "metarun data prepare miniimagenet" in err and len(err.splitlines()) == 1


def test_check_finds_a_web_page_a_truncated_file_and_a_damaged_store(data, tmp_path, monkeypatch):
    folder = small_archives.make("cub", tmp_path / "data")
    archive = folder / "CUB_200_2011.tgz"
    whole = archive.read_bytes()
    status, out, err = data("check", "cub")
    assert (status, err) == (0, "") and "200 classes and 600 examples, as they should" in out

    archive.write_bytes(b"<html>" + b"x" * 3000)
    status, out, err = data("check", "cub")
    assert status == 2 and f"{archive}: an HTML page of 3 kB: the download was refused" in out and str(archive) in err

    (official,) = CATALOGUE["cub"].archives
    official = dataclasses.replace(official, num_bytes=len(whole), md5=hashlib.md5(whole).hexdigest())
    monkeypatch.setitem(CATALOGUE, "cub", dataclasses.replace(CATALOGUE["cub"], archives=(official,)))
    archive.write_bytes(whole[:5000])
    status, out, err = data("check", "cub")
    assert status == 2 and f"truncated: 5,000 bytes of {len(whole):,}" in out and "Delete it and run" in err
    status, _, err = data("prepare", "cub")
    assert status == 2 and "truncated" in err

    archive.write_bytes(whole)
    assert "the official file" in data("check", "cub")[1]
    assert data("prepare", "cub")[0] == 0
    packed = tmp_path / "cache" / "cub-84-v1.classes"
    bytes_ = bytearray(packed.read_bytes())
    bytes_[9000] ^= 1
    packed.write_bytes(bytes(bytes_))
    status, out, _ = data("check", "cub")
    assert "does not have the recorded CRC-32" in out and status == 0  # the originals are here: it is packed again
    status, out, _ = data("prepare", "cub")
    assert status == 0 and "Packing it again" in out
    assert data("prepare", "cub")[1].startswith("cub is here already")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[tuple[Path, list[str]]]:
    """The addresses of Omniglot and mini-ImageNet lead to a folder of this machine; what is asked for is listed."""
    served, asked = tmp_path / "served", []
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.2)
            super().do_GET()

        def log_message(self, *_: object) -> None: ...

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("doublemnist", "miniimagenet"):
        small_archives.make(name, served)
        (archive,) = CATALOGUE[name].archives
        path = served / name / archive.name
        archive = dataclasses.replace(
            archive,
            md5=hashlib.md5(path.read_bytes()).hexdigest(),
            address=f"http://127.0.0.1:{running.server_port}/{name}/{archive.name}",
        )
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(CATALOGUE[name], archives=(archive,)))
    yield served, asked
    running.shutdown()
    running.server_close()


def test_prepare_downloads_packs_and_needs_no_second_time(data, server, tmp_path):
    _, asked = server
    status, out, err = data("prepare", "doublemnist")
    assert (status, err) == (0, "")
    assert "doublemnist: 100 classes (64 train / 16 val / 20 test), 300 examples of 64x64x1" in out
    assert len(asked) == 1
    names = {path.name for path in (tmp_path / "data" / "doublemnist").iterdir()}
    assert names == {CATALOGUE["doublemnist"].archives[0].name, CATALOGUE["doublemnist"].archives[0].name + ".lock"}
    assert data("prepare", "doublemnist")[0] == 0 and len(asked) == 1
    assert run_here("data", "prepare", "doublemnist", "dataset.image_size=28", *[f"data.root={tmp_path / 'data'}"],
                    f"data.cache={tmp_path / 'cache'}") == 0  # fmt: skip
    assert len(asked) == 1


def test_prepare_refuses_wrong_bytes_and_a_missing_file_in_one_line(data, server, tmp_path):
    served, _ = server
    path = served / "miniimagenet" / "mini-imagenet.tar.gz"
    path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    status, _, err = data("prepare", "miniimagenet")
    assert status == 1 and "have MD5" in err and "by hand" in err and len(err.splitlines()) == 1
    path.unlink()
    status, _, err = data("prepare", "miniimagenet")
    assert status == 1 and "404" in err and len(err.splitlines()) == 1
    assert not list((tmp_path / "data" / "miniimagenet").glob("*.gz")) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "metarun data"),
        (["show"], "invalid choice: 'show'"),
        (["prepare"], "metarun data prepare needs the name of a data set"),
        (["list", "cub"], "metarun data list takes no name"),
        (["prepare", "miniimagnet"], "did you mean miniimagenet?"),
        (
            ["check", "navigation2d"],
            "navigation2d has no files: there is nothing to get or to check. Run: metarun dataset=na",
        ),
        (["prepare", "sinusoid"], "sinusoid has no files: there is nothing to get or to check. "),
        (
            ["check", "arrays"],
            "arrays is read as it is: there is nothing to get or to pack. Run: metarun dataset=arrays dataset.path",
        ),
        (["check", "folder"], "no data set with files is called 'folder': your own images are checked when they"),
        (["prepare", "cub", "birds"], "'birds' is neither"),
        (["prepare", "cub", "dataset.size=3"], "there is no key dataset.size; "),
        (["list", "data.root=null"], "data.root must be a path, got None"),
        (["check", "cub", "data=3"], "data must have keys of its own ("),
        (["check", "cub", "model=null"], "model has no option 'null'."),
    ],
)
def test_words_that_make_no_sense(words, message, data, capsys, places):
    if not words:
        assert run_here("data") == 2
        err = capsys.readouterr().err
    else:
        status, _, err = data(*words)
        assert status == 2
    assert message in err and len(err.splitlines()) == 1
