"""metarun.tasks.episodes: N labels, K each, disjoint, shuffled, and a function of (seed, split, index)."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
                    image = store.images[batch.latent["classes"][task, label], position]
                    turned = torch.rot90(image, int(batch.latent["rotation"][task, label]), (-2, -1))
                    assert torch.equal(part.inputs[task, row], turned.float() / 255)
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


def test_padding_of_small_classes_is_never_drawn():
    store = counting_store()
    counts = torch.full((18,), 7)
    counts[:8:2] = 4
    episodes = Episodes(store=dataclasses.replace(store, counts=counts), ways=3, rotations=False)
    episodes.check("train", 1, 3)
    latent = episodes.sample(0, "train", torch.arange(1000), 1, 3).latent
    drawn = torch.cat([latent["support_images"], latent["query_images"]], -1)
    assert bool((drawn < counts[latent["classes"]][..., None]).all())
    small = drawn[counts[latent["classes"]] == 4]
    assert torch.equal(small.sort(-1).values, torch.arange(4).expand_as(small))
    with pytest.raises(ValueError, match=re.escape("in split train 4 of 8 classes have fewer, 000 the fewest with 4")):
        episodes.check("train", 2, 3)


def test_check_names_the_numbers_and_the_keys():
    store = counting_store()
    with pytest.raises(ValueError, match=r"split val has 4 classes, but .* ways = 5\. Lower dataset\.ways"):
        Episodes(store=store, ways=5, rotations=True).check("val", 1, 1)
    with pytest.raises(ValueError, match=r"split train has 32 classes \(turned classes counted\)"):
        Episodes(store=store, ways=33, rotations=True).check("train", 1, 1)
    episodes = Episodes(store=store, ways=4, rotations=False)
    episodes.check("train", 3, 4)
    message = r"3 shots \+ 5 queries need 8 images.*dataset\.shots, dataset\.queries or evaluation\.queries"
    with pytest.raises(ValueError, match=message):
        episodes.check("train", 3, 5)
    with pytest.raises(ValueError, match=r"shots must be >= 1, got 0\. Set dataset\.shots"):
        episodes.check("train", 0, 1)
    with pytest.raises(ValueError, match=r"queries must be >= 1, got 0\. Set dataset\.queries"):
        episodes.check("train", 1, 0)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same_episodes():
    episodes = Episodes(store=counting_store(), ways=3, rotations=True)
    batch = episodes.to("cuda").sample(7, "train", torch.arange(20), 2, 3)
    assert batch.support.inputs.is_cuda
    assert digest(batch.to("cpu", torch.float32)) == digest(episodes.sample(7, "train", torch.arange(20), 2, 3))
