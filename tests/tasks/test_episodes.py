"""metarun.tasks.episodes: N labels, K each, disjoint, shuffled, and a function of (seed, split, index)."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.tasks.class_store import ClassStore
from metarun.tasks.episodes import Episodes

REPOSITORY = Path(__file__).parents[2]
SIDE = 6


def counting_store(num_train: int = 8, num_images: int = 7, channels: int = 2) -> ClassStore:
    """Every image holds its class id and its position in the corner pixels; the rest tells its four turns apart."""
    names = [f"{i:03d}" for i in range(num_train + 10)]
    images = torch.zeros(len(names), num_images, channels, SIDE, SIDE, dtype=torch.uint8)
    images[..., 0, 0] = torch.arange(len(names), dtype=torch.uint8)[:, None, None]
    images[..., 0, 1] = torch.arange(num_images, dtype=torch.uint8)[None, :, None]
    images[..., 1, 0] = torch.arange(100, 100 + channels, dtype=torch.uint8)
    splits = {"train": names[:num_train], "val": names[num_train : num_train + 4], "test": names[num_train + 4 :]}
    return ClassStore.build(images, names, splits, "counting", "1")


def digest(batch) -> str:
    tensors = [
        batch.support.inputs,
        batch.support.targets,
        batch.query.inputs,
        batch.query.targets,
        *batch.latent.values(),
    ]
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_examples_are_the_images_that_latent_names(split, rotations):
    store = counting_store()
    episodes = Episodes(store=store, ways=3, rotations=rotations)
    batch = episodes.sample(5, split, torch.arange(40), shots=2, queries=4)
    assert episodes.input_shape == (2, SIDE, SIDE) and episodes.output_size == 3
    for part, positions in (
        (batch.support, batch.latent["support_images"]),
        (batch.query, batch.latent["query_images"]),
    ):
        per_class = positions.shape[-1]
        assert part.inputs.shape == (40, 3 * per_class, 2, SIDE, SIDE) and part.inputs.dtype == torch.float32
        assert part.targets.dtype == torch.int64
        for task in range(40):
            row = 0
            for label in range(3):
                for position in positions[task, label].tolist():
                    image = store.items[store.starts[batch.latent["classes"][task, label]] + position]
                    turned = torch.rot90(image, int(batch.latent["rotation"][task, label]), (-2, -1))
                    assert torch.equal(
                        part.inputs[task, row], turned.float() * torch.tensor(1 / 255, dtype=torch.float32)
                    )
                    assert part.targets[task, row] == label
                    row += 1


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_classes_are_distinct_and_of_the_split_and_support_and_query_are_disjoint(split):
    store = counting_store()
    batch = Episodes(store=store, ways=4, rotations=False).sample(0, split, torch.arange(500), shots=3, queries=4)
    for classes in batch.latent["classes"].tolist():
        assert len(set(classes)) == 4 and set(classes) <= set(store.splits[split].tolist())
    images = torch.cat([batch.latent["support_images"], batch.latent["query_images"]], dim=-1)
    assert torch.equal(images.sort(-1).values, torch.arange(7).expand_as(images))  # 3 + 4 of 7: each exactly once


def test_quarter_turns_are_classes_of_their_own_in_train_only():
    store = counting_store()
    episodes = Episodes(store=store, ways=3, rotations=True)
    assert int(episodes.sample(0, "val", torch.arange(500), 1, 1).latent["rotation"].max()) == 0
    assert int(episodes.sample(0, "test", torch.arange(500), 1, 1).latent["rotation"].max()) == 0
    latent = episodes.sample(0, "train", torch.arange(4000), 1, 1).latent
    turned = latent["classes"] * 4 + latent["rotation"]
    assert all(len(set(row)) == 3 for row in turned.tolist())
    assert turned.unique().tolist() == list(range(32))  # each turn of each of the 8 classes
    pairs = latent["classes"].sort(-1).values
    share = (pairs[:, 1:] == pairs[:, :-1]).any(-1).double().mean()
    distinct = (32 * 28 * 24) / (32 * 31 * 30)  # P(three turned classes of three characters)
    assert abs(float(share) - (1 - distinct)) < 4 * (distinct * (1 - distinct) / 4000) ** 0.5


def test_every_class_takes_every_label_equally_often():
    latent = (
        Episodes(store=counting_store(), ways=5, rotations=False).sample(1, "train", torch.arange(10_000), 1, 1).latent
    )
    counts = torch.stack([latent["classes"][:, label].bincount(minlength=8) for label in range(5)]).double()
    expected = 10_000 / 8
    # Each label's class is uniform: 7 degrees of freedom each; the bound is 4 standard deviations.
    assert float(((counts - expected) ** 2 / expected).sum(1).max()) < 7 + 4 * 14**0.5


def test_every_image_is_drawn_equally_often_for_both_parts():
    latent = (
        Episodes(store=counting_store(), ways=5, rotations=False).sample(2, "train", torch.arange(4000), 2, 3).latent
    )
    for name in ("support_images", "query_images"):
        counts = latent[name].flatten().bincount(minlength=7).double()
        expected = counts.sum() / 7
        assert float(((counts - expected) ** 2 / expected).sum()) < 6 + 4 * 12**0.5


def test_an_episode_does_not_depend_on_its_batch():
    episodes = Episodes(store=counting_store(), ways=3, rotations=True)
    whole = episodes.sample(0, "train", torch.arange(64), 1, 2)
    some = torch.tensor([63, 0, 17, 17])
    part = episodes.sample(0, "train", some, 1, 2)
    assert torch.equal(part.support.inputs, whole.support.inputs[some])
    assert torch.equal(part.query.inputs, whole.query.inputs[some])
    assert all(torch.equal(part.latent[name], whole.latent[name][some]) for name in whole.latent)


def test_seeds_splits_and_indices_give_other_episodes():
    episodes = Episodes(store=counting_store(), ways=4, rotations=False)
    drawn = {digest(episodes.sample(seed, "train", torch.arange(8), 2, 2)) for seed in range(20)}
    assert len(drawn) == 20
    images = [
        episodes.sample(0, split, torch.arange(50), 2, 2).latent["query_images"] for split in ("train", "val", "test")
    ]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])


def test_shots_move_neither_classes_nor_queries():
    episodes = Episodes(store=counting_store(), ways=3, rotations=True)
    one, four = (episodes.sample(0, "train", torch.arange(30), shots, 3) for shots in (1, 4))
    assert torch.equal(one.query.inputs, four.query.inputs) and torch.equal(
        one.latent["classes"], four.latent["classes"]
    )
    assert torch.equal(one.latent["support_images"], four.latent["support_images"][..., :1])


PROGRAM = """
import torch
from PIL import Image
from test_episodes import counting_store, digest
from metarun.tasks.episodes import Episodes
print(digest(Episodes(store=counting_store(), ways=3, rotations=True).sample(7, "train", torch.arange(5, 20), 2, 3)))
"""


def test_a_fresh_process_draws_the_same_episodes():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
    command = [sys.executable, "-c", PROGRAM]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    episodes = Episodes(store=counting_store(), ways=3, rotations=True)
    assert printed.strip() == digest(episodes.sample(7, "train", torch.arange(5, 20), 2, 3))


def uneven_store() -> ClassStore:
    """As `counting_store`, every second class of train with 4 of its 7 images."""
    store = counting_store()
    counts = torch.full((18,), 7)
    counts[:8:2] = 4
    kept = torch.cat([store.items.view(18, 7, *store.items.shape[1:])[c, :n] for c, n in enumerate(counts.tolist())])
    return dataclasses.replace(store, items=kept, counts=counts)


def test_each_class_is_drawn_from_whole_and_from_no_other():
    store = uneven_store()
    episodes = Episodes(store=store, ways=3, rotations=False)
    episodes.check("train", 1, 3)
    batch = episodes.sample(0, "train", torch.arange(1000), 1, 3)
    latent = batch.latent
    drawn = torch.cat([latent["support_images"], latent["query_images"]], -1)
    assert bool((drawn < store.counts[latent["classes"]][..., None]).all())
    small = drawn[store.counts[latent["classes"]] == 4]
    assert torch.equal(small.sort(-1).values, torch.arange(4).expand_as(small))
    # The corner pixels of each image are its class and its position.
    corner = (batch.query.inputs[:, :, 0, 0, :2] * 255).round().long().view(1000, 3, 3, 2)
    assert torch.equal(corner[..., 0], latent["classes"][..., None].expand(-1, -1, 3))
    assert torch.equal(corner[..., 1], latent["query_images"])
    message = "in split train 4 of 8 classes have fewer, 000 the fewest with 4"
    with pytest.raises(ValueError, match=re.escape(message) + r".*dataset\.queries=2 would do"):
        episodes.check("train", 2, 3)


def test_equal_classes_are_drawn_as_they_always_were():
    """An uneven store and an even one agree where the classes have the same sizes: split test has none of the small ones."""
    uneven, even = (Episodes(store=store, ways=3, rotations=False) for store in (uneven_store(), counting_store()))
    assert digest(uneven.sample(3, "test", torch.arange(20), 2, 3)) == digest(
        even.sample(3, "test", torch.arange(20), 2, 3)
    )


def test_check_names_the_numbers_and_the_keys():
    store = counting_store()
    with pytest.raises(ValueError, match=r"split val has 4 classes, but .* ways = 5\. Lower dataset\.val_ways\."):
        Episodes(store=store, ways=5, rotations=True).check("val", 1, 1)
    with pytest.raises(ValueError, match=r"split test has 6 classes, but .* ways = 7\. Lower dataset\.test_ways\."):
        Episodes(store=store, ways=7, rotations=True).check("test", 1, 1)
    with pytest.raises(
        ValueError, match=r"split train has 32 classes \(turned classes counted\).*Lower dataset\.ways\."
    ):
        Episodes(store=store, ways=33, rotations=True).check("train", 1, 1)


@pytest.mark.parametrize(
    ("split", "prefix"), [("train", "dataset."), ("val", "evaluation.val_"), ("test", "evaluation.")]
)
def test_check_names_the_keys_of_the_split(split, prefix):
    episodes = Episodes(store=counting_store(), ways=4, rotations=False)
    episodes.check(split, 3, 4)
    keys = f"Lower {prefix}shots or {prefix}queries"
    needed = f"3 shots + 5 queries need 8 images per class, but in split {split} "
    with pytest.raises(ValueError, match=re.escape(needed) + ".*" + re.escape(f"{keys} ({prefix}queries=4 would do).")):
        episodes.check(split, 3, 5)
    with pytest.raises(ValueError, match=re.escape(f"{keys} (fewer {prefix}shots would do).")):
        episodes.check(split, 7, 1)
    with pytest.raises(ValueError, match=re.escape(f"shots must be >= 1, got 0. Set {prefix}shots.")):
        episodes.check(split, 0, 1)
    with pytest.raises(ValueError, match=re.escape(f"queries must be >= 1, got 0. Set {prefix}queries.")):
        episodes.check(split, 1, 0)


def test_ways_may_differ_between_training_and_test():
    store = counting_store()
    episodes = Episodes(store=store, ways=5, test_ways=3, rotations=False)
    assert episodes.output_size == 5
    assert episodes.sample(0, "train", torch.arange(4), 1, 1).latent["classes"].shape == (4, 5)
    for split in ("val", "test"):
        batch = episodes.sample(0, split, torch.arange(4), 1, 2)
        assert batch.latent["classes"].shape == (4, 3)
        assert sorted(batch.query.targets[0].tolist()) == [0, 0, 1, 1, 2, 2]
        same = Episodes(store=store, ways=3, rotations=False).sample(0, split, torch.arange(4), 1, 2)
        assert digest(batch) == digest(same)
    assert Episodes(store=store, ways=3, test_ways=4, rotations=False).output_size == 4
    with pytest.raises(ValueError, match=r"the 4 ways of split test, got 3\. .*=4, or lower dataset\.test_ways\."):
        Episodes(store=store, ways=3, test_ways=4, output_size=3, rotations=False)
    with pytest.raises(ValueError, match=r"ways = 7\. Lower dataset\.test_ways"):
        Episodes(store=store, ways=3, test_ways=7, rotations=False).check("test", 1, 1)


def test_ways_may_differ_between_validation_and_test():
    store = counting_store()
    episodes = Episodes(store=store, ways=2, val_ways=4, test_ways=3, rotations=False)
    assert [episodes.ways_of(split) for split in ("train", "val", "test")] == [2, 4, 3]
    assert episodes.output_size == 4
    for split, ways in (("train", 2), ("val", 4), ("test", 3)):
        alone = Episodes(store=store, ways=ways, rotations=False)
        drawn = (each.sample(0, split, torch.arange(4), 1, 2) for each in (episodes, alone))
        assert len({digest(batch) for batch in drawn}) == 1
    only_val = Episodes(store=store, ways=5, val_ways=4, rotations=False)
    assert [only_val.ways_of(split) for split in ("train", "val", "test")] == [5, 4, 5]
    with pytest.raises(
        ValueError, match=r"an output for each of the 4 ways of split val, got 3\. Set dataset\.output_size=4"
    ):
        Episodes(store=store, ways=3, val_ways=4, output_size=3, rotations=False)
    with pytest.raises(ValueError, match=r"got 1\. Set dataset\.val_ways\."):
        Episodes(store=store, ways=3, val_ways=1, rotations=False)


def test_flips_and_crops_are_those_of_each_image_in_train_only():
    images = torch.randint(1, 256, (18, 7, 2, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    store = dataclasses.replace(counting_store(), items=images.flatten(0, 1))
    plain = Episodes(store=store, ways=3, rotations=True)
    moved = Episodes(store=store, ways=3, rotations=True, flips=True, crop_padding=2)
    for split in ("val", "test"):
        one, other = (episodes.sample(0, split, torch.arange(9), 2, 3) for episodes in (plain, moved))
        assert digest(one) == digest(other)
    batch, upright = (episodes.sample(0, "train", torch.arange(120), 2, 3) for episodes in (moved, plain))
    assert all(torch.equal(batch.latent[name], upright.latent[name]) for name in batch.latent)
    times = torch.zeros(2, 5, 5)
    for task in range(120):
        for label in range(3):
            class_id, turns = (int(batch.latent[name][task, label]) for name in ("classes", "rotation"))
            for k in range(3):
                image = images[class_id, batch.latent["query_images"][task, label, k]]
                got = batch.query.inputs[task, 3 * label + k].mul(255).round().to(torch.uint8)
                upright_again = torch.rot90(got, -turns, (-2, -1))
                (kind,) = (kind for kind, other in candidates(image) if torch.equal(other, upright_again))
                times[kind] += 1
    expected = 120 * 9 / 50  # each of the 50 is as likely; chi^2 has 49 degrees of freedom
    assert float(((times - expected) ** 2 / expected).sum()) < 49 + 4 * 98**0.5


def candidates(image: torch.Tensor) -> list[tuple[tuple[int, int, int], torch.Tensor]]:
    """What a crop of an image padded by 2, flipped or not, can be, written with other functions than the code's."""
    found = []
    for flip in (0, 1):
        mirrored = image.flip(-1) if flip else image
        padded = torch.nn.functional.pad(mirrored, (2, 2, 2, 2))
        for down in range(5):
            for right in range(5):
                found.append(((flip, down, right), padded[..., down : down + SIDE, right : right + SIDE]))
    return found


