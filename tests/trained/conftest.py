"""Small trained runs, made once, and a task of pictures in files."""

from pathlib import Path

import pytest
from PIL import Image

from metarun.tasks.sources.glyphs import glyphs

from ..training.small import GLYPHS
from .runs import trained


@pytest.fixture(scope="session")
def sinusoid_run(tmp_path_factory) -> Path:
    return trained(
        tmp_path_factory.mktemp("runs") / "sinusoid", "device.dtype=float64", "algorithm.inner.step_size=0.02"
    )


@pytest.fixture(scope="session")
def glyph_run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "glyphs", *GLYPHS, "device.dtype=float64")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Black on white, 5 classes: `support/<class>/<k>.png` with two of each, `query/<class>/<k>.png` with three."""
    root = tmp_path_factory.mktemp("pictures")
    drawn = glyphs({"train": 1, "val": 1, "test": 5}, 5, 30, 7)
    for place, class_id in enumerate(drawn.splits["test"].tolist()):
        for k in range(5):
            ink = drawn.items[int(drawn.starts[class_id]) + k, 0]
            path = root / ("support" if k < 2 else "query") / f"sign {place}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 - ink).numpy()).save(path)
    return root
