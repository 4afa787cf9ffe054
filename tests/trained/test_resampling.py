"""metarun.trained.resampling: what Pillow gives for the middle square, to the bit."""

import pytest
import torch
from PIL import Image

from metarun import rng
from metarun.tasks.sources.images import resized
from metarun.trained.resampling import middle_square


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [14, 28, 84])
@pytest.mark.parametrize("height, width", [(105, 105), (28, 28), (20, 31), (131, 64), (3, 5), (84, 200), (1, 1)])
def test_the_middle_square_is_pillows(height, width, size, channels):
    numbers = rng.uniform(rng.key(0, "images"), torch.arange(2), channels, height, width)
    images = (numbers * 256).to(torch.uint8)
    images[1] = 255 * (images[1] > 127)  # black and white: the kernel overshoots, and is clipped
    found = middle_square(images, size)
    for image, square in zip(images, found, strict=True):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array.squeeze(-1) if channels == 1 else array)
        assert torch.equal(square, resized(picture, size).double())
