"""What people type from habit, and the one line that answers it."""

import re
from pathlib import Path

import pytest

from metarun.command_line.main import main
from metarun.command_line.subcommands import SUBCOMMANDS
from metarun.configuration import habits
from metarun.configuration.chosen_keys import chosen_keys
from metarun.configuration.config_folder import groups

CONF = Path(__file__).resolve().parents[2] / "conf"
INNER = "That of the inner steps is algorithm.inner.step_size."
EPOCHS = "There are no epochs, as tasks are drawn anew in each outer step."


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "ways=5",
            "there is no key ways; did you mean dataset.ways=5? Data sets of classes have it, as dataset=omniglot.",
        ),
        ("dataset=omniglot ways=5", "there is no key ways; did you mean dataset.ways=5?"),
        ("shots=5", "there is no key shots; did you mean dataset.shots=5?"),
        ("lr=1e-3", f"there is no key lr; did you mean optimizer.lr=1e-3? {INNER}"),
        ("learning_rate=0.1", f"there is no key learning_rate; did you mean optimizer.lr=0.1? {INNER}"),
        ("+learning_rate=0.1", f"there is no key learning_rate; did you mean optimizer.lr? {INNER}"),
        ("inner_lr=0.1", "there is no key inner_lr; did you mean algorithm.inner.step_size=0.1?"),
        ("inner_steps=5", "there is no key inner_steps; did you mean algorithm.inner.steps=5?"),
        ("steps=100", "there is no key steps; did you mean schedule.steps=100?"),
        ("epochs=3", f"there is no key epochs; did you mean schedule.steps? {EPOCHS}"),
        ("trainer.max_epochs=3", f"there is no key trainer.max_epochs; did you mean schedule.steps? {EPOCHS}"),
        ("batch_size=4", "there is no key batch_size; did you mean schedule.tasks_per_step=4?"),
        ("lr=[1,2]", f"there is no key lr; did you mean optimizer.lr? {INNER}"),
        ("model.lr=1", "there is no key model.lr; did you mean optimizer.lr?"),
        ("logger=wandb", "there is no group logger; did you mean tracker=wandb?"),
        ("logger=false", "there is no group logger; did you mean tracker=none?"),
        ("data=omniglot", "there is no group data; did you mean dataset=omniglot?"),
        ("task=omniglot", "there is no group task; did you mean dataset=omniglot?"),
        ("net=conv4", "there is no group net; did you mean model=conv4?"),
        ("optim=sgd", "there is no group optim; did you mean optimizer=sgd?"),
        ("device=gpu", "device has no option 'gpu'; did you mean cuda? Options: auto, cpu, cuda."),
        ("accelerator=gpu", "there is no group accelerator; did you mean device=cuda?"),
        (
            "gpu=0",
            "there is no key gpu: device=cuda runs on a GPU, and CUDA_VISIBLE_DEVICES=0 metarun ... says on which.",
        ),
        (
            "trainer.devices=2",
            (
                "there is no key trainer.devices: torchrun --nproc-per-node=N -m metarun ... shares the tasks of one run, and "
                "hydra.launcher.gpus=[0,1] gives the runs of a sweep a GPU each."
            ),
        ),
        (
            "wandb=true",
            (
                "there is no key wandb: tracker=wandb is the default, tracker=none does without, and WANDB_MODE=offline sends "
                "nothing."
            ),
        ),
        (
            "debug=true",
            (
                "there is no key debug: schedule.steps=10 evaluation.tasks=10 is a short run, and HYDRA_FULL_ERROR=1 shows "
                "tracebacks."
            ),
        ),
        (
            "ckpt_path=x",
            (
                "there is no key ckpt_path: the same command given again goes on from its last checkpoint, in the same run "
                "folder."
            ),
        ),
        ("+foo=1", "there is no key foo. metarun --cfg job shows every key."),
        ("train seed=0", "'train' is no subcommand: metarun KEY=VALUE ... trains: leave 'train' out."),
        ("test", "'test' is no subcommand: metarun evaluate RUN_DIR tests a trained run."),
        ("sweep", "'sweep' is no subcommand: metarun -m KEY=VALUE,VALUE ... runs every combination."),
    ],
)
def test_the_answer(
    words: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"metarun: error: {answer}\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_proposed_is_there() -> None:
    """Every key, group, option and subcommand that an answer names, in the configuration that it is about."""
    keys = {key.name for key in chosen_keys(["algorithm=imaml", "dataset=omniglot"], CONF).keys}
    available = groups(CONF)
    assert {name for name, _ in habits._KEYS.values()} <= keys
    assert {*habits._GROUPS.values()} <= available.keys()
    sentences = [*habits._SENTENCES.values(), *habits._SUBCOMMANDS.values(), habits._INNER, habits._WAYS]
    named = {word for text in sentences for word in re.findall(r"[\w.]+(?==)|\b\w+\.\w[\w.]*\w", text)}
    assert named - keys - available.keys() == {"CUDA_VISIBLE_DEVICES", "HYDRA_FULL_ERROR", "WANDB_MODE", "node", "KEY"}
    called = {word for text in habits._SUBCOMMANDS.values() for word in re.findall(r"metarun (\w+) (?!\.)", text)}
    assert called - {"KEY"} <= SUBCOMMANDS.keys()


def test_no_word_that_means_something_here_is_taken() -> None:
    """A subcommand, a group or a top-level key keeps its own meaning; `data` is a key, and `data=omniglot` no value of it."""
    keys = {key.name.partition(".")[0] for key in chosen_keys([], CONF).keys}
    assert not habits._SUBCOMMANDS.keys() & SUBCOMMANDS.keys()
    assert not habits._GROUPS.keys() & groups(CONF).keys()
    assert {*habits._KEYS, *habits._GROUPS, *habits._SENTENCES} & keys == {"data"}
