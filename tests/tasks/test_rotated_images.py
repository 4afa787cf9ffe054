"""metarun.tasks.rotated_images: each image of a split in each turn, where its row says; the episodes do not notice."""

import pytest
import torch

from metarun.tasks import rotated_images
from metarun.tasks.episodes import Episodes
from metarun.tasks.rotated_images import RotatedImages

from .test_episodes import counting_store, digest, uneven_store


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_row_is_the_image_that_it_should_be(split):
    store = uneven_store()
    turned = RotatedImages.of(store, split)
    classes = store.splits[split]
    assert len(turned.items) == 4 * int(store.counts[classes].sum())
    seen = []
    for class_id in classes.tolist():
        for quarter in range(4):
            first = int(turned.first_rows(torch.tensor(class_id), torch.tensor(quarter)))
            for position in range(int(store.counts[class_id])):
                image = store.items[store.starts[class_id] + position]
                assert torch.equal(turned.items[first + position], torch.rot90(image, quarter, (-2, -1)))
                seen.append(first + position)
    assert sorted(seen) == list(range(len(turned.items)))


def test_a_split_too_large_is_turned_anew_for_each_episode_to_the_same_bits(monkeypatch):
    store = counting_store()  # 8 classes of 7 images of 2 x 6 x 6 bytes, in 4 turns: 16 128 bytes
    drawn = []
    for limit in (16_128, 16_127):
        monkeypatch.setattr(rotated_images, "_MAX_BYTES", limit)
        assert (RotatedImages.of(store, "train") is None) == (limit == 16_127)
        episodes = Episodes(store=store, ways=3, rotations=True)
        drawn.append(digest(episodes.sample(5, "train", torch.arange(50), 2, 4)))
    assert drawn[0] == drawn[1]
