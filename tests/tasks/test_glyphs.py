"""metarun.tasks.sources.glyphs: pixels by distance, and drawings as functions of (seed, split, class, drawing)."""

import math

import pytest
import torch

from metarun.tasks.class_store import ClassStore
from metarun.tasks.sources import glyphs as module
from metarun.tasks.sources.glyphs import glyphs


def test_ink_is_the_distance_to_the_polyline():
    points = torch.tensor([[[0.25, 0.5], [0.75, 0.5]], [[1e3, 1e3], [1e3, 1e3]]])  # one level stroke, one absent
    image = module._inked(points[None], torch.tensor([0.1]), 10)[0]
    for row in range(10):
        for column in range(10):
            x, y = (column + 0.5) / 10, (row + 0.5) / 10
            distance = math.hypot(x - min(max(x, 0.25), 0.75), y - 0.5)
            ink = min(max((0.1 - distance) * 10 + 0.5, 0.0), 1.0)
            assert abs(int(image[row, column]) - 255 * ink) <= 0.51  # rounding, plus float32 in the ramp


def test_curve_passes_through_its_ends_and_bends_to_its_middle():
    control = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]])
    curve = module._curve(control, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(curve, torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]))


def by_class(store: ClassStore, drawings: int) -> torch.Tensor:
    return store.items.view(-1, drawings, *store.items.shape[1:])


def test_store_has_what_was_asked_for():
    store = glyphs({"train": 5, "val": 2, "test": 3}, drawings=4, image_size=20, seed=0)
    assert store.items.shape == (40, 1, 20, 20) and store.counts.tolist() == [4] * 10
    for split, number in (("train", 5), ("val", 2), ("test", 3)):
        assert [store.classes[i] for i in store.splits[split].tolist()] == [f"{split}/{i:06d}" for i in range(number)]
    store.verify()


def test_a_drawing_does_not_depend_on_how_many_there_are():
    few = glyphs({"train": 3, "val": 1, "test": 2}, drawings=4, image_size=28, seed=1)
    many = glyphs({"train": 9, "val": 5, "test": 4}, drawings=7, image_size=28, seed=1)
    for split in ("train", "val", "test"):
        one, other = (by_class(store, n)[store.splits[split]] for store, n in ((few, 4), (many, 7)))
        assert torch.equal(one, other[: len(one), :4])


def test_another_seed_or_split_is_another_alphabet():
    numbers = {"train": 4, "val": 4, "test": 4}
    one, other = (glyphs(numbers, drawings=3, image_size=28, seed=seed) for seed in (0, 1))
    assert one.provenance["sha256"] == glyphs(numbers, drawings=3, image_size=28, seed=0).provenance["sha256"]
    images = torch.cat([one.items, other.items]).flatten(1)
    assert len(images.unique(dim=0)) == 2 * 12 * 3


def test_every_drawing_has_ink_inside_the_frame():
    store = glyphs({"train": 150, "val": 1, "test": 1}, drawings=5, image_size=28, seed=2)
    ink = store.items.float().div(255).flatten(1).sum(-1)
    assert float(ink.min()) > 10  # pixels; the shortest character is longer than this
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    in_frame = store.items[..., frame].float().div(255).flatten(1).sum(-1)
    assert float((in_frame / ink).max()) < 0.1


def test_drawings_resemble_their_own_class_more_than_others():
    """The nearest of 20 class means, of 10 other drawings each, is a drawing's own for at least 80 %; chance is 5 %."""
    store = glyphs({"train": 20, "val": 1, "test": 1}, drawings=20, image_size=28, seed=0)
    images = by_class(store, 20)[store.splits["train"]].float().flatten(2)
    means, held_out = images[:, :10].mean(1), images[:, 10:].flatten(0, 1)
    own = torch.arange(20).repeat_interleave(10)
    assert float((torch.cdist(held_out, means).argmin(1) == own).double().mean()) >= 0.8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_classes": {"train": 1, "val": 0, "test": 1}}, "num_classes must be >= 1 for train, val and test"),
        ({"drawings": 0}, "drawings must be an integer >= 1, got 0"),
    ],
)
def test_bad_numbers_are_named(changed, message):
    arguments = {"num_classes": {"train": 1, "val": 1, "test": 1}, "drawings": 1, "image_size": 8, "seed": 0}
    with pytest.raises(ValueError, match=message):
        glyphs(**{**arguments, **changed})
