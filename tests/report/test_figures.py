"""metarun.report.figures and video: what is drawn against what, and frames that come back as they went in."""

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.report import figures
from metarun.report.video import film


@pytest.fixture
def kept(monkeypatch):
    """Figures, in place of their files."""
    found = []
    monkeypatch.setattr(figures, "save", lambda figure, path: found.append(figure))
    return found


ROWS = [
    {"step": 1, "train/loss": 0.5, "train/query/return": -9.0, "train/environment_steps_so_far": 40.0},
    {"step": 2, "train/loss": 0.4, "train/query/return": -7.0, "train/environment_steps_so_far": 70.0},
    {"step": 2, "val/return": -8.0, "val/return_ci95": 1.0},
]


def lines(figure):
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for axes in figure.axes for line in axes.lines]


def test_a_learning_curve_is_of_the_loss_against_outer_steps(kept, tmp_path):
    figures.learning_curve(tmp_path / "a.png", ROWS, "return", "title")
    assert lines(kept[0]) == [([1, 2], [0.5, 0.4]), ([2], [-8.0])]
    assert kept[0].axes[0].get_xlabel() == "outer step"


def test_or_of_what_is_watched_against_what_is_counted(kept, tmp_path):
    figures.learning_curve(
        tmp_path / "a.png", ROWS, "return", "title", watched="query/return", counted="environment_steps"
    )
    assert lines(kept[0]) == [([40.0, 70.0], [-9.0, -7.0]), ([70.0], [-8.0])]
    axes = kept[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "training query return")


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
