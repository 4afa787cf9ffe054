"""`metarun export RUN_DIR --support FOLDER --to FILE`: a model adapted to a support set, as a file that needs no metarun."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from metarun import rng
from metarun.console.terminal import say, tell, terminal
from metarun.errors import TrainingError
from metarun.trained.adapted import AdaptedModel
from metarun.trained.files import read_task
from metarun.trained.inputs import ImageInputs
from metarun.trained.model_file import notes
from metarun.trained.predict import adapted_to, report
from metarun.trained.run import load

CLOSE = 1e-5
"""What the file may differ by from the model, in a probability or relative to a prediction."""


def export_run(
    run_dir: Path, support: Path, to: Path, *, steps: int | None, batch_norm: str, allowed: Sequence[str]
) -> None:
    """Adapt a run's model to a support set and write it with its preprocessing; the file is held against the model.

    Args:
        support: a folder of images for each class, or a table.
        to: a file that ends in .pt2 or .onnx.
        steps: inner steps; None: those of the run's result.
        batch_norm: "support" or "transductive" (`load`).
        allowed: classes beside metarun's and torch's that the run may name.
    Raises:
        ConfigurationError: no such run, files that make no task for it, another ending, or a missing extra.
        TrainingError: what is in the file gives something else than the model; the file is taken away.
    """
    run = load(run_dir, batch_norm=batch_norm, device="cpu", allow=allowed)
    task = read_task(run, support, ())
    adapted = adapted_to(run, task, steps)
    adapted.export(to)
    difference = _difference(adapted, to)
    if not difference <= CLOSE:
        to.unlink()
        raise TrainingError(
            f"the exported model differs from the adapted one by {difference:.1e}, more than {CLOSE:.0e}; {to} was taken away"
        )
    report(adapted, task)
    console, said = terminal(), notes(adapted)
    shape = ", ".join(map(str, said["inputs"]["shape"]))
    outputs = f"probabilities of {', '.join(map(str, said['classes']))}" if said["classes"] else "predictions"
    close = "exactly those of `metarun predict`"
    if difference:
        close = f"within {difference:.0e} of `metarun predict`"
    say(console, ("wrote", "bold"), f"   {to} ({to.stat().st_size / 1024:,.0f} KiB)")
    inside = said["inputs"]["done_inside"]
    inside = f"; {inside} inside" if inside else ""
    tell(console, ("takes", "bold"), f"   {said['inputs']['dtype']} [{shape}]{inside}", indent=8)
    tell(console, ("gives", "bold"), f"   {outputs}; {close}", indent=8)
    if said["normalised_by"]:
        tell(console, ("batches", "bold"), f" normalised by {said['normalised_by']}", indent=8)
    loads = "torch.export.load({}).module()" if to.suffix == ".pt2" else "onnxruntime.InferenceSession({})"
    python = loads.format(json.dumps(str(to), ensure_ascii=False))
    say(console, ("use", "bold"), f"     {python}")


def _difference(adapted: AdaptedModel, path: Path) -> float:
    """The largest difference between the file's outputs and the model's, on examples of its kind."""
    inputs = adapted.run.inputs
    if isinstance(inputs, ImageInputs):
        shape = (5, inputs.channels, inputs.size + 9, inputs.size + 4)
        given = (256 * rng.uniform(rng.key(0, "export"), torch.arange(shape[0]), *shape[1:])).to(torch.uint8)
    else:
        given = adapted.support if not adapted.support.is_floating_point() else adapted.support.float()
    expected = adapted.outputs(given)
    expected = expected if adapted.classes is None else expected.softmax(-1)
    found = _outputs(path, given)
    scale = 1.0 if adapted.classes is not None else max(1.0, float(expected.abs().max()))
    return float((found - expected).abs().max()) / scale


def _outputs(path: Path, given: Tensor) -> Tensor:
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(given)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    return torch.from_numpy(found)
