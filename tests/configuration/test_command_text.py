"""The command that is suggested at the end of a run keeps the data, the model and where configuration comes from."""

import json
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from metarun.configuration.command_text import command_line, evaluation, other_algorithm
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
            "metarun --config-dir '/my conf' algorithm=imaml dataset=omniglot model=conv4 dataset.shots=1 model.head=mean "
            "run.root=y dataset.ways=7",
        ),
    ],
)
def test_the_other_algorithm_on_the_same_data_and_model(overrides, expected):
    config = configuration(*(word for word in overrides if not word.startswith("+")))
    assert other_algorithm(config, overrides, ["/my conf"]) == expected


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml")))
def test_what_an_experiment_says_of_data_and_model_is_kept(experiment):
    config = configuration(f"experiment={experiment}")
    other = configuration(*shlex.split(other_algorithm(config, [f"experiment={experiment}"], []))[1:])
    assert (other["dataset"], other["model"]) == (config["dataset"], config["model"])
    assert other["choices"]["algorithm"] == ("maml" if config["choices"]["algorithm"] == "imaml" else "imaml")


def test_values_of_an_own_experiment_are_written_as_hydra_reads_them(tmp_path):
    (tmp_path / "experiment").mkdir()
    said = {"path": "a b", "split_fractions": [0.5, 0.25, 0.25], "split_file": None, "source": {"flips": True}}
    (tmp_path / "experiment" / "pets.yaml").write_text(json.dumps({"dataset": said, "model": None, "seed": 3}))
    config = configuration("dataset=folder")
    config["choices"]["experiment"] = "pets"
    words = shlex.split(other_algorithm(config, ["experiment=pets"], [str(tmp_path)]))
    found = configuration(*(word for word in words[3:]))["dataset"]
    assert [found[key] for key in ("path", "split_fractions", "split_file")] == ["a b", [0.5, 0.25, 0.25], None]
    assert found["source"]["flips"] is True


@pytest.mark.parametrize(
    ("folder", "word"), [("-x", "./-x"), ("a b", "'a b'"), ("/a/$b", "'/a/$b'"), ("[1]", "'[1]'"), ("x=1", "x=1")]
)
def test_the_next_evaluation_names_the_folder_as_a_shell_takes_it(folder, word):
    """After more inner steps; where one is all there is (prototypes), on more tasks."""
    protocol = {"headline_inner_steps": 10, "tasks": 600}
    line = evaluation(Path(folder), protocol, ["mine.Net"])
    assert line == f"metarun evaluate {word} --allow mine.Net 'evaluation.inner_steps=[0,20]'"
    assert (
        evaluation(Path(folder), protocol | {"headline_inner_steps": 1})
        == f"metarun evaluate {word} evaluation.tasks=1200"
    )


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
