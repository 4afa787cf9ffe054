"""Turns, flips and crops of images, as maps from each pixel to the one that it is taken from; and grey for colour."""

import torch
from torch import Tensor


def turned(side: int, turns: Tensor) -> Tensor:
    """Quarter turns counter-clockwise of square images.

    Args:
        side: pixels.
        turns: int64 [...], 0 to 3.
    Returns:
        int64 [..., side * side]: where each pixel of the turned image comes from.
    """
    upright = torch.arange(side * side, device=turns.device).view(side, side)
    return torch.stack([torch.rot90(upright, quarter).flatten() for quarter in range(4)])[turns]


def flipped_and_cropped(
    height: int, width: int, is_flipped: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Images mirrored left to right, and shifted as by a crop out of a padded image.

    Args:
        height, width: pixels.
        is_flipped: bool [...], or None for no image.
        shift: int64 [..., 2], rows and columns by which the window moves down and right; None for no move.
    Returns:
        int64 [..., height * width], where each pixel comes from, and bool of that shape, where there is none (or None).
    """
    given = is_flipped if is_flipped is not None else shift
    assert given is not None
    rows = torch.arange(height, device=given.device)
    columns = torch.arange(width, device=given.device)
    is_outside = None
    if shift is not None:
        rows = rows + shift[..., :1]
        columns = columns + shift[..., 1:]
        out_rows, out_columns = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
        is_outside = (out_rows[..., :, None] | out_columns[..., None, :]).flatten(-2)
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    if is_flipped is not None:
        columns = torch.where(is_flipped[..., None], width - 1 - columns, columns)
    source = rows[..., :, None] * width + columns[..., None, :]
    return source.flatten(-2), is_outside


def moved(pixels: Tensor, rotation: Tensor | None, is_flipped: Tensor | None, shift: Tensor | None) -> Tensor:
    """Images cropped, mirrored, and the result turned, class by class; something of it must be asked for.

    Args:
        pixels: [B, N, K, channels, H, W].
        rotation: int64 [B, N], quarter turns of all K images of a class; None for none.
        is_flipped, shift: [B, N, K] and [B, N, K, 2], as for `flipped_and_cropped`.
    Returns:
        [B, N, K, channels, H, W].
    """
    height, width = pixels.shape[-2:]
    source = is_outside = None
    if is_flipped is not None or shift is not None:
        source, is_outside = flipped_and_cropped(height, width, is_flipped, shift)
    if rotation is not None:
        turns = turned(height, rotation)[:, :, None].expand(*pixels.shape[:3], -1)
        source = turns if source is None else source.gather(-1, turns)
        is_outside = None if is_outside is None else is_outside.gather(-1, turns)
    flat = pixels.flatten(-2)
    assert source is not None
    taken = flat.gather(-1, source[..., None, :].expand(flat.shape))
    if is_outside is not None:
        taken = taken.masked_fill(is_outside[..., None, :], 0)
    return taken.view(pixels.shape)


def in_channels(images: Tensor, channels: int) -> Tensor:
    """Images [..., channels, height, width] in grey (1) or colour (3), as Pillow converts them, without its rounding.

    Source: ITU-R BT.601 for the luminance, 0.299 R + 0.587 G + 0.114 B.
    """
    if images.shape[-3] == channels:
        return images
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:]).contiguous()
    red, green, blue = images.unbind(-3)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)
