"""A picture file as pixels: any format and mode that Pillow reads, one size, grey or colour."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def decoded(data: bytes, where: str | Path, *, channels: int, size: int, is_upright: bool = False) -> Tensor:
    """One picture: uint8 [channels, size, size]; black is 0.

    The middle square is taken and resampled by Lanczos, so nothing is stretched. Transparent parts become white; 16-bit
    greys are scaled to 8 bits (Pillow's own conversion would clip them).

    Args:
        data: the file's bytes.
        where: its name, for errors.
        channels: 1 for grey, 3 for colour.
        size: pixels per side.
        is_upright: turn the picture as its camera's EXIF data say.
    Raises:
        ValueError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Warning) as error:
        reason = "is empty" if not data else f"cannot be read as a picture ({error})"
        raise ValueError(f"{where} {reason}. Replace it or take it away.") from error
    if is_upright:
        picture = ImageOps.exif_transpose(picture)
    return resized(as_mode(picture, channels, where), size)


def as_mode(picture: Image.Image, channels: int, where: str | Path) -> Image.Image:
    """The picture in 8-bit grey or colour.

    Raises:
        ValueError: pixels of a kind whose range is not known (floating point, 32-bit beyond 16).
    """
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture).astype(np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"{where} has pixels of mode {picture.mode}, whose range is not known. Save it with 8 or 16 bits."
            )
        picture = Image.fromarray(np.floor(values / 257 + 0.5).astype(np.uint8))
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture.convert("L" if channels == 1 else "RGB")


def resized(picture: Image.Image, size: int) -> Tensor:
    """The middle square of an L or RGB picture at `size`: uint8 [channels, size, size]."""
    side = min(picture.size)
    if picture.width != picture.height:  # cropped first: the filter reaches beyond a box that is given to `resize`
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(size, size, -1).permute(2, 0, 1).contiguous()


def resized_array(array: np.ndarray, size: int) -> Tensor:
    """Pictures uint8 [n, H, W, channels] or [n, H, W] at `size`: uint8 [n, channels, size, size]."""
    array = array[..., None] if array.ndim == 3 else array
    if array.shape[1:3] == (size, size):
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    pictures = (Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture) for picture in array)
    return torch.stack([resized(picture, size) for picture in pictures])
