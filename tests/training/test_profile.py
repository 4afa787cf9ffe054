"""Where a step's time goes: the arithmetic exactly, on invented spans; and a profiled run, which is the run that it would be."""

import json
from dataclasses import replace

import pytest
import torch

from metarun.commands import run
from metarun.device.ranks import Ranks
from metarun.device.stages import listening, stage, staged
from metarun.run_folder.folder import fingerprint
from metarun.training.profile import OTHER, made_of, own_seconds, profiled

from .small import (
    GLYPHS,
    SIX_STEPS,
    assert_same_runs,
    configuration,
    only_folder,
    run_here,
    trainer_of,
)

SPANS = [  # two steps of 8 seconds, from 10 to 26, as the stages end
    ("drawing", 9, 12),  # begins before the time
    ("residual", 13, 14),
    ("inner loop", 12.5, 16.5),
    ("optimizer", 17, 17.5),
    ("drawing", 18, 19),
    ("line search", 21, 22),
    ("residual", 20.5, 23),
    ("residual", 23, 23.5),
    ("inner loop", 20, 24),
    ("optimizer", 25.5, 27),  # ends after it
    ("late", 26, 27),
]


def test_a_stages_time_is_its_own_without_those_inside_it():
    own = own_seconds(SPANS, 10, 26)
    expected = {
        "drawing": 2 + 1,
        "residual": 1 + (2.5 - 1) + 0.5,
        "inner loop": (4 - 1) + (4 - 3),
        "optimizer": 0.5 + 0.5,
        "line search": 1,
        "late": 0,
    }
    assert own == expected
    assert list(own) == list(expected)  # in the order in which they first end


def test_the_shares_of_all_stages_and_of_the_rest_are_one():
    profile = made_of(SPANS, 10, 26, 2, {"residual": 7.0, OTHER: 3.0}, "operations")
    assert (profile.steps, profile.step_s, profile.unit) == (2, 8.0, "operations")
    rows = {row.stage: (row.seconds, row.share, row.operations) for row in profile.stages}
    assert rows == {
        "drawing": (1.5, 3 / 16, 0),
        "residual": (1.5, 3 / 16, 7),
        "inner loop": (2, 4 / 16, 0),
        "optimizer": (0.5, 1 / 16, 0),
        "line search": (0.5, 1 / 16, 0),
        "late": (0, 0, 0),
        OTHER: (2, 4 / 16, 3),
    }
    assert sum(row.share for row in profile.stages) == 1  # sixteenths are exact
    assert list(rows)[-1] == OTHER


def test_stages_are_told_to_whoever_listens_and_only_while_it_does():
    heard = []

    class Heard:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            heard.append(f"{self.name} begins")

        def __exit__(self, *error):
            heard.append(f"{self.name} ends")

    @staged("outer")
    def outer(number, *, twice):
        with stage("inner"):
            return number * (2 if twice else 1)

    assert outer(3, twice=True) == 6 and heard == []
    with pytest.raises(ZeroDivisionError), listening(Heard):
        assert outer(3, twice=False) == 3
        with stage("failing"):
            raise ZeroDivisionError
    assert heard == [
        "outer begins",
        "inner begins",
        "inner ends",
        "outer ends",
        "failing begins",
        "failing ends",
    ]
    assert stage("nobody listens") is stage("and nothing is made for it")


STAGES = {
    "maml": ["drawing", "inner loop", "query loss and its way back", "direction", "record", "optimizer", OTHER],
    "imaml": [
        "drawing", "inner loop", "query gradient", "implicit system", "residual", "back to theta", "direction", "record",
        "optimizer", OTHER,
    ],
}  # fmt: skip


