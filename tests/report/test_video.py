"""metarun.report.video: frames come back as they went in."""

import numpy as np
import torch
from PIL import Image

from metarun.report.video import film


def test_a_film_has_its_frames_and_their_time(tmp_path):
    """Red, green and blue, 50 ms each."""
    frames = torch.zeros(3, 4, 6, 3, dtype=torch.uint8)
    for number in range(3):
        frames[number, :, :, number] = 255
    film(tmp_path / "a.gif", frames, 0.05)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["loop"], image.info["duration"]) == (3, 0, 50)
        for number in range(3):
            image.seek(number)
            assert np.array_equal(np.asarray(image.convert("RGB")), frames[number].numpy())
