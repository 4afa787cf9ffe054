"""Inputs as a person has them, made into those that the model was trained on."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from metarun.tasks.episodes import Episodes
from metarun.tasks.sources.catalogue import is_inverted
from metarun.tasks.sources.images import as_mode, decoded, resized, surveyed

PER_WHITE = 1 / 255


class Inputs(Protocol):
    """What makes a model's inputs of what a person gives."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        ...

    def whites(self, given: Any) -> Mapping[int, int]:
        """How greys of more than 8 bits in these files are to be read (`Survey`); empty where there are none."""
        ...

    def doubts(self, made: Tensor) -> str | None:
        """What a person should know who gave what these inputs were made of; None where nothing looks odd."""
        ...

    def __call__(self, given: Any, whites: Mapping[int, int]) -> Tensor:
        """Inputs [S, *shape], on the CPU.

        Args:
            whites: of the support set, so that a query is read as it was.
        Raises:
            ValueError: they cannot be made of what was given.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """Images, as a file has them: black is 0, and white is 255 in whole numbers and 1 in others.

    Each is a PIL image, the path of a file, a tensor ([H, W] or [channels, H, W]) or an array ([H, W] or [H, W, channels]); what is
    given is a list of them, or one tensor or array of several. They become grey or colour, upright, their middle square is
    resampled by Lanczos, and those of drawings are inverted: as the images of training were.

    Attributes:
        channels: 1 for grey, 3 for colour.
        size: pixels per side.
        is_inverted: the model was trained on ink that is white on black, drawn black on white.
    """

    channels: int
    size: int
    is_inverted: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """[channels, size, size]."""
        return (self.channels, self.size, self.size)

    def whites(self, given: Any) -> Mapping[int, int]:
        """Of the files among the images: one range for all that are declared alike."""
        return surveyed([Path(image) for image in _each(given) if isinstance(image, str | os.PathLike)]).whites

    def __call__(self, given: Any, whites: Mapping[int, int]) -> Tensor:
        """Numbers in [0, 1], float32 [S, channels, size, size]."""
        images = _each(given)
        if not images:
            raise ValueError("there must be one image at least, got none")
        pixels = [self.pixels(image, f"image {number}", whites) for number, image in enumerate(images)]
        return self.scaled(torch.stack(pixels))

    def scaled(self, pixels: Tensor) -> Tensor:
        """Inputs from pixels of the right size, 0 to 255."""
        return ((255 - pixels) if self.is_inverted else pixels).to(torch.float32) * PER_WHITE

    def doubts(self, made: Tensor) -> str | None:
        """That drawings look inverted: ink covers less than half of the paper."""
        if not self.is_inverted or not float(made.mean()) > 0.5:
            return None
        return (
            "the images are mostly dark, and this model was trained on drawings in dark ink on light paper. If theirs are light "
            "on dark, invert them"
        )

    def pixels(self, image: Any, where: str, whites: Mapping[int, int]) -> Tensor:
        """Of one image: uint8 [channels, size, size]; `ValueError` where it is none."""
        if isinstance(image, str | os.PathLike):
            settings = {"channels": self.channels, "size": self.size, "is_upright": True, "whites": whites}
            return decoded(Path(image).read_bytes(), os.fspath(image), **settings)
        if isinstance(image, Image.Image):
            return resized(as_mode(ImageOps.exif_transpose(image), self.channels, where), self.size)
        array = _bytes(_channels_last(image, where), where)
        read = Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)
        return resized(as_mode(read, self.channels, where), self.size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """How numbers were standardised in training: (number - mean) / std, place by place; tensors in float64."""

    mean: Tensor
    std: Tensor

    def __call__(self, numbers: Tensor) -> Tensor:
        """Numbers [S, ...] as the model has them."""
        return (numbers - self.mean.to(numbers)) / self.std.to(numbers)

    def back(self, numbers: Tensor) -> Tensor:
        """Numbers of the model as a person has them."""
        return numbers * self.std.to(numbers) + self.mean.to(numbers)


def scale_of(provenance: Mapping[str, str], name: str) -> Scale | None:
    """What a run wrote down of how its features ("standardised") or its targets ("standardised_target") were scaled."""
    found = json.loads(provenance.get(name, "null"))
    return found and Scale(**{key: torch.tensor(found[key], dtype=torch.float64) for key in ("mean", "std")})


@dataclass(frozen=True, kw_only=True)
class NumberInputs:
    """Tensors or arrays of numbers: [S, *shape], or [S] where an input is one number.

    Attributes:
        scale: as features were standardised in training, so they are here; None: they are inputs already.
        names: of the columns of a table that they were; empty where they have none.
    """

    shape: tuple[int, ...]
    is_integer: bool = False
    scale: Scale | None = None
    names: tuple[str, ...] = ()

    def whites(self, given: Any) -> Mapping[int, int]:
        """None."""
        return {}

    def doubts(self, made: Tensor) -> str | None:
        """None."""
        return None

    def __call__(self, given: Any, whites: Mapping[int, int]) -> Tensor:
        """As they are; whole numbers stay so where the model takes them."""
        numbers = torch.as_tensor(given if isinstance(given, Tensor) else np.asarray(given))
        if numbers.dim() == 1 and self.shape == (1,):
            numbers = numbers[:, None]
        if numbers.shape[1:] != self.shape or len(numbers) == 0:
            raise ValueError(f"inputs must have the shape [S, {_listed(self.shape)}], got {list(numbers.shape)}")
        if not self.is_integer:
            numbers = numbers.to(torch.float64)
        if not bool(torch.isfinite(numbers).all()):
            raise ValueError("inputs must be finite numbers, and some are not")
        return numbers if self.scale is None else self.scale(numbers)


def inputs_of(dataset: Mapping[str, Any], example: Tensor, provenance: Mapping[str, str]) -> Inputs:
    """What makes inputs like those of a data set.

    Args:
        dataset: its resolved configuration.
        example: an input of training, [*shape].
        provenance: what the run wrote down of its examples.
    """
    source = dataset["source"]
    is_images = (
        "standardised" not in provenance
        and str(source["_target_"]).endswith(f".{Episodes.__name__}")
        and example.dim() == 3
    )
    if is_images and example.shape[0] in (1, 3) and example.shape[1] == example.shape[2]:
        channels, size, _ = example.shape
        return ImageInputs(channels=channels, size=size, is_inverted=is_inverted(source["store"]))
    return NumberInputs(
        shape=tuple(example.shape),
        is_integer=not example.is_floating_point(),
        scale=scale_of(provenance, "standardised"),
        names=tuple(json.loads(provenance.get("features", "[]"))),
    )


def _each(given: Any) -> list[Any]:
    """The images in what was given."""
    if isinstance(given, str | os.PathLike | Image.Image):
        return [given]
    if isinstance(given, Tensor | np.ndarray):
        if given.ndim not in (3, 4):
            raise ValueError(f"several images must have three or four axes, the first for images, got {given.ndim}")
        return list(given)
    if not isinstance(given, Sequence):
        raise ValueError(f"images must be given as a list, a tensor or an array, got a {type(given).__name__}")
    return list(given)


def _channels_last(image: Any, where: str) -> np.ndarray:
    """A tensor [H, W] or [channels, H, W], or an array [H, W] or [H, W, channels], as an array [H, W, channels]."""
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(
            f"{where} must be a PIL image, a path, a tensor or an array, got a {type(image).__name__}. "
            "One batch may be one tensor or array of four axes."
        )
    array = cast(np.ndarray, image.detach().cpu().numpy() if isinstance(image, Tensor) else image)
    if array.ndim == 2:
        return array[..., None]
    is_tensor = isinstance(image, Tensor)
    if array.ndim != 3 or array.shape[0 if is_tensor else -1] not in (1, 3, 4):
        expected = "a tensor [H, W] or [channels, H, W]" if is_tensor else "an array [H, W] or [H, W, channels]"
        raise ValueError(f"{where} must be {expected} with 1, 3 or 4 channels, got shape {list(array.shape)}")
    return np.ascontiguousarray(array.transpose(1, 2, 0)) if is_tensor else array


def _bytes(array: np.ndarray, where: str) -> np.ndarray:
    """Pixels as uint8: whole numbers are those of a file, others lie between 0 and 1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.integer):
        if low < 0 or high > 255:
            raise ValueError(f"{where} must have whole numbers from 0 to 255, got {low:g} to {high:g}")
        return array.astype(np.uint8)
    if not (low >= 0 and high <= 1):  # NaN among them
        raise ValueError(f"{where} must have numbers from 0 (black) to 1 (white), got {low:g} to {high:g}")
    return np.floor(array.astype(np.float64) * 255 + 0.5).astype(np.uint8)


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
