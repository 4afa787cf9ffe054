"""Videos, as GIF files: whatever shows pages shows them."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def film(path: Path, frames: "Tensor", seconds: float) -> None:
    """Write frames [T, height, width, 3], uint8, each shown for so many seconds, again and again.

    Browsers show no frame for less than 0.02 s.
    """
    from PIL import Image

    images = [Image.fromarray(frame.numpy()) for frame in frames]
    written = io.BytesIO()
    images[0].save(
        written,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(1000 * seconds)),
        loop=0,
    )
    write_atomically(path, written.getvalue(), is_durable=False)
