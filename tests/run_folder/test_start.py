"""metarun.run_folder.start: `run.init_from` begins with other parameters, to the bit, and they are part of the run's name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun.algorithm import Algorithm
from metarun.build import make_parts
from metarun.configuration.start import digest, start_of
from metarun.errors import ConfigurationError
from metarun.run_folder.folder import RunFolder, differences, fingerprint, name
from metarun.run_folder.start import Start, started

from ..training.small import (
    SIX_STEPS,
    Killed,
    assert_equal_bits,
    assert_same_runs,
    configuration,
    metrics_of,
    only_folder,
    run_and_kill,
    run_here,
)
from ..training.test_ranks import DRIVER, torchrun

COMMAND = (*SIX_STEPS, "device.program=eager", "model.hidden=[6]")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of six steps."""
    root = tmp_path_factory.mktemp("trained")
    assert run_here(*COMMAND, "seed=3", f"run.root={root}") == 0
    return only_folder(root)


def best_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "best.pt", weights_only=True)


def first_theta(*arguments: str) -> dict[str, torch.Tensor]:
    """theta as the first outer step of a run is given it; the run ends there."""
    seen = []

    def killing(*_given: Any, theta: Any, **named: Any) -> Any:
        seen.append({key: leaf.detach().clone() for key, leaf in theta.items()})
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Algorithm, "meta_step", killing)
        run_here(*arguments)
    return seen[0]


def state_dict_of(*overrides: str) -> dict[str, torch.Tensor]:
    return make_parts(configuration(*COMMAND, *overrides)).learner.module.state_dict()