@pytest.mark.parametrize("algorithm", STAGES)
def test_the_trainer_is_as_it_was_after_it(algorithm, tmp_path):
    settings = (*SIX_STEPS, f"algorithm={algorithm}", "algorithm/inner=gradient_descent", "algorithm.inner.steps=2")
    trainer, _ = trainer_of(configuration(*settings, "schedule.tasks_per_step=3"), tmp_path / "a")
    state = trainer.start("f")
    before = {name: leaf.clone() for name, leaf in state.theta.items()}
    found = profiled(trainer, state, tmp_path / "trace.json")
    assert [row.stage for row in found.stages] == STAGES[algorithm]
    assert found.steps == 20
    assert sum(row.share for row in found.stages) == pytest.approx(1, abs=1e-12)
    assert sum(row.seconds for row in found.stages) == pytest.approx(found.step_s, rel=1e-12)
    assert all(row.seconds >= 0 for row in found.stages)

    trace = json.loads((tmp_path / "trace.json").read_text())
    events = [event for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    names = [event["name"].removeprefix("metarun: ") for event in events if event["name"].startswith("metarun: ")]
    assert {name: names.count(name) for name in STAGES[algorithm][:-1]} == dict.fromkeys(STAGES[algorithm][:-1], 3)
    # Twice: what is counted is the program's, not the clock's.
    again = profiled(trainer, state, tmp_path / "again.json")
    counted = {row.stage: row.operations for row in again.stages if row.stage != "drawing"}
    assert counted == {row.stage: row.operations for row in found.stages if row.stage != "drawing"}
    assert counted["inner loop"] > 0

    assert state.step == 0 and all(torch.equal(leaf, before[name]) for name, leaf in state.theta.items())
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["metrics.jsonl"]
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == ""


def test_steps_beyond_the_end_of_a_schedule_are_taken(tmp_path):
    """OneCycleLR raises after its last step."""
    schedule = ("_target_=torch.optim.lr_scheduler.OneCycleLR", "max_lr=0.1", "total_steps=6")
    words = [f"++lr_schedule.{word}" for word in schedule]
    config = configuration(*SIX_STEPS, *words)
    config["lr_schedule"] = {
        key: config["lr_schedule"][key] for key in ("_target_", "_partial_", "max_lr", "total_steps")
    }
    trainer, _ = trainer_of(config, tmp_path)
    trainer = replace(trainer, schedule=replace(trainer.schedule, tasks_per_step=2))
    assert profiled(trainer, trainer.start("f"), tmp_path / "trace.json").steps == 20


@pytest.mark.parametrize(
    "settings", [(), (*GLYPHS, "algorithm=imaml", "algorithm.inner.steps=2")], ids=["maml", "imaml"]
)
def test_a_profiled_run_is_the_run_that_it_would_be(settings, tmp_path, capfd):
    for name, words in (("with", ["profile=true"]), ("without", [])):
        assert run_here(*SIX_STEPS, *settings, "schedule.tasks_per_step=2", f"run.root={tmp_path / name}", *words) == 0
        if name == "with":
            printed = capfd.readouterr()
            folder = only_folder(tmp_path / name) / "profile"
            assert "share" in printed.out and "100.0 %" in printed.out and OTHER in printed.out
            assert str(folder / "trace.json") in printed.out
            assert printed.err == ""
    one, other = only_folder(tmp_path / "with"), only_folder(tmp_path / "without")
    assert one.name == other.name
    assert_same_runs(one, other)
    assert not (other / "profile").exists()
    written = json.loads((one / "profile" / "profile.json").read_text())
    assert [row["stage"] for row in written["stages"]][-1] == OTHER
    assert sum(row["share"] for row in written["stages"]) == pytest.approx(1, abs=1e-12)


def test_profiling_is_no_part_of_the_settings():
    assert fingerprint(configuration("profile=true")) == fingerprint(configuration())


def test_profiling_is_asked_for_by_a_truth_value(tmp_path, capsys):
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}", "profile=3") == 2
    assert "profile must be true or false, got 3" in capsys.readouterr().err


def test_profiling_is_of_one_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "ranks_from_environment", lambda kind: Ranks(0, 2))
    assert run_here(*SIX_STEPS, f"run.root={tmp_path}", "profile=true") == 2
    assert "profile=true measures one process, and there are 2 ranks." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
