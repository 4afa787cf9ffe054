"""An image file as pixels: any format and mode that Pillow reads, one size, grey or colour."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile
from torch import Tensor

MAX_PIXELS = 89_478_485
"""Of one image, by default: Pillow's own limit, which takes 256 MiB in colour."""
WHITE = 65535
"""Of 16-bit greys."""

_LOWER_WHITES = (255, 1023, 4095, 16383)  # of the lower depths that cameras and scanners have
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)

logger = logging.getLogger(__name__)


def decoded(
    data: bytes,
    where: str | Path,
    *,
    channels: int,
    size: int,
    is_upright: bool = False,
    max_pixels: int = MAX_PIXELS,
    whites: Mapping[int, int] | None = None,
) -> Tensor:
    """One image: uint8 [channels, size, size]; black is 0.

    The middle square is taken and resampled by Lanczos, so nothing is stretched. Transparent parts become white; greys of
    more than 8 bits are scaled to 8 (Pillow's own conversion would clip them).

    Args:
        data: the file's bytes.
        where: its name, for errors.
        channels: 1 for grey, 3 for colour.
        size: pixels per side.
        is_upright: turn the image as its camera's EXIF data say.
        max_pixels: a larger image is refused before it is unpacked.
        whites: the value that is white by declared bits of a grey, where it is not the largest of 16 (`Survey`).
    Raises:
        ValueError: it cannot be read.
    """
    try:
        with _limited(max_pixels) as warned:
            image = Image.open(io.BytesIO(data))
            image.load()
            bits = declared_bits(image)
            if is_upright:
                image = ImageOps.exif_transpose(image)
    except _TOO_LARGE as error:
        number = int(re.findall(r"\d+", str(error))[0])
        raise ValueError(
            f"{where} has {number:,} pixels, and {max_pixels:,} are allowed, as it takes their memory to read it. "
            "Replace it or take it away, or, for dataset=folder, raise data.max_pixels."
        ) from error
    except Exception as error:  # a damaged file raises whatever its format's reader stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its bytes are of no format that Pillow knows"
        words = f"cannot be read as an image ({reason})" if data else "is empty"
        raise ValueError(f"{where} {words}. Replace it or take it away.") from error
    if said := dict.fromkeys(" ".join(str(warning.message).split()) for warning in warned):
        logger.warning("%s was read, with doubts: %s", where, "; ".join(said))
    white = (whites or {}).get(bits, WHITE if bits in (16, 32) else 2**bits - 1)
    return resized(as_mode(image, channels, where, white), size)


def declared_bits(image: Image.Image) -> int:
    """Bits of a pixel of a grey image, as its file declares them; 8 for any other image."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return 8
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2.get(BITSPERSAMPLE, (1,))[0])
    return 32 if image.mode == "I" else 16


@dataclass(frozen=True)
class Survey:
    """What a set of images has in common, from their headers, and from the values of greys of more than 8 bits.

    Attributes:
        whites: what is white in such greys: declared bits -> value, where that is not the largest of 16 bits.
        series: files of several images, of which the first is read.
    """

    whites: dict[int, int]
    series: list[Path]


def surveyed(files: Iterable[Path], max_pixels: int = MAX_PIXELS) -> Survey:
    """Look at all images of a set before one is read; unreadable files are left to `decoded`.

    A file declares how many bits a pixel takes, and not how many are in use: 12 of 16 in many cameras' files, 8 of 32 in
    those of some programs. Greys that are declared alike have one range, so that what is darker in one of them stays
    darker: the smallest usual one (8, 10, 12, 14 or 16 bits) that holds every value. A declared 10, 12 or 14 is what it
    says.

    Raises:
        ValueError: colours of 16 bits use 12 at most in every image. Of colours Pillow keeps the upper 8 bits alone.
    """
    greys: dict[int, int] = {}
    colours: tuple[int, Path | None] = (0, None)
    series = []
    for file in files:
        with contextlib.suppress(Exception), _limited(max_pixels), Image.open(file) as image:
            bits = declared_bits(image)
            is_deep_colour = bits == 8 and any(";16" in str(tile[3]) for tile in image.tile)
            if bits in (16, 32) and greys.get(bits, 0) <= _LOWER_WHITES[-1]:
                greys[bits] = max(greys.get(bits, 0), int(np.asarray(image).max()))
            elif is_deep_colour and colours[0] < 16:
                colours = max(colours[0], int(np.asarray(image)[..., :3].max())), file
            if image.format != "MPO" and getattr(
                image, "is_animated", False
            ):  # a camera's MPO has its preview beside it
                series.append(file)
    if colours[1] is not None and colours[0] < 16:
        raise ValueError(
            f"{colours[1]} has colours of 16 bits, of which 12 at most are in use in any image: they would come out black. "
            "Save the images with 8 bits a channel."
        )
    whites = {bits: next((white for white in _LOWER_WHITES if white >= most), WHITE) for bits, most in greys.items()}
    return Survey({bits: white for bits, white in sorted(whites.items()) if white != WHITE}, series)


@contextlib.contextmanager
def _limited(max_pixels: int) -> Iterator[list[warnings.WarningMessage]]:
    """Let Pillow refuse larger images when it has read their headers; gives what it warns of.

    Its limit is a global, put back afterwards.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield warned
    finally:
        Image.MAX_IMAGE_PIXELS = before


def as_mode(image: Image.Image, channels: int, where: str | Path, white: int = WHITE) -> Image.Image:
    """The image in 8-bit grey or colour.

    Args:
        white: the value that becomes 255, of a grey of more than 8 bits.
    Raises:
        ValueError: pixels of a kind whose range is not known (floating point, negative, 32-bit beyond 16).
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F" or values.min() < 0 or values.max() > white:
            raise ValueError(
                f"{where} has pixels of mode {image.mode}, whose range is not known. Save it with 8 or 16 bits."
            )
        image = Image.fromarray(np.floor(values * 255 / white + 0.5).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if channels == 1 else "RGB")


def resized(image: Image.Image, size: int) -> Tensor:
    """The middle square of an L or RGB image at `size`: uint8 [channels, size, size]."""
    side = min(image.size)
    if image.width != image.height:  # cropped first: the filter reaches beyond a box that is given to `resize`
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(size, size, -1).permute(2, 0, 1).contiguous()


def resized_array(array: np.ndarray, size: int) -> Tensor:
    """Images uint8 [n, H, W, channels] or [n, H, W] at `size`: uint8 [n, channels, size, size]."""
    array = array[..., None] if array.ndim == 3 else array
    if array.shape[1:3] == (size, size):
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    images = (Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in array)
    return torch.stack([resized(image, size) for image in images])
