"""Runs in environments that other packages simulate are taken up to the bit, and end well when their worker processes die."""

import json
import os
import signal

import pytest

from metarun.configuration.instantiate import make
from metarun.run_folder.state import load_state
from metarun.tasks.environments import gymnasium_workers

from .small import assert_same_runs, configuration, only_folder, python, run_and_kill, run_here

pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'metarun[mujoco]'")
pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'metarun[mujoco]'")

SMALL = (
    "device=cpu", "device.threads=1", "tracker=none", "model.hidden=[8]", "schedule.steps=4", "schedule.tasks_per_step=2",
    "schedule.shots=2", "schedule.queries=2", "schedule.eval_every=2", "schedule.checkpoint_every=1", "evaluation.tasks=2",
    "evaluation.val_tasks=2", "evaluation.inner_steps=[0,1]", "dataset.source.horizon=6", "dataset.test_shots=2",
    "dataset.test_queries=2",
)  # fmt: skip
ROBOTS = [f"{robot}_{task}{protocol}" for robot in ("halfcheetah", "ant") for task in ("direction", "velocity")
          for protocol in ("", "_finn")]  # fmt: skip

# The command line in a process that kills itself when its third step of training begins; trials of the model name no ranks.
KILLED = """
import os, signal, sys
from metarun.algorithm import Algorithm
from metarun.command_line.main import main
meta_step, steps = Algorithm.meta_step, []
def killing(*arguments, **named):
    if "ranks" in named:
        steps.append(None)
    if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return meta_step(*arguments, **named)
Algorithm.meta_step = killing
sys.exit(main())
"""


@pytest.mark.scenario
@pytest.mark.parametrize("dataset", ["halfcheetah_direction", "gymnasium"])
def test_a_run_whose_process_is_killed_goes_on_to_the_same_bits(dataset, tmp_path):
    command = (f"dataset={dataset}", *SMALL)
    assert run_here(*command, f"run.root={tmp_path / 'whole'}") == 0
    command = (*command, f"run.root={tmp_path / 'killed'}")
    child = python("-c", KILLED, *command)
    _, err = child.communicate()
    assert child.returncode == -signal.SIGKILL, err
    killed = only_folder(tmp_path / "killed")
    assert load_state(killed / "checkpoints" / "last.pt").step == 2
    assert run_here(*command) == 0
    assert_same_runs(only_folder(tmp_path / "whole"), killed)


@pytest.mark.scenario
def test_a_worker_that_dies_is_one_line_and_the_next_start_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    command = ("dataset=gymnasium", *SMALL)
    assert run_here(*command, f"run.root={tmp_path / 'whole'}") == 0
    command = (*command, f"run.root={tmp_path / 'broken'}")
    start = gymnasium_workers.Workers.start

    def last_start(workers, episodes):
        if (tmp_path / "broken").exists() and any((tmp_path / "broken").glob("*/checkpoints/last.pt")):
            monkeypatch.undo()
            observations = start(workers, episodes)
            for process in workers._processes:
                os.kill(process._process.pid, signal.SIGKILL)
            return observations
        return start(workers, episodes)

    monkeypatch.setattr(gymnasium_workers.Workers, "start", last_start)
    capsys.readouterr()
    assert run_here(*command) == 1
    error = capsys.readouterr().err
    assert error == "metarun: error: a worker process of Pendulum-v1 ended by SIGKILL; it said nothing\n"
    broken = only_folder(tmp_path / "broken")
    assert load_state(broken / "checkpoints" / "last.pt").step == 1
    assert run_here(*command) == 0
    assert_same_runs(only_folder(tmp_path / "whole"), broken)


def test_an_environment_that_fails_at_once_is_named_and_not_the_model(tmp_path, capsys):
    command = (
        "dataset=gymnasium",
        "dataset.source.parameters=[{name: height, choice: [1]}]",
        *SMALL,
        f"run.root={tmp_path}",
    )
    assert run_here(*command) == 2
    assert capsys.readouterr().err.startswith("metarun: error: Pendulum-v1.height cannot be set: AttributeError: ")


def test_a_cheetahs_run_goes_on_to_the_same_bits(tmp_path):
    command = ("dataset=halfcheetah_velocity_finn", *SMALL)
    assert run_here(*command, f"run.root={tmp_path / 'whole'}") == 0
    command = (*command, f"run.root={tmp_path / 'killed'}")
    run_and_kill(3, *command)
    assert run_here(*command) == 0
    assert_same_runs(only_folder(tmp_path / "whole"), only_folder(tmp_path / "killed"))
    result = json.loads((only_folder(tmp_path / "killed") / "result.json").read_text())
    assert len(result["results"]) == 2


@pytest.mark.parametrize("dataset", ROBOTS)
def test_each_preset_says_what_its_environment_is(dataset):
    """Its shapes; and the seconds of an episode: five by the protocol of Gymnasium, two (the ant four) by Finn's."""
    config = configuration(f"dataset={dataset}")
    source = make(config, "dataset.source")
    assert source.input_shape == tuple(config["dataset"]["input_shape"])
    assert source.output_size == config["dataset"]["output_size"]
    is_finn, is_ant = dataset.endswith("finn"), dataset.startswith("ant")
    seconds = source.horizon * source.frame_skip * 0.01
    assert seconds == pytest.approx((4 if is_ant else 2) if is_finn else 5)
    assert source.action_scale == (1.0 if is_finn else 0.1)
    assert (source.velocities is None) == ("direction" in dataset)
    assert source.alive_reward == (0.0 if not is_ant else 0.05 if "direction" in dataset else 1.05)