def test_more_shots_leave_the_moves_of_the_first_as_they_were():
    episodes = Episodes(store=counting_store(), ways=3, rotations=False, flips=True, crop_padding=1)
    one, four = (episodes.sample(0, "train", torch.arange(30), shots, 3) for shots in (1, 4))
    assert torch.equal(one.query.inputs, four.query.inputs)
    first = four.support.inputs.view(30, 3, 4, 2, SIDE, SIDE)[:, :, 0]
    assert torch.equal(one.support.inputs, first)


def test_vectors_are_classified_as_they_are():
    vectors = torch.rand(6, 4, 3, generator=torch.Generator().manual_seed(0))
    splits = {"train": list("abc"), "val": ["d"], "test": ["e", "f"]}
    episodes = Episodes(store=ClassStore.build(vectors, list("abcdef"), splits, "v", "1"), ways=2, rotations=False)
    batch = episodes.sample(0, "train", torch.arange(9), 1, 2)
    assert episodes.input_shape == (3,)
    expected = vectors[batch.latent["classes"][..., None], batch.latent["query_images"]].flatten(1, 2)
    assert torch.equal(batch.query.inputs, expected)
    with pytest.raises(ValueError, match="are for images, and these examples are features"):
        Episodes(store=episodes.store, ways=2, rotations=True)


