"""The command that is suggested at the end of a run keeps the data, the model and where configuration comes from."""

import shlex

import pytest
from hydra import compose, initialize_config_dir

from metarun.configuration.command_text import command_line, other_algorithm
from metarun.configuration.config_folder import config_folder

from ..training.small import QUICK, configuration, run_here


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "metarun --config-dir '/my conf' algorithm=imaml dataset=sinusoid"),
        (("algorithm=imaml", "seed=3"), "metarun --config-dir '/my conf' algorithm=maml dataset=sinusoid seed=3"),
        (
            (
                "dataset=folder",
                "dataset.path=/my images",
                "model=conv4",
                "+model.norm=none",
                "algorithm.inner.steps=3",
            ),
            "metarun --config-dir '/my conf' algorithm=imaml dataset=folder 'dataset.path=/my images' model=conv4 "
            "+model.norm=none",
        ),
        (
            ("experiment=maml_omniglot", "run.folder=x", "run.root=y", "optimizer.lr=0.1", "dataset.ways=7"),
            "metarun --config-dir '/my conf' algorithm=imaml dataset=omniglot model=conv4 run.root=y dataset.ways=7",
        ),
    ],
)
def test_the_other_algorithm_on_the_same_data_and_model(overrides, expected):
    config = configuration(*(word for word in overrides if not word.startswith("+")))
    assert other_algorithm(config, overrides, ["/my conf"]) == expected


def test_images_that_an_experiment_chose_are_named_so_that_hydra_reads_them_back():
    path = '/my "images", {all} of them'
    config = configuration("dataset=folder")
    config["dataset"]["path"] = path
    words = shlex.split(other_algorithm(config, ["experiment=pets"], []))
    assert words[:3] == ["metarun", "algorithm=imaml", "dataset=folder"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        assert compose("config", words[1:]).dataset.path == path


def test_a_run_prints_it_and_so_does_its_stored_result(tmp_path, capsys):
    mine = tmp_path / "my conf" / "model"
    mine.mkdir(parents=True)
    (mine / "small.yaml").write_text("defaults: [mlp]\nhidden: [3]\n")
    words = [*QUICK, "model=small", "schedule.steps=1", "schedule.eval_every=1", f"run.root={tmp_path / 'runs'}"]
    expected = command_line(["algorithm=imaml", "dataset=sinusoid", *words], [str(mine.parent)])
    for _ in range(2):
        assert run_here("--config-dir", str(mine.parent), *words) == 0
        assert f"            {expected}\n" in capsys.readouterr().out
