"""What a run goes on from when its files are damaged: the same bits where nothing is lost, and words where something is."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from metarun.errors import ConfigurationError
from metarun.run_folder.checkpoints import newest, take_up
from metarun.tracking.jsonl import Reach, read_metrics

from ..training.small import QUICK, assert_same_runs, metrics_of, only_folder, run_and_kill, run_here

COMMAND = (
    *QUICK,
    "schedule.steps=40",
    "schedule.checkpoint_every=10",
    "schedule.eval_every=10",
    "schedule.log_every=4",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The root of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    assert run_here(*COMMAND, f"run.root={root}") == 0
    return root


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The root of a run that was killed in step 36: its checkpoints are of steps 30 and 20."""
    root = tmp_path_factory.mktemp("stopped")
    run_and_kill(36, *COMMAND, f"run.root={root}")
    return root


@pytest.fixture
def copied(stopped, tmp_path, monkeypatch) -> Path:
    """The folder of a copy of that run, to be damaged."""
    monkeypatch.setenv("COLUMNS", "400")
    shutil.copytree(stopped, tmp_path / "runs")
    return only_folder(tmp_path / "runs")


def again(folder: Path) -> int:
    return run_here(*COMMAND, f"run.root={folder.parent}")


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


def unlink(path: Path) -> None:
    path.unlink()


def test_a_checkpoint_holds_the_selected_theta_and_the_one_before_is_kept(copied):
    last, previous, best = (
        torch.load(copied / "checkpoints" / f"{name}.pt", weights_only=True) for name in ("last", "previous", "best")
    )
    assert (last["step"], previous["step"]) == (30, 20)
    assert last["best_step"] == best["step"]
    for name, leaf in best["theta"].items():
        assert torch.equal(last["best_theta"][name], leaf)


@pytest.mark.parametrize("damage", [flip, unlink])
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_damaged_checkpoint_costs_no_bit(name, damage, copied, whole, capsys):
    path = copied / "checkpoints" / name
    damage(path)
    capsys.readouterr()
    assert again(copied) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    before = path.with_name("previous.pt")
    expected = {
        ("last.pt", flip): [
            f"warning: {path} was damaged (a checksum is wrong) and is now last.pt.damaged",
            f"warning: going on from {before}, after step 20",
        ],
        ("last.pt", unlink): [f"warning: going on from {before}, after step 20"],
        ("best.pt", flip): [
            f"warning: {path} was damaged (a checksum is wrong); it is written again from the checkpoint"
        ],
        ("best.pt", unlink): [f"warning: {path} was missing; it is written again from the checkpoint"],
    }
    assert said == expected[name, damage]
    assert_same_runs(only_folder(whole), copied)
    assert json.loads((copied / "result.json").read_text())["lost"] == []


def test_without_a_whole_checkpoint_the_way_out_is_named(copied, whole, capsys):
    for name in ("last.pt", "previous.pt"):
        flip(copied / "checkpoints" / name)
    assert again(copied) == 2
    assert capsys.readouterr().err == (
        f"metarun: error: {copied / 'checkpoints' / 'last.pt'} is damaged (a checksum is wrong), and so is previous.pt. "
        "run.overwrite=true trains from the beginning.\n"
    )
    (copied / "checkpoints" / "previous.pt").unlink()
    with pytest.raises(
        ConfigurationError, match=r"is wrong\), and there is no earlier checkpoint\. run\.overwrite=true"
    ):
        newest(copied / "checkpoints")
    assert run_here(*COMMAND, f"run.root={copied.parent}", "run.overwrite=true") == 0
    assert_same_runs(only_folder(whole), copied)


def test_what_is_not_a_state_of_a_run_is_damage(copied):
    best = copied / "checkpoints" / "best.pt"
    shutil.copy(best, best.with_name("last.pt"))
    state = take_up(copied / "checkpoints")
    assert state is not None and state.step == 20
    assert best.with_name("last.pt.damaged").read_bytes() == best.read_bytes()


def as_format_1(folder: Path) -> None:
    (folder / "checkpoints" / "previous.pt").unlink()
    for name in ("last", "best"):
        content = torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)
        kept = {key: value for key, value in content.items() if key not in ("best_theta", "record", "lost")}
        torch.save(kept | {"version": 1}, folder / "checkpoints" / f"{name}.pt")


def test_a_run_of_format_1_goes_on(copied, whole):
    as_format_1(copied)
    assert again(copied) == 0
    assert_same_runs(only_folder(whole), copied)


def test_a_run_of_format_1_without_best_says_what_to_do(copied, capsys):
    as_format_1(copied)
    best = copied / "checkpoints" / "best.pt"
    best.write_bytes(b"")
    assert again(copied) == 2
    assert capsys.readouterr().err == (
        f"metarun: error: {best} is damaged (it is cut short, or no checkpoint at all), and the checkpoint, of an earlier "
        "metarun, does not hold what was in it. run.overwrite=true trains from the beginning.\n"
    )


def test_evaluate_takes_the_selected_theta_from_the_checkpoint(copied, capsys):
    def measured() -> dict:
        assert run_here("evaluate", str(copied), "evaluation.tasks=5") == 0
        (path,) = (copied / "evaluations").iterdir()
        return json.loads(path.read_text())["results"]

    before = measured()
    assert "warning" not in capsys.readouterr().out
    best = copied / "checkpoints" / "best.pt"
    flip(best)
    assert measured() == before
    assert f"warning: {best} is damaged (a checksum is wrong); the same parameters" in capsys.readouterr().out
    for name in ("last.pt", "previous.pt"):
        flip(best.with_name(name))
    assert run_here("evaluate", str(copied), "evaluation.tasks=5") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def without_a_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))


def another_digit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"train/loss": ', b'"train/loss": 1', 1))


@pytest.mark.parametrize(
    ("damage", "lines", "changed"),
    [(emptied, 0, False), (unlink, 0, False), (cut, 1, False), (without_a_line, 9, False), (another_digit, 10, True)],
)
def test_a_record_that_is_not_what_it_was_is_said_and_told_in_the_result(damage, lines, changed, copied, whole, capsys):
    path = copied / "metrics.jsonl"
    damage(path)
    capsys.readouterr()
    assert again(copied) == 0
    words = (
        f"{path} is not what it was at step 30, when the checkpoint was written: {lines} of 10 lines are there"
        f"{', and they are not as they were' if changed else ''}"
    )
    out = capsys.readouterr().out
    assert f"warning: {words}; the run goes on without the others\n" in out
    assert f"lost: {words}\n" in out
    result = json.loads((copied / "result.json").read_text())
    assert result["lost"] == [words]
    assert metrics_of(copied)[lines:] == metrics_of(only_folder(whole))[10:]
    assert len(read_metrics(path, Reach(**result["record"]))) == result["record"]["lines"]


def test_a_line_that_is_none_is_refused_with_a_way_out_that_works(copied, capsys):
    path = copied / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"step"', b'{"stip"', 1))
    assert again(copied) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"metarun: error: {path}, line 1: expected a JSON object with an integer")
    assert err.endswith("restore it, or delete it: the run goes on without its lines, and says so.\n")
    path.unlink()
    assert again(copied) == 0


@pytest.mark.parametrize("damage", [emptied, cut, another_digit])
def test_a_report_draws_no_curve_from_a_record_that_is_not_the_runs(damage, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "runs")
    folder = only_folder(tmp_path / "runs")
    damage(folder / "metrics.jsonl")
    assert run_here("report", str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")) == 0
    assert "metrics.jsonl is not as its run left it" in (tmp_path / "page.html").read_text()
