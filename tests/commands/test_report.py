"""`metarun report` and `metarun ls` at the command line: what is printed, what is written, how long it takes."""

import csv
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarun.command_line.main import main

from ..report.made import sweep, write_run
from ..training.small import QUICK, ROOT, run_here

SCORES = {0: [0.1, 0.2, 0.3, 0.4], 5: [0.5, 0.6, 0.7, 0.8]}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Real runs, 2 x 3, of which one was never made."""
    root = tmp_path_factory.mktemp("sweep") / "runs"
    short = ("schedule.steps=4", "schedule.eval_every=2", "schedule.checkpoint_every=2", "schedule.log_every=2")
    for algorithm, seed in (("maml", 0), ("maml", 1), ("maml", 2), ("fomaml", 0), ("fomaml", 2)):
        assert run_here(*QUICK, *short, f"algorithm={algorithm}", f"seed={seed}", f"run.root={root}") == 0
    return root


def out_of(capsys, *arguments, status=0) -> str:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == status
    out, err = capsys.readouterr()
    assert (err == "") == (status == 0)
    return out if status == 0 else err


def test_a_real_sweep_with_a_missing_run(trained, tmp_path, capsys):
    written = ("--html", tmp_path / "new" / "page.html", "--figures", tmp_path / "figures")
    out = out_of(capsys, "report", trained, "--baseline", "fomaml", *written)
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert rows[0] == ["algorithm", "seeds", "inner steps", "mse", "± over seeds", "± over tasks"]
    assert [row[:3] for row in rows[1:3]] == [["fomaml", "2 of 3", "10"], ["maml", "3", "10"]]
    assert [row[-1] for row in rows[4:5]] == ["20 tasks, seeds 0 2"]
    assert "- fomaml: seed 1 missing" in out
    results = [json.loads(file.read_text()) for file in trained.glob("*-maml-seed*/result.json")]
    means = [row["mse"]["mean"] for result in results for row in result["results"] if row["inner_steps"] == 10]
    assert float(rows[2][3]) == pytest.approx(sum(means) / 3, abs=5e-4)
    assert out.splitlines()[-4:] == [
        f"wrote {tmp_path / 'figures' / name}.png, .pdf, .svg"
        for name in ("learning_curves", "inner_steps", "wall_time")
    ] + [f"wrote {tmp_path / 'new' / 'page.html'}"]
    files = [line.removeprefix("wrote ").partition(",")[0] for line in out.splitlines()[-4:]]
    assert all(Path(file).stat().st_size > 5000 for file in files)
    assert not list(tmp_path.rglob("*.tmp"))


def test_formats_go_to_standard_output_and_nothing_else_does(trained, tmp_path, capsys):
    assert main(["report", str(trained), "--format", "csv", "--html", str(tmp_path / "page.html")]) == 0
    out, err = capsys.readouterr()
    assert [row["seeds"] for row in csv.DictReader(io.StringIO(out))] == ["0 2", "0 1 2"]
    assert err == f"wrote {tmp_path / 'page.html'}\n"
    assert out_of(capsys, "report", trained, "--format", "markdown").startswith("## sinusoid test, 5-shot, 20 tasks")
    assert out_of(capsys, "report", trained, "--format", "latex").startswith("% Made by metarun report")


def test_columns_rows_where_baseline_and_steps(trained, capsys):
    out = out_of(capsys, "report", trained, "--rows", "algorithm", "--cols", "inner_steps", "--baseline", "maml",
                 "--where", "seed=0,2", "--format", "csv")  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["algorithm"], row["inner_steps"], row["seeds"], row["baseline"]) for row in rows] == [
        (algorithm, steps, "0 2", "maml") for algorithm in ("fomaml", "maml") for steps in ("0", "1", "5", "10")
    ]
    rows = list(csv.DictReader(io.StringIO(out_of(capsys, "report", trained, "--steps", "1", "--format", "csv"))))
    assert [row["inner_steps"] for row in rows] == ["1", "1"]


def test_sort_and_interval(tmp_path, capsys):
    """51.5 and 63.0 are the means, 1.3 and 2.5 their intervals over tasks (test_comparison)."""
    sweep(tmp_path)
    for order, expected in (("score", ["maml", "fomaml"]), ("score:asc", ["fomaml", "maml"])):
        out = out_of(capsys, "report", tmp_path, "--sort", order, "--format", "csv")
        assert [row["algorithm"] for row in csv.DictReader(io.StringIO(out))] == expected
    out = out_of(capsys, "report", tmp_path, "--format", "latex", "--interval", "tasks")
    assert r"fomaml & 3 & $51.5 \pm 1.3$ \\" in out.splitlines()


def test_stored_evaluations_stand_beside_their_runs(trained, tmp_path, capsys):
    """On other tasks, for whose number there is a table of its own; and the numbers are those of the file."""
    shutil.copytree(trained, tmp_path / "runs")
    (folder,) = (tmp_path / "runs").glob("*-maml-seed0-*")
    assert run_here("evaluate", str(folder), "evaluation.tasks=12") == 0
    (file,) = (folder / "evaluations").iterdir()
    stored = json.loads(file.read_text())
    arguments = ("report", tmp_path / "runs", "--where", "seed=0", "--rows", "algorithm", "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(out_of(capsys, *arguments))))) == 2
    rows = list(csv.DictReader(io.StringIO(out_of(capsys, *arguments, "--evaluations"))))
    (other,) = [row for row in rows if "12 tasks" in row["protocol"]]
    assert float(other["mean"]) == stored["results"][-1]["mse"]["mean"]
    assert (other["algorithm"], other["train_s"]) == ("maml", "")
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{root}/empty"], "no runs in {root}/empty: a run's folder holds a config.json."),
        (["{root}/nowhere"], "{root}/nowhere must be a folder with runs in it, and it is not a folder."),
        ([], "the following arguments are required: DIR."),
        (["{root}/runs", "--rows", "algoritm"], "no run has a key or group 'algoritm'; did you mean algorithm?"),
        (
            ["{root}/runs", "--baseline", "imaml"],
            "--baseline must name one row, and 'imaml' does not; rows: fomaml; maml.",
        ),
        (["{root}/runs", "--steps", "7"], "no run was measured after 7 inner steps; there are 0, 5."),
        (["{root}/runs", "--steps", "x"], "argument --steps: invalid int value: 'x'."),
        (["{root}/runs", "--where", "seed=9"], "no run has seed=9; the runs have seed = 0, 1, 2."),
        (["{root}/runs", "--format", "word"], "argument --format: invalid choice: 'word'"),
        (
            ["{root}/runs", "--sort", "speed"],
            "--sort has no 'speed'; there are algorithm, score, over_seeds, over_tasks, ",
        ),
        (["{root}/runs", "--evaluations"], "none is stored; metarun evaluate RUN_DIR dataset=NAME makes one."),
        (["{root}/runs", "--interval", "tasks"], "--interval chooses the one of LaTeX's cells: add --format latex."),
        (["{root}/runs", "--interval", "both", "--format", "latex"], "argument --interval: invalid choice: 'both'"),
        (["{root}/runs", "--html", "{root}"], "--html takes a file, and {root} is not one."),
        (["{root}/runs", "--figures", "{root}/file"], "--figures takes a folder, and {root}/file is not one."),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, words):
    sweep(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    err = out_of(capsys, "report", *(word.replace("{root}", str(tmp_path)) for word in arguments), status=2)
    assert err.startswith("metarun: error: ") and err.count("\n") == 1
    assert words.replace("{root}", str(tmp_path)) in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_half_written_result_is_a_gap_with_a_reason(tmp_path, capsys):
    sweep(tmp_path)
    file = tmp_path / "fomaml-seed2" / "result.json"
    file.write_text(file.read_text()[:300])
    out = out_of(capsys, "report", tmp_path)
    assert "- fomaml: seed 2 damaged (result.json cannot be read (" in out
    assert f"in {file.parent}" in out
    (tmp_path / "fomaml-seed0" / "config.json").write_text("{")
    assert f"- {tmp_path / 'fomaml-seed0'} is left out: config.json cannot be read (" in out_of(
        capsys, "report", tmp_path
    )


# --- ls --------------------------------------------------------------------------------------------------------------


def test_ls_is_newest_first_with_state_score_age_and_command(tmp_path, capsys):
    for number, seed in enumerate((2, 0, 1)):
        folder = write_run(tmp_path, SCORES, seed=seed)
        os.utime(folder / "result.json", (time.time() - 3600 * 3 * (number + 1),) * 2)
    failed = write_run(tmp_path, {}, seed=7)
    (failed / "log.txt").write_text("x ERROR the run ended by MemoryError: no room\n")
    lines = out_of(capsys, "ls", tmp_path).splitlines()
    assert lines[0] == f"4 runs in {tmp_path}: 3 finished, 1 failed"
    assert re.fullmatch(rf"failed +\d s ago  {failed}  MemoryError: no room", lines[1])
    assert lines[2] == "  metarun algorithm=maml seed=7"
    assert lines[3] == f"finished  accuracy 65.0 ± 12.7 % after 5      3 h ago  {tmp_path / 'maml-seed2'}"
    assert [line for line in lines if line.startswith("  ")] == [
        f"  metarun algorithm=maml seed={k}" for k in (7, 2, 0, 1)
    ]
    chosen = out_of(capsys, "ls", tmp_path, "--state", "failed").splitlines()
    assert (chosen[0], len(chosen)) == (lines[0], 3)


def test_ls_looks_where_runs_are_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METARUN_OUTPUTS", raising=False)
    assert out_of(capsys, "ls") == "no runs in outputs\n"
    write_run(tmp_path / "outputs", SCORES)
    write_run(tmp_path / "elsewhere", SCORES, seed=5)
    assert "outputs/maml-seed0" in out_of(capsys, "ls")
    monkeypatch.setenv("METARUN_OUTPUTS", "elsewhere")
    assert "elsewhere/maml-seed5" in out_of(capsys, "ls")
    assert "nowhere must be a folder" in out_of(capsys, "ls", "nowhere", status=2)


# --- quick -----------------------------------------------------------------------------------------------------------


def test_neither_needs_torch_hydra_or_numpy(tmp_path):
    sweep(tmp_path / "runs")
    code = (
        "import sys\nfor name in ('torch', 'hydra', 'omegaconf', 'numpy', 'matplotlib'): sys.modules[name] = None\n"
        "from metarun.command_line.main import main\n"
        "sys.exit(main(['report', 'runs', '--html', 'page.html']) or main(['ls', 'runs']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote page.html" in done.stdout


def test_five_hundred_runs_take_seconds(tmp_path):
    """100 settings of 5 seeds, with 600 tasks after 4 numbers of inner steps and a record of 20 000 steps each.

    Seconds of the processor, because tests share a machine; alone on it, the clock says the same.
    """
    tasks = [0.001 * task for task in range(600)]
    first = write_run(tmp_path, {steps: tasks for steps in (0, 1, 5, 10)}, **{"evaluation.tasks": 600})
    lines = [{"step": step, "train/loss": 1.0, "time/step_s": 0.01} for step in range(100, 20_001, 100)]
    lines += [{"step": step, "val/accuracy": 0.5} for step in range(1000, 20_001, 1000)]
    (first / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    config = json.loads((first / "config.json").read_text())
    for number in range(1, 500):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        for name in ("result.json", "tasks.csv", "metrics.jsonl", "overrides.json"):
            os.link(first / name, folder / name)
        config["seed"], config["optimizer"]["lr"] = number % 5, 0.001 * (1 + number // 5)
        (folder / "config.json").write_text(json.dumps(config))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "metarun", "report", str(tmp_path), "--html", str(tmp_path / "page.html")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert (done.returncode, done.stderr) == (0, "")
    table = done.stdout.partition("Differences")[0].splitlines()
    rows = [line.split("│")[1:4] for line in table if line.startswith("│")]
    assert len([row for row in rows if row[1].strip() == "5"]) == 100
    # Some 2.5 s on a quick machine; a pass that grew with the square of the runs would take minutes.
    assert took < 10.0, f"{took:.1f} s"
