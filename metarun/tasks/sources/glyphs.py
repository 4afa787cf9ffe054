"""Characters drawn here, from random strokes: an Omniglot-like data set that needs no files."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metarun import checks, rng
from metarun.device.memory import require_bytes
from metarun.tasks.class_store import ClassStore
from metarun.tasks.types import SPLITS, Split

VERSION = "1"

_MAX_STROKES = 4
_POINTS_PER_STROKE = 8  # of the polyline that stands for a quadratic Bezier curve
_LATTICE = 4  # stroke ends lie near a 4x4 lattice, as pen strokes of an alphabet do
_SIZE = 0.6  # of a character's longer side, in the unit square, before jitter
_WOBBLE = 0.045  # largest shift of a control point from drawing to drawing
_TURN = 0.18  # radians
_SHEAR = 0.15
_STRETCH = 0.15
_SHIFT = 0.05
_HALF_WIDTH = (0.022, 0.036)  # of the pen, in the unit square
_NOISE = _MAX_STROKES * 6 + 8  # numbers by which a drawing differs from others of its class
_FAR = 1e3  # where absent strokes are put: beyond every pixel


def glyphs(num_classes: Mapping[Split, int], drawings: int, image_size: int, seed: int) -> ClassStore:
    """A store of invented characters, drawn in memory in about 0.3 s per 100 classes of 20 drawings at 28x28.

    A class is 2 to 4 curved or straight strokes, some starting on an earlier one; a drawing moves the control points a
    little, turns, shears, stretches and shifts the whole, and has its own pen width. Class i of a split is a function
    of (seed, split, i), and drawing j of it of j besides: more classes or drawings leave the others as they were.

    Args:
        num_classes: how many for each of train, val and test.
        drawings: per class.
        image_size: pixels per side.
        seed: of the alphabet; not the seed of a run, so that runs with different seeds share their data.
    Raises:
        ValueError: a number is below 1, or a split is missing.
    """
    if set(num_classes) != set(SPLITS) or min(num_classes.values()) < 1:
        raise ValueError(f"num_classes must be >= 1 for train, val and test, got {dict(num_classes)}")
    for name, value in (("drawings", drawings), ("image_size", image_size)):
        checks.integer(name, value, minimum=1)
    size = sum(num_classes.values()) * drawings * (image_size**2 + 4 * _NOISE)
    require_bytes(size, "drawing the glyphs", "Lower num_classes, drawings or image_size.")
    splits: dict[Split, list[str]] = {
        split: [f"{split}/{i:06d}" for i in range(num_classes[split])] for split in SPLITS
    }
    ordered = sorted(SPLITS)  # class names are sorted, so splits come in alphabetical order
    images = torch.cat([_drawn(seed, split, num_classes[split], drawings, image_size) for split in ordered])
    names = [name for split in ordered for name in splits[split]]
    return ClassStore.build(images, names, splits, source=f"glyphs, seed {seed}", version=VERSION)


def _drawn(seed: int, split: Split, num_classes: int, drawings: int, image_size: int) -> Tensor:
    """uint8 [C, drawings, 1, image_size, image_size]."""
    classes = torch.arange(num_classes)
    control, is_present = _characters(rng.uniform(rng.key(seed, "glyphs", split, "class"), classes, _MAX_STROKES, 12))
    # Key by drawing, index by class: a drawing does not depend on how many there are.
    jitter = torch.stack(
        [
            rng.uniform(rng.key(seed, "glyphs", split, "drawing", j), classes, _NOISE).to(torch.float32)
            for j in range(drawings)
        ],
        dim=1,
    )
    pages = []
    for c in range(
        num_classes
    ):  # one class at a time stays in the processor's cache and fixes the shapes of the arithmetic
        points, half_width = _jittered(control[c], jitter[c])
        points = torch.where(is_present[c, :, None, None], points, _FAR)
        pages.append(_inked(points, half_width, image_size))
    return torch.stack(pages)[:, :, None]


def _characters(u: Tensor) -> tuple[Tensor, Tensor]:
    """Strokes of C classes from uniform numbers [C, strokes, 12].

    Returns:
        Control points float32 [C, strokes, 3, 2] in the unit square, and which strokes there are, [C, strokes].
    """
    u = u.to(torch.float32)
    step = 1 / (_LATTICE - 1)
    start_cell = (u[..., 0:2] * _LATTICE).floor()
    # The other end is another cell: 1 to 3 further along each axis, cyclically, or the same along one of them.
    offset = (u[..., 2] * (_LATTICE**2 - 1)).floor() + 1
    offset = torch.stack([(offset / _LATTICE).floor(), offset % _LATTICE], dim=-1)
    end_cell = (start_cell + offset) % _LATTICE
    start, end = (
        step * (cell + 0.5 * (noise - 0.5)) for cell, noise in ((start_cell, u[..., 3:5]), (end_cell, u[..., 5:7]))
    )
    is_straight = u[..., 7:8] < 0.35
    bend = 1.6 * (u[..., 8:9] - 0.5)
    chord = end - start
    across = torch.stack([-chord[..., 1], chord[..., 0]], dim=-1)
    middle = (start + end) / 2 + torch.where(is_straight, torch.zeros(()), bend) * across
    control = torch.stack([start, middle, end], dim=-2)
    # A stroke after the first starts, half of the time, on the one before it: at its start, middle or end.
    for stroke in range(1, control.shape[1]):
        along = (u[:, stroke, 9:10] * 3).floor() / 2
        previous = _curve(control[:, stroke - 1], along)[:, 0]
        joins = u[:, stroke, 10:11] < 0.5
        moved = torch.where(joins, previous, control[:, stroke, 0])
        control[:, stroke, 0] = moved
    number = 2 + (u[:, 0, 11] * (_MAX_STROKES - 1)).floor()
    is_present = torch.arange(control.shape[1]) < number[:, None]
    return _centred(control, is_present), is_present


def _centred(control: Tensor, is_present: Tensor) -> Tensor:
    """The characters moved to the middle and scaled to one size, so that place and size do not give the class away."""
    points = _curve(control, torch.linspace(0, 1, _POINTS_PER_STROKE))
    absent = ~is_present[:, :, None, None]
    low = points.masked_fill(absent, _FAR).amin((1, 2))
    high = points.masked_fill(absent, -_FAR).amax((1, 2))
    scale = _SIZE / (high - low).amax(-1)
    middle = (low + high) / 2
    return 0.5 + scale[:, None, None, None] * (control - middle[:, None, None])


def _curve(control: Tensor, t: Tensor) -> Tensor:
    """Points of quadratic Bezier curves: control [..., 3, 2] at t [..., T] gives [..., T, 2]."""
    t = t[..., None]
    first, second, third = (control[..., i, :].unsqueeze(-2) for i in range(3))
    return (1 - t) ** 2 * first + 2 * t * (1 - t) * second + t**2 * third


def _jittered(control: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One class drawn J times.

    Args:
        control: [strokes, 3, 2].
        u: uniform numbers [J, strokes * 6 + 8].
    Returns:
        Polylines [J, strokes, points, 2] and half pen widths [J].
    """
    wobble, whole = u[:, :-8], 2 * u[:, -8:] - 1
    control = control + _WOBBLE * (2 * wobble.view(-1, *control.shape) - 1)
    points = _curve(control, torch.linspace(0, 1, _POINTS_PER_STROKE))
    angle = _TURN * whole[:, 0]
    cos, sin, shear = angle.cos(), angle.sin(), _SHEAR * whole[:, 1]
    wide, tall = 1 + _STRETCH * whole[:, 2], 1 + _STRETCH * whole[:, 3]
    matrix = torch.stack([wide * cos, tall * (shear * cos - sin), wide * sin, tall * (shear * sin + cos)], -1).view(
        -1, 1, 2, 2
    )
    shift = _SHIFT * whole[:, None, None, 4:6]
    centred = (points - 0.5).flatten(1, 2)[:, :, None]  # [J, strokes * points, 1, 2]
    turned = (centred * matrix).sum(-1).view(points.shape)
    low, high = _HALF_WIDTH
    return turned + 0.5 + shift, low + (high - low) * u[:, -1]


