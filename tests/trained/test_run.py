"""metarun.load: a run's model adapted to a support set, against loops by hand."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

import metarun
from metarun.build import make_parts
from metarun.errors import ConfigurationError, TrainingError
from metarun.models.norm import statistics_of_first

from ..training.small import GLYPHS
from .runs import files_of, trained


def by_hand(module: torch.nn.Module, loss, steps: int, step_size: float) -> None:
    """Plain gradient descent on a plain module, in place."""
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(), list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= step_size * gradient


def test_a_regression_is_adapted_as_by_hand(sinusoid_run):
    run = metarun.load(sinusoid_run)
    x, y = torch.linspace(-3, 3, 7, dtype=torch.float64), torch.linspace(-3, 3, 7, dtype=torch.float64).sin()
    module = run.module()
    by_hand(module, lambda: F.mse_loss(module(x[:, None]), y[:, None]), 10, 0.02)
    adapted = run.adapt(x, y)
    assert (run.steps, adapted.steps) == (10, 10)
    at = torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(adapted.predict([-1, 0.5]), module(at), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(adapted.predict(at), run.adapt(x, y, steps=0).predict(at), atol=1e-3)
    expected = ((adapted.predict(x) - y[:, None]) ** 2).mean()
    assert adapted.evaluate(x, y)["mse"] == pytest.approx(float(expected), rel=1e-12)


def test_pictures_are_classified_as_by_hand(glyph_run, pictures):
    run = metarun.load(glyph_run, batch_norm="transductive")
    support, labels = files_of(pictures / "support")
    query, truth = files_of(pictures / "query")
    inputs = run.inputs(support, {}).double()
    ids = torch.tensor([sorted(set(labels)).index(label) for label in labels])
    module = run.module()
    by_hand(module, lambda: F.cross_entropy(module(inputs), ids), 3, 0.4)
    with torch.no_grad():
        expected = module(run.inputs(query, {}).double()).softmax(-1)
    adapted = run.adapt(support, labels)
    assert adapted.classes == tuple(f"sign {k}" for k in range(5))
    torch.testing.assert_close(adapted.probabilities(query), expected, rtol=1e-9, atol=1e-9)
    predicted = adapted.predict(query)
    assert predicted == [adapted.classes[k] for k in expected.argmax(-1).tolist()]
    share = sum(one == other for one, other in zip(predicted, truth, strict=True)) / len(truth)
    assert adapted.evaluate(query, truth)["accuracy"] == pytest.approx(share, rel=1e-12)
    with torch.no_grad():
        assert torch.equal(adapted.module()(run.inputs(query, {}).double()).softmax(-1), adapted.probabilities(query))


def test_a_test_task_is_measured_as_the_run_measured_it(glyph_run):
    run = metarun.load(glyph_run, batch_norm="transductive")
    parts = make_parts(run.config)
    tasks = parts.source.sample(0, "test", torch.arange(20), 1, 5)
    accuracies = []
    for task in range(20):
        support, query = tasks.support_set[task : task + 1], tasks.query_set[task : task + 1]
        adapted = run.adapt(support.inputs[0], support.targets[0], prepared=True)
        accuracies.append(adapted.evaluate(query.inputs[0], query.targets[0], prepared=True)["accuracy"])
    result = json.loads((glyph_run / "result.json").read_text())
    assert sum(accuracies) / 20 == pytest.approx(result["results"][-1]["accuracy"]["mean"], abs=1e-12)


@pytest.mark.parametrize("batch_norm, depends", [("support", False), ("transductive", True)])
def test_predictions_depend_on_each_other_as_asked(batch_norm, depends, glyph_run, pictures):
    """Whatever the run itself was tested with."""
    support, labels = files_of(pictures / "support")
    query, _ = files_of(pictures / "query")
    adapted = metarun.load(glyph_run, batch_norm=batch_norm).adapt(support, labels)
    together = adapted.probabilities(query)
    alone = torch.cat([adapted.probabilities([file]) for file in query])
    assert adapted.depends_on_others == depends
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-10) != depends
    with torch.no_grad():
        plain = adapted.module()(adapted.run.model_inputs(query)).softmax(-1)
    torch.testing.assert_close(plain, together, rtol=1e-12, atol=1e-12)


def test_by_default_predictions_do_not_depend_on_each_other(glyph_run, pictures):
    """By hand: the support set goes through the adapted net beside each query, and its statistics alone are taken."""
    support, labels = files_of(pictures / "support")
    query, _ = files_of(pictures / "query")
    run = metarun.load(glyph_run)
    adapted = run.adapt(support, labels)
    both = torch.cat([run.model_inputs(support), run.model_inputs(query[:1])])
    module = metarun.load(glyph_run, batch_norm="transductive").adapt(support, labels).module()
    with statistics_of_first(len(support)), torch.no_grad():
        expected = module(both)[-1:].softmax(-1)
    torch.testing.assert_close(adapted.probabilities(query)[:1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ways", [3, 5, 7])
def test_prototypes_take_any_number_of_classes(ways, tmp_path_factory, request):
    folder = request.config.cache.mkdir("metarun_prototypes") / "run"
    if not (folder / "result.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        trained(folder, *GLYPHS, "device.dtype=float64", "algorithm=protonet", "batch_norm=support")
    run = metarun.load(folder)
    inputs = torch.linspace(0, 1, 2 * ways * 14 * 14, dtype=torch.float64).sin().abs().view(2 * ways, 1, 14, 14)
    labels = [k % ways for k in range(2 * ways)]
    adapted = run.adapt(inputs, labels, prepared=True)
    assert adapted.classes == tuple(range(ways))
    # by hand: minus the squared distance to each class's mean of the features, normalised by the support set's statistics
    features = run.learner.features(run.theta.start | run.theta.shared, inputs)
    means = torch.stack([features[[k for k, label in enumerate(labels) if label == c]].mean(0) for c in range(ways)])
    expected = (-(torch.cdist(features, means) ** 2)).softmax(-1)
    torch.testing.assert_close(adapted.probabilities(inputs, prepared=True), expected, rtol=1e-8, atol=1e-8)


def test_fewer_classes_than_outputs_leave_the_others_out(glyph_run, pictures):
    run = metarun.load(glyph_run)
    support, labels = files_of(pictures / "support")
    adapted = run.adapt(support[:4], labels[:4])
    assert adapted.classes == ("sign 0", "sign 1")
    probabilities = adapted.probabilities(support[:4])
    assert probabilities.shape == (4, 2)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4, dtype=torch.float64))
    with torch.no_grad():
        assert adapted.module()(run.model_inputs(support[:4])).shape == (4, 2)


def test_what_does_not_fit_is_refused(glyph_run, sinusoid_run, pictures):
    run = metarun.load(glyph_run)
    support, labels = files_of(pictures / "support")
    with pytest.raises(ValueError, match=r"this model has 5 outputs, and the support set 6 classes. Give at most 5"):
        run.adapt(support[:6], list("abcdef"))
    with pytest.raises(ValueError, match="there must be a label for each of 2 examples, got 3"):
        run.adapt(support[:2], list("abc"))
    with pytest.raises(ValueError, match="the support set must have two classes at least, got 1"):
        run.adapt(support[:2], ["a", "a"])
    with pytest.raises(ValueError, match="labels must be texts or whole numbers, got int, str"):
        run.adapt(support[:2], ["a", 1])
    with pytest.raises(ValueError, match=r"steps must be a whole number >= 0, got 1.5"):
        run.adapt(support, labels, steps=1.5)
    with pytest.raises(ValueError, match=r"prepared inputs must have the shape \[S, 1, 14, 14\], got \[2, 1, 28, 28\]"):
        run.adapt(torch.zeros(2, 1, 28, 28), [0, 1], prepared=True)
    with pytest.raises(ValueError, match=r"targets must be 1 labels of sign 0, .*, got "):
        run.adapt(support, labels).evaluate(support[:1], ["sign 9"])
    regression = metarun.load(sinusoid_run)
    with pytest.raises(ValueError, match=r"targets must be finite numbers of shape \[2, 1\], got \[3, 1\]"):
        regression.adapt([0, 1], [0, 1, 2])
    with pytest.raises(TrainingError, match=r"not finite after 100 inner steps on these 2 examples. Take fewer steps"):
        regression.adapt([1e200, 2e200], [0, 1e200], steps=100)


def test_a_run_is_loaded_without_its_data(glyph_run, pictures, tmp_path):
    """Its images may be on another machine: what is needed to adapt is in the folder."""
    folder = shutil.copytree(glyph_run, tmp_path / "moved")
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["source"]["store"] = {
        "_target_": "metarun.tasks.sources.folder.folder", "path": "/nowhere/at/all", "cache": str(tmp_path),
        "image_size": 14, "channels": 1, "split_file": None, "split_fractions": [0.6, 0.2, 0.2], "split_seed": 0,
        "min_images": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    run = metarun.load(folder)
    support, labels = files_of(pictures / "support")
    assert run.inputs.is_inverted is False
    assert run.adapt(support, labels).probabilities(support).shape == (10, 5)
    with pytest.raises(ConfigurationError, match="/nowhere/at/all"):
        run.evaluate()


def test_evaluate_is_that_of_the_command_line(glyph_run, tmp_path, capsys):
    folder = shutil.copytree(glyph_run, tmp_path / "copy")
    found = metarun.load(folder).evaluate("evaluation.tasks=7", "evaluation.inner_steps=[2]")
    assert [row["inner_steps"] for row in found["results"]] == [1, 2]
    assert found["results"][0]["accuracy"]["num_tasks"] == 7
    assert capsys.readouterr().out == ""
    (stored,) = (folder / "evaluations").iterdir()
    assert json.loads(stored.read_text())["results"] == found["results"]


def test_what_is_no_run_is_refused(tmp_path, glyph_run):
    with pytest.raises(ConfigurationError, match="batch_norm must be one of transductive, support, got 'none'"):
        metarun.load(glyph_run, batch_norm="none")
    with pytest.raises(ConfigurationError, match="must hold a run"):
        metarun.load(tmp_path)
    folder = shutil.copytree(glyph_run, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["_target_"] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=r"model\._target_ names 'os.system'"):
        metarun.load(folder)