def refused(capsys, *arguments: str) -> str:
    """What is said of a command that cannot be."""
    capsys.readouterr()
    assert run_here(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metarun: error: ")]
    return line.removeprefix("metarun: error: ")


def test_the_first_step_is_given_the_selected_parameters_to_the_bit(trained, tmp_path):
    theta = first_theta(*COMMAND, f"run.root={tmp_path}", f"run.init_from={trained}")
    assert_equal_bits(theta, best_of(trained)["theta"])
    # last.pt, where validation has selected an earlier state or none, is a file like any other
    last = trained / "checkpoints" / "last.pt"
    theta = first_theta(*COMMAND, f"run.root={tmp_path}", f"run.init_from={last}")
    assert_equal_bits(theta, dict(torch.load(last, weights_only=True)["theta"]))


def test_the_seeds_own_parameters_in_a_file_make_the_run_without_it(tmp_path):
    """Training tasks are a function of (seed, step): the same start gives the same record and the same parameters."""
    torch.save(state_dict_of("seed=5"), tmp_path / "module.pt")
    plain, begun = tmp_path / "plain", tmp_path / "begun"
    assert run_here(*COMMAND, "seed=5", f"run.folder={plain}") == 0
    assert run_here(*COMMAND, "seed=5", f"run.folder={begun}", f"run.init_from={tmp_path / 'module.pt'}") == 0
    assert metrics_of(plain) == metrics_of(begun)
    assert_equal_bits(best_of(plain)["theta"], best_of(begun)["theta"])
    result = json.loads((begun / "result.json").read_text())
    assert result["init_from"] == start_of(str(tmp_path / "module.pt")) | {"step": None}
    assert "init_from" not in json.loads((plain / "result.json").read_text())


def test_the_result_and_the_header_say_what_it_began_with(trained, tmp_path, capsys):
    assert run_here(*COMMAND, f"run.root={tmp_path}", f"run.init_from={trained}") == 0
    step, mark = best_of(trained)["step"], digest(trained)
    assert f"parameters of {trained} after step {step} (SHA-256 {mark[:8]})" in capsys.readouterr().out
    folder = only_folder(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert result["init_from"] == {"path": str(trained), "sha256": mark, "step": step}
    # Where it lies is no setting: the same content under another name is the same run, which has been run.
    shutil.copytree(trained, tmp_path.parent / "moved")
    assert run_here(*COMMAND, f"run.root={tmp_path}", f"run.init_from={tmp_path.parent / 'moved'}") == 0
    assert only_folder(tmp_path) == folder


def test_a_run_that_was_killed_goes_on_to_the_same_bits_without_the_original(trained, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    for place in ("whole", "killed"):
        words = (*COMMAND, f"run.root={tmp_path / place}", f"run.init_from={source}")
        if place == "killed":
            run_and_kill(5, *words)
            # A run that resumes has its own state, and its own copy of the start; the name alone needs the original.
            (source / "checkpoints" / "last.pt").unlink()
        assert run_here(*words) == 0
    assert_same_runs(only_folder(tmp_path / "whole"), only_folder(tmp_path / "killed"))


def test_what_is_not_learned_is_kept_and_is_tested_with(tmp_path):
    """It is in no other checkpoint: the seed makes it anew, and here it is not the seed's."""
    given = {key: leaf + 0.25 for key, leaf in state_dict_of("seed=5").items()}
    torch.save(given, tmp_path / "module.pt")
    frozen = "algorithm.not_meta_learned=[layers.1.*]"
    folder = tmp_path / "run"
    assert run_here(*COMMAND, frozen, f"run.folder={folder}", f"run.init_from={tmp_path / 'module.pt'}") == 0
    assert set(best_of(folder)["theta"]) == {"layers.3.weight", "layers.3.bias"}
    kept = torch.load(folder / "checkpoints" / "start.pt", weights_only=True)["theta"]
    assert_equal_bits({key: kept[key] for key in given}, dict(given))
    (tmp_path / "module.pt").unlink()
    assert run_here("evaluate", str(folder)) == 0
    (evaluation,) = (folder / "evaluations").iterdir()
    stored = json.loads((folder / "result.json").read_text())
    assert json.loads(evaluation.read_text())["results"] == stored["results"]


def test_names_depend_on_the_content_alone(tmp_path):
    usual = configuration()
    for place, value in (("a.pt", 1.0), ("b.pt", 2.0), ("c.pt", 1.0)):
        torch.save({"w": torch.tensor(value)}, tmp_path / place)
    one, other, same = (usual | {"init_from": start_of(str(tmp_path / place))} for place in ("a.pt", "b.pt", "c.pt"))
    # torch.save writes the file's own name into it, so equal content is told by equal bytes
    shutil.copy(tmp_path / "a.pt", tmp_path / "c.pt")
    same = usual | {"init_from": start_of(str(tmp_path / "c.pt"))}
    assert len({name(usual), name(one), name(other)}) == 3
    assert name(same) == name(one)
    mark = digest(tmp_path / "a.pt")
    assert differences(usual, one) == [f"run.init_from: (absent) -> {mark}"]


def test_a_run_without_a_start_keeps_the_name_it_had():
    config = configuration()
    before = {key: value for key, value in config.items() if key != "run"}
    before["run"] = {key: value for key, value in config["run"].items() if key != "init_from"}
    assert fingerprint(before) == fingerprint(config)


def test_another_algorithm_keeps_its_own_beside_the_model(trained, tmp_path, caplog):
    """Meta-SGD's step sizes are no part of MAML's theta: they begin as ever, and that is said."""
    config = configuration(*COMMAND, "algorithm=meta_sgd")
    parts = make_parts(config)
    best = best_of(trained)
    start = Start(str(trained), digest(trained), best["step"], best["theta"])
    with caplog.at_level("WARNING", "metarun"):
        theta = started(parts.theta, start, parts.learner.module)
    assert_equal_bits(dict(theta.adapted), best["theta"])
    assert_equal_bits(dict(theta.solver), dict(parts.theta.solver))
    rates = [f"inner/{key}" for key in parts.theta.solver]
    words = "run.init_from: not there, and left as this run's seed and algorithm make them: "
    assert caplog.messages == [words + ", ".join(rates)]
    # And back: what MAML has no use for is passed over, in words.
    caplog.clear()
    other = make_parts(configuration(*COMMAND))
    with caplog.at_level("WARNING", "metarun"):
        back = started(other.theta, Start("x", "0", 1, dict(theta)), other.learner.module)
    assert_equal_bits(dict(back), best["theta"])
    assert caplog.messages == [
        "run.init_from: not taken, as they are nothing that this run learns: " + ", ".join(rates)
    ]


def test_a_file_is_refused_in_one_line_that_names_the_first_parameter(trained, tmp_path, capsys):
    usual = state_dict_of()
    other = state_dict_of("model.hidden=[7]")
    nan = usual | {"layers.3.bias": torch.full((1,), torch.nan)}
    whole = {
        "other.pt": (other, "has layers.1.weight of shape (7, 1), and this model's is (6, 1)."),
        "less.pt": (
            {key: usual[key] for key in ("layers.1.weight", "layers.3.bias")},
            "has no layers.1.bias, a parameter of the model: it holds layers.1.weight, layers.3.bias.",
        ),
        "more.pt": (usual | {"extra": torch.zeros(1)}, "has extra, and the model has no such parameter."),
        "nan.pt": (nan, "has layers.3.bias with values that are no finite numbers."),
    }
    for file, (content, words) in whole.items():
        torch.save(content, tmp_path / file)
        line = refused(capsys, *COMMAND, f"run.root={tmp_path / 'runs'}", f"run.init_from={tmp_path / file}")
        said = f"run.init_from: {tmp_path / file} {words} Choose the model (and dataset.ways) that it was made with."
        assert line == said
    torch.save({"a": "b"}, tmp_path / "texts.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(trained / "config.json", unfinished)
    for file, words in {
        "texts.pt": "must hold a checkpoint of metarun or the state_dict of a module, and holds neither.",
        "empty.pt": "cannot be read as tensors alone (torch.load with weights_only=True).",
        "folder": f"run.init_from must be a run's folder or a file of parameters (.pt), and {tmp_path / 'folder'} is neither.",
        "none": f"run.init_from must be a run's folder or a file of parameters (.pt), and {tmp_path / 'none'} is not there.",
        "unfinished": "is a run without a selected state yet",
    }.items():
        assert words in refused(capsys, *COMMAND, f"run.root={tmp_path / 'runs'}", f"run.init_from={tmp_path / file}")
    assert not (tmp_path / "runs").exists(), "nothing is written before it is known that the start fits"


def test_objects_in_a_file_are_not_made(tmp_path, capsys):
    """weights_only: a pickle that would call something is refused and calls nothing."""

    class Calls:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "called",))

    torch.save({"layers.1.weight": Calls()}, tmp_path / "evil.pt")
    refused(capsys, *COMMAND, f"run.root={tmp_path / 'runs'}", f"run.init_from={tmp_path / 'evil.pt'}")
    assert not (tmp_path / "called").exists()


def test_a_start_that_changed_after_planning_is_refused(trained, tmp_path):
    """A job of a sweep is given the resolved configuration, with the hash of what was there then."""
    from metarun.run_folder.start import start_of_run

    source = tmp_path / "source"
    shutil.copytree(trained, source)
    config = configuration(*COMMAND) | {"init_from": start_of(str(source))}
    found = start_of_run(RunFolder(tmp_path / "none"), config)
    assert found is not None and found.step == best_of(trained)["step"]
    torch.save({"w": torch.zeros(1)}, source / "checkpoints" / "best.pt")
    with pytest.raises(ConfigurationError, match="has changed since this run was planned"):
        start_of_run(RunFolder(tmp_path / "none"), config)


def test_evaluations_and_gradients_do_not_take_it(trained, capsys):
    for words in (["evaluate", str(trained)], ["gradients"]):
        assert "run.init_from" in refused(capsys, *words, f"run.init_from={trained}")


@pytest.mark.scenario
def test_ranks_and_the_jobs_of_a_sweep_begin_with_it(trained, tmp_path):
    """float64, so that the sums of two ranks are those of one to rounding; the jobs are the runs that they would be alone."""
    words = (*COMMAND, "device.dtype=float64", f"run.init_from={trained}")
    assert run_here(*words, "seed=1", f"run.root={tmp_path / 'one'}") == 0
    alone = only_folder(tmp_path / "one")
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    child = torchrun(2, driver, *words, "seed=1", f"run.root={tmp_path / 'two'}")
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert out.count(f"parameters of {trained}") == 1, "one header"
    shared = only_folder(tmp_path / "two")
    assert shared.name == alone.name
    for key, leaf in best_of(alone)["theta"].items():
        torch.testing.assert_close(best_of(shared)["theta"][key], leaf, rtol=1e-9, atol=1e-12)
    assert run_here("-m", *words, "seed=1,2", f"run.root={tmp_path / 'swept'}") == 0
    assert_same_runs(alone, tmp_path / "swept" / alone.name)


def test_a_sweep_is_told_of_a_start_that_does_not_fit_before_it_begins(trained, tmp_path, capsys):
    words = (*COMMAND[:-1], "model.hidden=[6],[7]", f"run.init_from={trained}", f"run.root={tmp_path / 'runs'}")
    assert run_here("-m", *words) != 0
    said = capsys.readouterr()
    message = "has layers.1.weight of shape (6, 1), and this model's is (7, 1)"
    assert message in said.out + said.err
    assert not list((tmp_path / "runs").glob("*/checkpoints"))