def _inked(points: Tensor, half_width: Tensor, image_size: int) -> Tensor:
    """Pixels of polylines by their distance to the nearest segment; the edge is a ramp one pixel wide.

    Args:
        points: [J, strokes, points, 2] as (x, y), y downwards.
        half_width: [J].
        image_size: pixels per side.
    Returns:
        uint8 [J, image_size, image_size], ink 255.
    """
    start, end = points[:, :, :-1].flatten(1, 2), points[:, :, 1:].flatten(1, 2)  # [J, segments, 2]
    edge = end - start
    length_squared = edge.square().sum(-1).clamp_min(1e-12)
    centres = (torch.arange(image_size, dtype=torch.float32) + 0.5) / image_size
    # x and y separately: [J, segments, 1, W] and [J, segments, H, 1] broadcast, so little is computed per pixel.
    x = centres - start[..., 0, None, None]
    y = centres[:, None] - start[..., 1, None, None]
    edge_x, edge_y = edge[..., 0, None, None], edge[..., 1, None, None]
    scale = length_squared[..., None, None]
    along = (x * (edge_x / scale) + y * (edge_y / scale)).clamp_(0, 1)
    squared = (x - along * edge_x).square_() + (y - along * edge_y).square_()
    distance = squared.amin(1).sqrt_()
    ink = ((half_width[:, None, None] - distance) * image_size + 0.5).clamp_(0, 1)
    return (255 * ink).round_().to(torch.uint8)
