"""What a person sees of a run, at its beginning, on the way and at its end, in 60, 80 and 120 columns."""

from pathlib import Path
from typing import Any

import pytest
from rich.live import Live

from metarun.build import make_parts
from metarun.commands.header import header_of
from metarun.console import progress
from metarun.console.profile import show_profile
from metarun.console.progress import RunConsole
from metarun.console.results import header, report, results
from metarun.console.terminal import terminal
from metarun.device.ranks import ALONE
from metarun.maths.stats import Summary
from metarun.run_folder.folder import RunFolder
from metarun.run_folder.state import TrainState
from metarun.training.profile import Profile, StageCost

from ..screens import FOLDER as FOLDER_OF_SCREENS
from ..screens import WIDTHS, assert_screen, fits, no_broken_word, recorded, screen
from ..training.small import GLYPHS, QUICK, configuration

FOLDER = Path("/home/somebody/outputs/glyphs-5way-1shot-imaml-seed0-1a2b3c4d")
OTHER = "metarun algorithm=maml dataset=glyphs device=cpu 'run.root=/home/somebody/outputs'"


def summary(mean: float, num_diverged: int = 0) -> dict[str, Any]:
    return {
        "mean": mean, "std": 0.1234, "ci95": 0.0101, "num_tasks": 600, "median": mean + 0.01, "num_diverged": num_diverged,
    }  # fmt: skip


def result_of(*, diverged: bool = False, published: bool = False) -> dict[str, Any]:
    rows = [(0, 0.2), (5, 0.8765), (10, 0.9123)]
    known = {
        "source": "Somebody et al. 2020, table 3",
        "differences": "600 tasks in place of 1000.",
        "values": {"5": 0.9},
    }
    return {
        "score": "accuracy",
        "protocol": {
            "dataset": "glyphs", "split": "test", "ways": 5, "shots": 1, "queries": 5, "tasks": 600, "examples": "examples",
            "batch_norm": "transductive", "headline_inner_steps": 10, "selected_step": 1500,
            "selected_by": "validation accuracy on 100 fixed tasks",
        },
        "results": [
            {"inner_steps": steps, "accuracy": summary(mean), "diverged": [7, 133] if diverged and steps == 10 else []}
            for steps, mean in rows
        ],
        "reference": known if published else None,
        "train_s": 3907.0, "step_s": 0.0123, "test_s": 12.3, "peak_memory_mib": 1234.0, "training_memory_mib": 56.0,
        "environment": {"program": "compiled"},
    }  # fmt: skip


def state_after(step: int) -> TrainState:
    return TrainState(step, {}, {}, {}, "")


@pytest.fixture(scope="module")
def prepared():
    config = configuration(*QUICK, *GLYPHS, "algorithm=imaml", "schedule.steps=2000", "evaluation.tasks=600")
    return config, make_parts(config)


def on_all(name: str, draw, *copied: str) -> None:
    """Draw at each width, compare with what is kept, and hold the narrow ones against the wide one."""
    texts = {}
    for width in WIDTHS:
        console = screen(width)
        draw(console)
        texts[width] = recorded(console)
    for width, text in texts.items():
        assert_screen(f"{name}-{width}", text)
        fits(text, width, *copied)
        no_broken_word(text, texts[120])


@pytest.mark.parametrize(("name", "step"), [("run", None), ("resume", 1200)])
def test_what_will_run_or_goes_on(prepared, name, step):
    config, parts = prepared
    resumed = None if step is None else state_after(step)
    on_all(
        f"{name}-begins",
        lambda console: header(console, header_of(RunFolder(FOLDER), config, parts, resumed, ALONE)),
        str(FOLDER),
    )


def test_the_bar(monkeypatch):
    """As it is before and after the first validation, while validating, while something else is done, and at the test."""
    elapsed = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: elapsed)

    def draw(console) -> None:
        nonlocal elapsed
        elapsed = 0.0
        watcher = RunConsole(console, score="accuracy", total=2000, done=1000)
        for step in range(1001, 1501):
            elapsed += 0.25
            watcher.stepped(step, 0.5, 4)
            if step == 1250:
                console.print(watcher._line())
                watcher.evaluating("val", 0.375)
                console.print(watcher._line())
                watcher.validated(step, Summary(**summary(0.934, 2)), True)
        console.print(watcher._line())
        watcher.doing("making a program of the outer step")
        console.print(watcher._line())

    on_all("bar", draw)


def test_the_test_shows_its_percent_and_the_time_to_go(monkeypatch):
    """150 of 600 tasks in 10 s: 30 s more."""
    elapsed = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: elapsed)
    shown = []
    monkeypatch.setattr(Live, "start", lambda view, refresh=False: shown.append(view.get_renderable))

    def draw(console) -> None:
        nonlocal elapsed
        elapsed = 0.0
        with progress.testing(console, 600) as advanced:
            for seconds, share in ((0.0, 0.0), (10.0, 0.25), (36.0, 0.9), (40.0, 1.0)):
                elapsed = seconds
                advanced(share)
                console.print(shown[-1]())

    on_all("testing", draw)
    assert "25 % of 600 tasks  0:30 to go" in (FOLDER_OF_SCREENS / "testing-60.txt").read_text()


@pytest.mark.parametrize(
    ("name", "how"),
    [("plain", {}), ("diverged", {"diverged": True}), ("published", {"diverged": True, "published": True})],
)
def test_results_of_an_evaluation(name, how):
    on_all(f"evaluate-{name}", lambda console: results(console, result_of(**how)))


def test_the_end_of_a_run(tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    for figure in ("adaptation.png", "learning_curve.png"):
        (tmp_path / "figures" / figure).touch()
    monkeypatch.setattr(RunFolder, "figures", property(lambda folder: tmp_path / "figures"))
    on_all("run-ends", lambda console: report(console, RunFolder(FOLDER), result_of(), OTHER), str(FOLDER), OTHER)


def test_where_the_time_of_a_step_goes():
    stages = [
        StageCost("draw", 0.0001, 0.0125, 35),
        StageCost("inner loop", 0.0069, 0.8625, 1234),
        StageCost("other", 0.001, 0.125, 5),
    ]
    profile = Profile(steps=10, step_s=0.008, unit="operations", stages=stages)
    trace = FOLDER / "profile" / "trace.json"
    on_all("profile", lambda console: show_profile(console, profile, trace), str(trace))


def test_off_a_terminal_a_line_every_ten_seconds(monkeypatch, capsys):
    elapsed = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: elapsed)
    watcher = RunConsole(terminal(), score="mse", total=100, done=0)
    with watcher:
        for step in range(1, 101):
            elapsed += 1.0
            watcher.stepped(step, 0.5, 4)
            if step == 15:
                for share in (0.25, 0.5, 1.0):
                    elapsed += 4.0
                    watcher.evaluating("val", share)
                watcher.validated(step, Summary(mean=0.5, ci95=0.1, std=0.2, num_tasks=4, median=0.5), True)
            if step == 30:
                break
    assert capsys.readouterr().out.splitlines() == [
        "step 11/100 (11 %)  4 tasks/s  loss 0.500  1:29 to go",
        "step 15/100 (15 %)  validating 50 %  2:10 to go",  # 23 s for 15 steps
        "step 15/100  val mse 0.500 ± 0.100  best",
        "step 22/100 (22 %)  3 tasks/s  loss 0.500  val mse 0.500 ± 0.100  2:01 to go",  # 34 s for 22
    ]
