"""metarun.tasks.sources.images: every mode as its true grey or colour, the middle square, errors with the file's name."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.tasks.sources.images import MAX_PIXELS, decoded, resized_array, surveyed


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_colours_and_greys_come_out_as_they_went_in():
    colours = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = encoded(Image.fromarray(colours.numpy()))
    assert torch.equal(decoded(data, "x", channels=3, size=8), colours.permute(2, 0, 1))
    grey = colours[..., 0]
    assert torch.equal(decoded(encoded(Image.fromarray(grey.numpy())), "x", channels=1, size=8)[0], grey)
    assert torch.equal(decoded(encoded(Image.fromarray(grey.numpy())), "x", channels=3, size=8), grey.expand(3, -1, -1))
    # ITU-R 601: what Pillow and television take for grey.
    r, g, b = (colours[..., i].double() for i in range(3))
    luma = (299 * r + 587 * g + 114 * b) / 1000
    assert float((decoded(data, "x", channels=1, size=8)[0] - luma).abs().max()) <= 1


def test_16_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = decoded(encoded(Image.fromarray(values)), "x", channels=1, size=8)[0]
    assert torch.equal(found, torch.from_numpy(np.round(values / 257).astype(np.uint8)))
    assert int(found.min()) == 0 and int(found.max()) == 255
    tiff = decoded(encoded(Image.fromarray(values), "TIFF"), "x", channels=3, size=8)
    assert torch.equal(tiff, found.expand(3, -1, -1))


def tiff_of_12_bits(values: np.ndarray) -> bytes:
    """A TIFF with two pixels in three bytes, which Pillow reads and does not write; an even number of columns."""
    height, width = values.shape
    data = int("".join(f"{value:012b}" for value in values.reshape(-1)), 2).to_bytes(values.size * 3 // 2, "big")
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_what_pillow_warns_of_is_said_with_the_name_of_the_file(tmp_path, caplog):
    data = tiff_of_12_bits(RAMP)
    place = data.index(
        struct.pack("<HHI", 277, 4, 1)
    )  # the tag of samples a pixel becomes one whose text lies beyond the end
    data = data[:place] + struct.pack("<HHII", 305, 2, 100, 10**6) + data[place + 12 :]
    decoded(data, "cats/tom.tif", channels=1, size=4)
    surveyed(written(tmp_path, data))
    assert caplog.messages == ["cats/tom.tif was read, with doubts: Truncated File Read"]


def colour_png_of_16_bits(values: np.ndarray) -> bytes:
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def written(folder: Path, *files: bytes) -> list[Path]:
    """As files."""
    paths = [folder / f"{number}.image" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return paths


RAMP = np.arange(16).reshape(4, 4)


@pytest.mark.parametrize(
    ("dtype", "top", "white"),
    [
        ("int32", 255, 255), ("int32", 240, 255), ("int32", 4095, 4095), ("int32", 4000, 4095), ("int32", 256, 1023),
        ("int32", 16_383, 16_383), ("int32", 16_384, 65_535), ("int32", 65_535, 65_535), ("uint16", 255, 255),
        ("uint16", 4095, 4095), ("uint16", 65_535, 65_535),
    ],
)  # fmt: skip
def test_the_range_of_greys_is_the_smallest_usual_one_that_holds_them(dtype, top, white, tmp_path):
    values = (RAMP * top // 15).astype(dtype)
    data = encoded(Image.fromarray(values), "TIFF")
    whites = surveyed(written(tmp_path, data)).whites
    assert whites == ({} if white == 65_535 else {32 if dtype == "int32" else 16: white})
    found = decoded(data, "x", channels=1, size=4, whites=whites)[0]
    assert torch.equal(found, torch.from_numpy(np.floor(values.astype(np.int64) * 255 / white + 0.5)).to(torch.uint8))


def test_images_declared_alike_share_a_range_and_a_declared_depth_is_believed(tmp_path):
    dark, bright = (encoded(Image.fromarray((RAMP * step).astype(np.uint16)), "TIFF") for step in (10, 250))
    eight = encoded(Image.fromarray((RAMP * 17).astype(np.int32)), "TIFF")
    twelve = tiff_of_12_bits(RAMP * 20)
    whites = surveyed(
        written(tmp_path, dark, bright, eight, twelve, encoded(Image.new("L", (4, 4))), b"damaged")
    ).whites
    assert whites == {16: 4095, 32: 255}
    tops = [int(decoded(data, "x", channels=1, size=4, whites=whites).max()) for data in (dark, bright, eight, twelve)]
    assert tops == [9, 234, 255, 19]  # 150, 3750 and 300 of 4095; 255 of 255
    with pytest.raises(ValueError, match="whose range is not known"):
        decoded(bright, "x", channels=1, size=4, whites={16: 255})


def test_colours_of_16_bits_that_would_come_out_black_are_refused(tmp_path):
    colours = np.stack([RAMP, RAMP * 100, RAMP * 273], axis=-1)
    data = colour_png_of_16_bits(colours)
    paths = written(tmp_path, data, data)
    with pytest.raises(
        ValueError, match=r"has colours of 16 bits, of which 12 at most are in use.*Save the images with 8"
    ):
        surveyed(paths)
    full = colour_png_of_16_bits(colours * 16)
    assert surveyed(written(tmp_path, data, full)).whites == {}
    assert torch.equal(
        decoded(full, "x", channels=3, size=4), torch.from_numpy(colours * 16 >> 8).permute(2, 0, 1).to(torch.uint8)
    )


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_files_of_several_images_are_found_but_for_a_camera_with_its_preview(kind, tmp_path):
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 100, 200)]
    series, single = (encoded(frames[0], kind, save_all=True, append_images=more) for more in (frames[1:], []))
    first, second = written(tmp_path, series, single)
    assert surveyed([first, second]).series == ([] if kind == "MPO" else [first])


def test_a_palette_is_looked_up():
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.putpixel((1, 0), 1)
    found = decoded(encoded(image), "x", channels=3, size=4)
    assert found[:, 0, 1].tolist() == [200, 100, 50] and found[:, 0, 0].tolist() == [10, 20, 30]
    gif = decoded(encoded(image, "GIF"), "x", channels=3, size=4)
    assert torch.equal(gif, found)


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    found = decoded(encoded(image), "x", channels=3, size=2)
    assert found[:, 0, 0].tolist() == [255, 255, 255] and found[:, 1, 1].tolist() == [255, 0, 0]
    assert found[0, 0, 1] == pytest.approx(127, abs=1)  # half black on white
    palette = Image.new("P", (2, 2))
    palette.putpalette([9, 9, 9, 1, 2, 3] + [0] * 762)
    palette.putpixel((1, 1), 1)
    see_through = decoded(encoded(palette, transparency=0), "x", channels=3, size=2)
    assert see_through[:, 0, 0].tolist() == [255] * 3 and see_through[:, 1, 1].tolist() == [1, 2, 3]


def test_other_modes_are_read():
    for mode in ("1", "LA", "CMYK", "YCbCr"):
        kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
        found = decoded(encoded(Image.new(mode, (4, 4)), kind), "x", channels=3, size=4)
        assert found.shape == (3, 4, 4)


def test_the_middle_square_is_taken_and_nothing_is_stretched():
    stripes = np.zeros((6, 10, 3), np.uint8)
    stripes[:, 2:8] = 255  # the middle six columns
    found = decoded(encoded(Image.fromarray(stripes)), "x", channels=3, size=6)
    assert bool((found == 255).all())
    assert bool((decoded(encoded(Image.fromarray(stripes)), "x", channels=3, size=3) == 255).all())


def test_a_camera_held_upright_is_turned():
    image = Image.new("L", (4, 4))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    data = encoded(image, exif=exif)
    assert int(decoded(data, "x", channels=1, size=4)[0, 0, 0]) == 255
    assert int(decoded(data, "x", channels=1, size=4, is_upright=True)[0, 0, 3]) == 255


_DDS = encoded(Image.new("RGB", (4, 4)), "DDS")
WITHOUT_FLAGS = _DDS[:80] + bytes(4) + _DDS[84:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not an image", r"cannot be read as an image \(its bytes are of no format that Pillow knows\)"),
        (encoded(Image.new("RGB", (50, 50), "red"))[:60], "cannot be read as an image"),
        (encoded(Image.effect_noise((60, 60), 50), "JPEG")[:400], "cannot be read as an image"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "mode F, whose range is not known"),
        (WITHOUT_FLAGS, r"cannot be read as an image \(Unknown pixel format flags 0\)"),  # a NotImplementedError
    ],
)
def test_what_cannot_be_read_is_named(data, words):
    with pytest.raises(ValueError, match=words) as caught:
        decoded(data, "cats/tom.png", channels=3, size=4)
    assert str(caught.value).startswith("cats/tom.png ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "DDS", "TGA", "ICO", "JPEG2000"])
def test_files_damaged_at_random_are_read_or_told_in_one_line(kind, tmp_path):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    original = encoded(Image.fromarray(pixels), kind)
    for seed in range(25):
        draw = np.random.default_rng(seed)
        data = bytearray(original)
        for place in draw.integers(0, min(len(data), draw.choice([60, 10**6])), 3):
            data[place] = draw.integers(0, 256)
        data = bytes(data[: draw.integers(1, len(data))] if draw.random() < 0.2 else data)
        surveyed(written(tmp_path, data), 10**6)
        try:
            assert decoded(data, "a.b", channels=3, size=4, is_upright=True, max_pixels=10**6).shape == (3, 4, 4)
        except ValueError as error:
            assert str(error).startswith("a.b ") and "\n" not in str(error), seed


def test_an_image_that_would_fill_the_memory_is_refused():
    limit = Image.MAX_IMAGE_PIXELS
    large = encoded(Image.new("1", (10_000, 10_000), 1))
    for allowed in (89_478_485, 49_999_999):  # Pillow warns of up to twice its limit, and refuses more
        message = rf"^bomb\.png has 100,000,000 pixels, and {allowed:,} are allowed.*raise data\.max_pixels\.$"
        with pytest.raises(ValueError, match=message):
            decoded(large, "bomb.png", channels=1, size=4, max_pixels=allowed)
    assert limit == Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    assert bool((decoded(large, "large.png", channels=1, size=4, max_pixels=10**8) == 255).all())


def test_arrays_keep_their_bytes_at_their_own_size():
    array = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert torch.equal(resized_array(array, 4), torch.from_numpy(array).permute(0, 3, 1, 2))
    assert torch.equal(resized_array(array[..., 0], 4)[:, 0], torch.from_numpy(array[..., 0]))
    half = np.array(Image.fromarray(array[1]).resize((2, 2), Image.Resampling.LANCZOS))
    assert torch.equal(resized_array(array, 2)[1], torch.from_numpy(half).permute(2, 0, 1))
