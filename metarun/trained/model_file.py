"""An adapted model as one file that needs no metarun: `model.pt2` by torch.export, or `model.onnx`."""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarun import __version__
from metarun.errors import ConfigurationError
from metarun.files import naming, write_atomically
from metarun.trained.adapted import AdaptedModel
from metarun.trained.inputs import ImageInputs, NumberInputs, Scale
from metarun.trained.resampling import middle_square

KINDS = (".pt2", ".onnx")
NOTES = "metarun.json"
"""Of what `notes` says: an extra file of a .pt2; in a .onnx the model's metadata has it under this name."""


class ImageClassifier(nn.Module):
    """Images as a file has them -> probabilities, by what `ImageInputs` does to them and the adapted model."""

    def __init__(self, model: nn.Module, inputs: ImageInputs, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.inputs, self.dtype = model, inputs, dtype

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities [Q, N] of images uint8 [Q, channels, H, W]."""
        pixels = middle_square(images, self.inputs.size)
        return self.model(self.inputs.scaled(pixels).to(self.dtype)).softmax(-1)


class NumberModel(nn.Module):
    """Numbers -> probabilities of a classification, or what a regression predicts."""

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, is_classification: bool, inputs: Scale | None, targets: Scale | None
    ) -> None:
        super().__init__()
        self.model, self.dtype, self.is_classification = model, dtype, is_classification
        self.of_inputs, self.of_targets = inputs, targets

    def forward(self, inputs: Tensor) -> Tensor:
        """[Q, N] for inputs [Q, *input_shape], float32 unless they are whole numbers."""
        if self.of_inputs is not None:  # in float64, as `NumberInputs` does it
            inputs = self.of_inputs(inputs.to(torch.float64))
        outputs = self.model(inputs.to(self.dtype) if inputs.is_floating_point() else inputs)
        if self.is_classification:
            return outputs.softmax(-1)
        return outputs if self.of_targets is None else self.of_targets.back(outputs)


def export(adapted: AdaptedModel, path: str | os.PathLike[str]) -> None:
    """Write the adapted model with its preprocessing, for any number of examples and images of any size.

    Args:
        path: a file that ends in .pt2 (torch.export, `torch.export.load(path).module()`) or .onnx (the extra `onnx`).
    Raises:
        ConfigurationError: another ending, or the extra is not installed.
    """
    path = Path(path)
    if path.suffix not in KINDS:
        raise ConfigurationError(f"a model is exported to a file that ends in {' or '.join(KINDS)}, got {path}")
    if path.suffix == ".onnx":
        _require_onnx()
    model, example, dynamic = _program(adapted)
    said = json.dumps(notes(adapted), indent=2)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            with _quiet(), torch.no_grad():
                if path.suffix == ".pt2":
                    program = torch.export.export(model, (example,), dynamic_shapes=(dynamic,))
                    torch.export.save(program, part, extra_files={NOTES: said})
                else:
                    _to_onnx(model, example, dynamic, part, said)
            write_atomically(path, part.read_bytes())
        finally:
            part.unlink(missing_ok=True)


def notes(adapted: AdaptedModel) -> dict[str, Any]:
    """What somebody has to know who is given the file alone."""
    run, inputs = adapted.run, adapted.run.inputs
    kind = "float32" if adapted.support.is_floating_point() else str(adapted.support.dtype).removeprefix("torch.")
    taken: dict[str, Any] = {"shape": ["Q", *inputs.shape], "dtype": kind, "done_inside": None}
    if isinstance(inputs, ImageInputs):
        taken = {"shape": ["Q", inputs.channels, "height", "width"], "dtype": "uint8", "black": 0, "white": 255}
        taken["done_inside"] = (
            f"cropped to the middle square, resized to {inputs.size}x{inputs.size}, "
            f"{'inverted ' if inputs.is_inverted else ''}and scaled to [0, 1]"
        )
    if isinstance(inputs, NumberInputs) and inputs.scale is not None:
        taken["done_inside"] = "standardised as in training"
    return {
        "metarun": __version__,
        "run": run.path.name,
        "trained_step": run.step,
        "inner_steps": adapted.steps,
        "inputs": taken,
        "outputs": "probabilities" if adapted.classes is not None else "predictions",
        "classes": None if adapted.classes is None else list(adapted.classes),
        "normalised_by": {
            "transductive": "all examples of one call together",
            "support": "the support set, which the file holds",
            "none": None,
        }[run.learner.batch_norm],
    }


def _program(adapted: AdaptedModel) -> tuple[nn.Module, Tensor, dict[int, Any]]:
    """The module to write, an example of its input, and which axes may have any length."""
    run, inputs = adapted.run, adapted.run.inputs
    inner = adapted.module().to("cpu").eval()
    for parameter in inner.parameters():
        parameter.requires_grad_(False)
    number = torch.export.Dim("examples", min=1)
    if isinstance(inputs, ImageInputs):
        side = inputs.size
        example = torch.zeros(3, inputs.channels, side + 7, side + 3, dtype=torch.uint8)
        dims = {0: number, 2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
        return ImageClassifier(inner, inputs, run.dtype), example, dims
    whole = not adapted.support.is_floating_point()
    example = torch.zeros(3, *inputs.shape, dtype=adapted.support.dtype if whole else torch.float32)
    scales = inputs.scale if isinstance(inputs, NumberInputs) else None, run.target_scale
    return NumberModel(inner, run.dtype, adapted.classes is not None, *scales), example, {0: number}


def _to_onnx(model: nn.Module, example: Tensor, dynamic: dict[int, Any], path: Path, said: str) -> None:
    name, result = ("images" if isinstance(model, ImageClassifier) else "inputs"), "outputs"
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=[name],
        output_names=[result],
        dynamic_shapes=(dynamic,),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.model.metadata_props[NOTES] = said
    program.save(str(path), include_initializers=True, external_data=False)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"a .onnx file needs the extra onnx, and {error.name} is not installed: pip install 'metarun[onnx]'. "
            "A .pt2 file needs nothing more."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own words: what they warn of is how they work inside."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
