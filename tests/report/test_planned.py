"""Jobs that a sweep planned and nobody started are missing runs, with a name."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from metarun.report.runs import read_runs

from ..sweep.small_sweeps import SHORT, only_sweep
from ..training.small import run_here
from .made import configuration, write_run

SCORES = {0: [0.1, 0.2, 0.3, 0.4], 5: [0.5, 0.6, 0.7, 0.8]}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def plan(root: Path, jobs: Sequence[tuple[str, int]], name: str = "a") -> Path:
    """A sweep's folder that plans these algorithms and seeds, in the run folders that `write_run` makes."""
    sweep = root / "sweeps" / name
    sweep.mkdir(parents=True)
    planned = [
        {
            "overrides": [f"algorithm={algorithm}", f"seed={seed}"],
            "folder": str(root.absolute() / f"{algorithm}-seed{seed}"),
            "config": configuration(algorithm, seed),
        }
        for algorithm, seed in jobs
    ]
    (sweep / "manifest.json").write_text(json.dumps({"command": "", "git": None, "jobs": planned}))
    return sweep


JOBS = [(algorithm, seed) for algorithm in ("fomaml", "maml") for seed in (0, 1)]


def test_a_job_that_was_never_started_is_a_named_gap(tmp_path, capsys):
    sweep = plan(tmp_path, JOBS)
    for algorithm, seed in JOBS[:1] + JOBS[2:3]:
        write_run(tmp_path, SCORES, algorithm=algorithm, seed=seed)
    states = {run.path.name: run.state for run in read_runs([tmp_path])}
    assert states == {
        "fomaml-seed0": "finished", "maml-seed0": "finished", "fomaml-seed1": "not started", "maml-seed1": "not started",
    }  # fmt: skip
    page = tmp_path / "page.html"
    assert run_here("report", str(tmp_path), "--html", str(page)) == 0
    capsys.readouterr()
    assert '<a href="maml-seed0/">' in page.read_text() and '<a href="maml-seed1/">' not in page.read_text()
    for place in (tmp_path, sweep):  # a sweep's folder stands for its runs
        assert run_here("report", str(place)) == 0
        out = capsys.readouterr().out
        assert f"fomaml: seed 1 not started in {tmp_path / 'fomaml-seed1'}" in out
        assert "1 of 2" in out
        assert run_here("ls", str(place), "--state", "not started") == 0
        first, *lines = capsys.readouterr().out.splitlines()
        assert first == f"4 runs in {place}: 2 finished, 2 not started"
        assert [line.strip() for line in lines[1::2]] == [
            f"metarun algorithm={name} seed=1" for name in ("fomaml", "maml")
        ]
        assert all(line.startswith("not started ") for line in lines[::2])


def test_a_cell_of_nothing_but_plans_is_in_the_table(tmp_path, capsys):
    plan(tmp_path, JOBS)
    write_run(tmp_path, SCORES, algorithm="maml", seed=0)
    assert run_here("report", str(tmp_path), "--format", "csv") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "fomaml" in line)
    assert "not started" in row


def test_what_another_folder_holds_is_not_missing(tmp_path, capsys):
    plan(tmp_path, [("maml", 0), ("maml", 1)])
    plan(tmp_path, [("maml", 0), ("maml", 1)], "b")
    for seed in (0, 1):
        write_run(tmp_path, SCORES, seed=seed, name=f"alone{seed}")
    assert run_here("report", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "not started" not in out and "left out" not in out


def test_a_copy_finds_its_own_runs(tmp_path):
    plan(tmp_path / "there", JOBS)
    write_run(tmp_path / "there", SCORES, algorithm="maml", seed=0)
    shutil.move(tmp_path / "there", tmp_path / "here")
    states = {run.path.name: run.state for run in read_runs([tmp_path / "here"])}
    assert (len(states), states["maml-seed0"]) == (4, "finished")


def test_a_job_that_failed_before_it_was_a_run_says_why(tmp_path):
    plan(tmp_path, [("maml", 0)])
    (tmp_path / "maml-seed0").mkdir()
    status = {"state": "failed", "error": "no GPU here", "step": 0, "steps": 0, "updated": 1.0}
    (tmp_path / "maml-seed0" / "status.json").write_text(json.dumps(status))
    (run,) = read_runs([tmp_path])
    assert (run.state, run.detail, run.seed) == ("failed", "no GPU here", 0)


def test_a_manifest_that_is_none_is_passed_over(tmp_path):
    sweep = plan(tmp_path, JOBS)
    for text in ("[]", "{", '{"jobs": [1]}', '{"jobs": [{"folder": "x"}]}'):
        (sweep / "manifest.json").write_text(text)
        assert read_runs([tmp_path]) == []


def test_the_command_to_copy_names_the_folder_of_configuration(tmp_path, monkeypatch, capsys):
    """Of a run, and of the jobs of a sweep, started or not."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "_target_: torch.nn.Linear\nin_features: 1\nout_features: ${dataset.output_size}\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("--config-dir", "conf", "model=mine", *SHORT, "run.root=runs")
    expected = f"metarun --config-dir {tmp_path}/conf model=mine "
    assert run_here(*words) == 0
    assert run_here("-m", *words, "seed=1") == 0
    for seed in (0, 1):
        (folder,) = (tmp_path / "runs").glob(f"*-seed{seed}-*")
        assert json.loads((folder / "overrides.json").read_text())["command"].startswith(expected)
    shutil.rmtree(folder)
    capsys.readouterr()
    assert run_here("ls", "runs", "--state", "not started") == 0
    assert capsys.readouterr().out.splitlines()[-1].strip().startswith(expected)
    assert only_sweep(tmp_path / "runs").is_dir()
