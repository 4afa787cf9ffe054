"""metarun.tasks.sources.pictures: every mode as its true grey or colour, the middle square, errors with the file's name."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.tasks.sources.pictures import decoded, resized_array


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
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


def test_a_palette_is_looked_up():
    picture = Image.new("P", (4, 4))
    picture.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    picture.putpixel((1, 0), 1)
    found = decoded(encoded(picture), "x", channels=3, size=4)
    assert found[:, 0, 1].tolist() == [200, 100, 50] and found[:, 0, 0].tolist() == [10, 20, 30]
    gif = decoded(encoded(picture, "GIF"), "x", channels=3, size=4)
    assert torch.equal(gif, found)


def test_transparent_parts_become_white():
    picture = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 128))
    found = decoded(encoded(picture), "x", channels=3, size=2)
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
    picture = Image.new("L", (4, 4))
    picture.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    data = encoded(picture, exif=exif)
    assert int(decoded(data, "x", channels=1, size=4)[0, 0, 0]) == 255
    assert int(decoded(data, "x", channels=1, size=4, is_upright=True)[0, 0, 3]) == 255


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not a picture", "cannot be read as a picture"),
        (encoded(Image.new("RGB", (50, 50), "red"))[:60], "cannot be read as a picture"),
        (encoded(Image.effect_noise((60, 60), 50), "JPEG")[:400], "cannot be read as a picture"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "mode F, whose range is not known"),
    ],
)
def test_what_cannot_be_read_is_named(data, words):
    with pytest.raises(ValueError, match=words) as caught:
        decoded(data, "cats/tom.png", channels=3, size=4)
    assert str(caught.value).startswith("cats/tom.png ") and "\n" not in str(caught.value)


def test_a_picture_that_would_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        decoded(encoded(Image.new("1", (20_000, 10_000))), "bomb.png", channels=1, size=4)


def test_arrays_keep_their_bytes_at_their_own_size():
    array = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert torch.equal(resized_array(array, 4), torch.from_numpy(array).permute(0, 3, 1, 2))
    assert torch.equal(resized_array(array[..., 0], 4)[:, 0], torch.from_numpy(array[..., 0]))
    half = np.array(Image.fromarray(array[1]).resize((2, 2), Image.Resampling.LANCZOS))
    assert torch.equal(resized_array(array, 2)[1], torch.from_numpy(half).permute(2, 0, 1))
