"""What W&B is told of a sweep, and the file for W&B's own sweeps."""

import json
from pathlib import Path

from omegaconf import OmegaConf

from metarun.commands.run import run_resolved
from metarun.run_folder.folder import flatten

from ..tracking.wandb_private import create_sweep_command, create_sweep_command_args
from ..tracking.wandb_reader import read_offline_run
from ..training.small import ROOT, configuration
from .small_sweeps import SHORT


def test_the_file_for_agents_gives_commands_that_compose():
    """W&B's own code makes the command from the file and a proposal."""
    sweep = OmegaConf.to_container(OmegaConf.load(ROOT / "scripts" / "wandb_sweep.yaml"), resolve=False)
    proposal = {name: {"value": spec.get("value", spec.get("values", [spec.get("min")])[0])}
                for name, spec in sweep["parameters"].items()}  # fmt: skip
    command = create_sweep_command(sweep["command"])
    words = create_sweep_command_args({"args": proposal})["args_no_hyphens"]
    assert command[0] == "metarun" and "${args_no_hyphens}" in command
    config = flatten(configuration(*words, *SHORT))
    assert config["choices.algorithm"] == "maml"
    assert (config["algorithm.inner.step_size"], config["optimizer.lr"]) == (0.001, 0.0001)
    assert sweep["metric"] == {"name": "val/mse", "goal": "minimize"}


def test_the_runs_of_a_sweep_are_a_group(tmp_path):
    words = [word for word in SHORT if not word.startswith("tracker")]
    config = configuration(*words, "tracker=wandb", "tracker.wandb.mode=offline", f"run.folder={tmp_path / 'run'}")
    run_resolved(config, words, "seeds_of_maml-1a2b3c4d")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    stored = read_offline_run(Path(file))
    assert stored.run.run_group == "seeds_of_maml-1a2b3c4d"
    assert stored.exit_code == 0
    assert json.loads((tmp_path / "run" / "overrides.json").read_text())["command"].startswith("metarun device=cpu ")
