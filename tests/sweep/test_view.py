"""metarun.sweep.view: how jobs stand, at any width, in a word each; errors in one line of the table and whole at the end."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from metarun import __version__
from metarun.console.terminal import terminal
from metarun.sweep.manifest import Job
from metarun.sweep.state import JobState
from metarun.sweep.view import SweepView, sweep_table

from ..report.made import write_run
from ..screens import WIDTHS, assert_screen, commands_on, fits, no_broken_word, recorded, screen
from ..training.small import run_here
from .small_sweeps import SHORT, only_sweep

ERROR = "after step 30 the query loss is not finite; likely causes: inner steps too large (algorithm.inner.step_size)"
STATES = (
    JobState(state="done", score="accuracy 93.4 ± 0.5 %, 12 of 600 tasks diverged", seconds=3907.0),
    JobState(state="failed", step=30, steps=2000, error=ERROR, seconds=65.0),
    JobState(state="running", step=1200, steps=2000, start_step=1000, score="val accuracy 91.2 ± 1.1 %", seconds=65.0),
    JobState(state="running", step=2000, steps=2000, tested=0.375, score="val accuracy 90.0 ± 1.1 %", seconds=99.0),
    JobState(state="running", seconds=3.0),
    JobState(state="running", steps=2000, seconds=4.0),
    JobState(state="preempted", step=500, steps=2000, error="stopped by SIGTERM", score="val accuracy 88.8 ± 1.1 %"),
    JobState(state="lost", step=500, steps=2000, error="no more coffee"),
    JobState(state="pending"),
)


def job(index: int, *varied: str) -> Job:
    folder = Path(f"/home/somebody/outputs/run-{index}")
    log = Path(f"/home/somebody/outputs/sweeps/lr/job-{index}.log")
    return Job(index=index, overrides=varied, varied=varied, config={}, fingerprint="", folder=folder, log=log)


JOBS = [
    job(i, f"algorithm={('maml', 'imaml')[i % 2]}", f"algorithm.inner.step_size=0.{i}", f"seed={i}")
    for i in range(len(STATES))
]


def drawn(width: int, jobs=JOBS, states=STATES) -> str:
    console = screen(width)
    console.print(sweep_table(list(zip(jobs, states, strict=True)), width))
    return recorded(console)


def test_the_table_of_a_sweep_at_each_width():
    own = {"30", "60", "93.4", "%,", "step_size=0.0"} | {f"step_size=0.{i}" for i in range(9)}
    for width in WIDTHS:
        assert_screen(f"sweep-{width}", text := drawn(width))
        fits(text, width)
        no_broken_word(text, drawn(300), own)
    for text in map(drawn, WIDTHS):
        failed = [line for line in text.splitlines() if "failed" in line]
        assert len(failed) == 1 and failed[0].count("after step 30") == 1


def test_a_job_is_starting_until_its_first_step_and_says_where_it_goes_on():
    rows = [line.split("┃" if "┃" in line else "│") for line in drawn(300).splitlines()]
    cells = {row[1].strip(): [row[3].strip(), row[4].strip()] for row in rows if len(row) > 4}
    assert [cells[str(i)] for i in range(9)] == [
        ["done", ""],
        ["failed", "30/2000 (1 %)"],
        ["running", "1200/2000 (60 %), from 1000"],
        ["testing", "test 38 %"],
        ["starting", ""],
        ["starting", ""],
        ["preempted", "500/2000 (25 %)"],
        ["lost", "500/2000 (25 %)"],
        ["pending", ""],
    ]


def test_a_narrow_table_names_keys_by_their_ends_where_those_are_of_one_key():
    jobs = [job(0, "optimizer.lr=0.1", "algorithm/inner=newton_cg", "algorithm.inner.steps=1", "schedule.steps=200")]
    text = drawn(60, jobs, STATES[:1])
    assert "lr=0.1" in text and "optimizer" not in text
    assert " inner=newton_cg" in text
    assert "algorithm.inner.steps=1" in text and "schedule.steps=200" in text


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_live_table_is_no_higher_than_the_terminal_and_shows_first_what_runs(repeats):
    """At 60 columns nine jobs take 31 of the 40 lines; of 36 jobs those are shown that run, 16, as far as there is room."""
    console = screen(60)
    view = SweepView(console)
    for index in range(repeats * 9):
        view.know(replace(JOBS[index % 9], index=index), STATES[index % 9])
    table = view._shown()
    indices = [int(str(cell)) for cell in table.columns[0].cells]
    assert len(console.render_lines(table)) <= console.height
    counted = [f"{repeats} {state}" for state in ("preempted", "done", "failed", "lost", "pending")]
    assert table.caption == f"{4 * repeats} running, {', '.join(counted)} of {9 * repeats}"
    running = [i for i in range(9 * repeats) if i % 9 in (2, 3, 4, 5)]
    if repeats == 1:
        assert indices == list(range(9))
    else:
        assert len(indices) >= 9 and indices == running[: len(indices)]


def test_off_a_terminal_each_change_is_a_line(capsys):
    view = SweepView(terminal(width=60))
    with view:
        for state in (*STATES[4:6], replace(STATES[2], step=1000), STATES[2], STATES[1]):
            view.show(JOBS[1], state)
    label = "#1 algorithm=imaml algorithm.inner.step_size=0.1 seed=1"
    assert capsys.readouterr().out.splitlines() == [
        f"starting  {label}",
        f"resumed   {label}  at step 1000 of 2000",
        f"failed    {label}  at step 30: {ERROR}  log: {JOBS[1].log}",
    ]


@pytest.fixture
def ended(monkeypatch):
    """Sweeps of two jobs end at once: the first has a result, the second has failed."""

    def ran(jobs, sweep, places, view):
        write_run(jobs[0].folder.parent, {5: [0.9, 0.968]}, name=jobs[0].folder.name)
        states = {0: replace(STATES[0], value=0.95), 1: STATES[1]}
        for job in jobs:
            view.show(job, states[job.index])
        return states

    monkeypatch.setattr("metarun.sweep.launch.run_locally", ran)
    monkeypatch.setattr("metarun.commands.status.job_state", lambda job: STATES[job.index])
    return ("-m", "optimizer.lr=0.001,0.1", *SHORT)


def test_the_end_of_a_sweep_and_its_status(tmp_path, ended):
    """A failed job's error is one line of the table and whole below it."""
    texts = {}
    for width in WIDTHS:
        root = tmp_path / str(width)
        for what in ("ends", "status"):
            with commands_on(width) as text:
                if what == "ends":
                    assert run_here(*ended, f"run.root={root}") == 1
                    sweep = only_sweep(root)
                else:
                    assert run_here("status", str(sweep)) == 0
            fake = {
                str(sweep): "/home/somebody/outputs/sweeps/lr",
                str(root): "/home/somebody/outputs",
                __version__: "0.1.0",
            }
            texts[what, width] = assert_screen(f"sweep-{what}-{width}", text(), fake)
    for (what, width), text in texts.items():
        fits(text, width, "/home/somebody", "metarun report", "metarun -m ")
        no_broken_word(text, texts[what, 120], {"lr=0.001", "lr=0.1", "%"})
        table, _, below = text.partition("1 done, 1 failed of 2")
        assert " ".join(ERROR.split()) not in " ".join(table.rpartition("┃ # ┃")[2].split())
        assert " ".join(ERROR.split()) in " ".join(below.split())


@pytest.mark.parametrize("root", ["runs", "-my 'runs'", "[1]"])
def test_what_to_do_next_can_be_pasted_wherever_the_runs_lie(root, tmp_path, ended, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_OUTPUTS", root)
    assert run_here(*ended) == 1
    shown = capsys.readouterr().out.splitlines()
    (line,) = [line for line in shown if line.startswith("next  ")]
    program, *words = shlex.split(line.removeprefix("next"))
    assert (program, words[0]) == ("metarun", "report")
    assert run_here(*words) == 0
    out = capsys.readouterr().out
    assert "93.4" in out and "not started" in out  # both jobs: the second was made to fail before it began
    assert run_here("status", words[1]) == 0
    assert line in capsys.readouterr().out.splitlines()