def test_impossible_episodes_are_refused_at_construction():
    with pytest.raises(ValueError, match=r"ways must be >= 2 to classify, got 1"):
        Episodes(store=counting_store(), ways=1, rotations=False)
    oblong = ClassStore.build(
        torch.zeros(2, 1, 1, 4, 5, dtype=torch.uint8),
        ["a", "b"],
        {"train": ["a", "b"], "val": [], "test": []},
        "s",
        "1",
    )
    with pytest.raises(ValueError, match=r"square images, got 4x5\. Set dataset\.rotations=false"):
        Episodes(store=oblong, ways=2, rotations=True)


def test_every_byte_is_the_product_with_the_float32_reciprocal_of_255(device):
    """To the bit, on every device: NumPy rounds the same product. 126 of the 256 quotients by 255 are other numbers."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16)
    names = ["a", "b"]
    store = ClassStore.build(image.expand(2, 2, -1, -1, -1), names, {"train": names, "val": [], "test": []}, "s", "1")
    batch = Episodes(store=store, ways=2, rotations=False).to(device).sample(0, "train", torch.arange(1), 1, 1)
    every_byte, reciprocal = np.arange(256, dtype=np.float32), np.float32(1 / 255)
    expected = torch.from_numpy(every_byte * reciprocal)
    for part in (batch.support, batch.query):
        assert torch.equal(part.inputs.cpu().view(2, 256), expected.expand(2, 256))
    assert int((expected != torch.from_numpy(every_byte / np.float32(255))).sum()) == 126


def test_every_device_draws_the_same_episodes(device):
    episodes = Episodes(store=counting_store(), ways=3, rotations=True)
    batch = episodes.to(device).sample(7, "train", torch.arange(20), 2, 3)
    assert batch.support.inputs.device.type == device.type
    assert digest(batch.to("cpu", torch.float32)) == digest(episodes.sample(7, "train", torch.arange(20), 2, 3))


def test_channels_are_converted_as_images_usually_are():
    """Colour to grey by luminance, as Pillow does it up to its rounding to whole numbers; grey to three equal channels."""
    items = torch.randint(0, 256, (3, 4, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = ["a", "b", "c"]
    store = ClassStore.build(items, names, {"train": names, "val": [], "test": []}, "made", "1")
    colour, grey = (Episodes(store=store, ways=3, rotations=False, channels=c) for c in (None, 1))
    assert (colour.input_shape, grey.input_shape) == ((3, 6, 6), (1, 6, 6))
    one, other = (episodes.sample(0, "train", torch.arange(2), 1, 2).query_set.inputs for episodes in (colour, grey))
    pixels = (255 * one).round().to(torch.uint8).permute(0, 1, 3, 4, 2).flatten(0, 1).numpy()
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels]) / 255
    assert np.abs(other[:, :, 0].flatten(0, 1).numpy() - expected).max() < 0.51 / 255
    single = ClassStore.build(items[:, :, :1], names, {"train": names, "val": [], "test": []}, "made", "1")
    three = Episodes(store=single, ways=3, rotations=False, channels=3).sample(0, "train", torch.arange(2), 1, 2)
    plain = Episodes(store=single, ways=3, rotations=False).sample(0, "train", torch.arange(2), 1, 2)
    assert torch.equal(three.query_set.inputs, plain.query_set.inputs.expand(-1, -1, 3, -1, -1))
    with pytest.raises(
        ValueError, match=r"channels must be 1 \(grey\) or 3 \(colour\), of images that are either, got 2"
    ):
        Episodes(store=store, ways=3, rotations=False, channels=2)
