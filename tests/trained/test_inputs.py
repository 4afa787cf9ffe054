"""metarun.trained.inputs: whatever form an image is given in, the model sees what it saw in training."""

import numpy as np
import pytest
import torch
from PIL import Image

from metarun import load
from metarun.build import make_parts
from metarun.tasks.sources.images import decoded
from metarun.tasks.sources.named import named_set
from metarun.trained.inputs import ImageInputs, NumberInputs, inputs_of

from ..training.small import GLYPHS, configuration

GREY = ImageInputs(channels=1, size=28, is_inverted=True)
COLOUR = ImageInputs(channels=3, size=20, is_inverted=False)


def photo(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([3 * rows % 256, 2 * columns % 256, 5 * (rows + columns) % 256], -1).astype(np.uint8)
    )


def forms(image: Image.Image, path) -> dict[str, object]:
    """One image in every form."""
    image.save(path)
    array = np.asarray(image)
    last = array if array.ndim == 3 else array[..., None]
    tensor = torch.from_numpy(last.copy()).permute(2, 0, 1)
    return {
        "path": path,
        "text": str(path),
        "image": image,
        "array": array,
        "floats": array / 255,
        "tensor": tensor,
        "float tensor": tensor / 255,
        "integers": tensor.to(torch.int64),
    }


@pytest.mark.parametrize("inputs", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(28, 28), (47, 33)])
def test_every_form_of_an_image_is_the_same_input(inputs, mode, size, tmp_path):
    image = photo(*size).convert(mode)
    expected = decoded_by(inputs, image, tmp_path)
    for name, form in forms(image, tmp_path / "one.png").items():
        assert torch.equal(inputs([form], {})[0], expected), name
    # several in one tensor or array
    several = forms(image, tmp_path / "one.png")
    stacked = np.stack([several["array"], several["array"]])
    assert torch.equal(inputs(stacked, {}), expected.expand(2, *expected.shape))
    assert torch.equal(inputs(torch.stack([several["tensor"]] * 2), {}), expected.expand(2, *expected.shape))


def decoded_by(inputs: ImageInputs, image: Image.Image, folder) -> torch.Tensor:
    image.save(folder / "expected.png")
    data = (folder / "expected.png").read_bytes()
    pixels = decoded(data, "expected", channels=inputs.channels, size=inputs.size).to(torch.float32)
    return ((255 - pixels) if inputs.is_inverted else pixels) * (1 / 255)


def test_drawings_come_out_as_training_had_them():
    """Black ink on white paper of the very glyphs that training draws: bit-equal to its episodes."""
    config = configuration(*GLYPHS)
    source = make_parts(config).source
    tasks = source.sample(0, "test", torch.arange(1), 2, 1)
    given = tasks.support_set.inputs[0]
    inputs = inputs_of(config["dataset"], given[0], {})
    assert inputs == ImageInputs(channels=1, size=14, is_inverted=True)
    paper = 255 - (given * 255).round().to(torch.uint8)
    assert torch.equal(inputs(paper, {}), given)


def test_omniglots_own_files_come_out_as_its_store_has_them(omniglot_places):
    import zipfile

    root, cache = omniglot_places
    store = named_set("omniglot", root, cache, 28)
    (folder,) = (f for f in (root, root / "omniglot") if (f / "images_background.zip").is_file())
    with zipfile.ZipFile(folder / "images_background.zip") as archive:
        name = sorted(n for n in archive.namelist() if n.endswith(".png") and "__MACOSX" not in n)[0]
        data = archive.read(name)
    character = "/".join(name.split("/")[-4:-1])
    first = int(store.starts[store.classes.index(character)])
    config = {"source": configuration("dataset=omniglot")["dataset"]["source"]}
    inputs = inputs_of(config, torch.zeros(1, 28, 28), {})
    (folder_of_one,) = [inputs]
    with Image.open(__import__("io").BytesIO(data)) as image:
        found = folder_of_one([image.copy()], {})
    assert torch.equal(found[0], store.items[first].to(torch.float32) * (1 / 255))


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "there must be one image at least, got none"),
        (torch.zeros(3, 4), "several images must have three or four axes, the first for images, got 2"),
        (3, "images must be given as a list, a tensor or an array, got a int"),
        ([3], "image 0 must be a PIL image, a path, a tensor or an array, got a int"),
        ([torch.zeros(28, 28, 3)], "image 0 must be a tensor [H, W] or [channels, H, W] with 1, 3 or 4 channels, got"),
        ([np.zeros((3, 28, 28))], "image 0 must be an array [H, W] or [H, W, channels] with 1, 3 or 4 channels, got"),
        ([np.full((8, 8), 3.5)], "image 0 must have numbers from 0 (black) to 1 (white), got 3.5 to 3.5"),
        ([np.full((8, 8), np.nan)], "image 0 must have numbers from 0 (black) to 1 (white), got nan to nan"),
        ([np.full((8, 8), 256)], "image 0 must have whole numbers from 0 to 255, got 256 to 256"),
    ],
)
def test_what_is_no_image_is_refused(given, words):
    with pytest.raises(ValueError) as refused:
        GREY(given, {})
    assert words in str(refused.value)


def test_greys_of_twelve_bits_in_a_query_are_read_as_in_the_support_set(tmp_path):
    """A query's own largest value must not decide what is white in it."""
    for name, value in (("bright", 4000), ("dark", 200)):
        Image.fromarray(np.full((28, 28), value, np.uint16)).save(tmp_path / f"{name}.png")
    whites = GREY.whites([tmp_path / "bright.png", tmp_path / "dark.png"])
    assert whites == {16: 4095}
    expected = 255 - int(200 * 255 / 4095 + 0.5)
    assert torch.equal(GREY([tmp_path / "dark.png"], whites), torch.full((1, 1, 28, 28), float(expected)) * (1 / 255))


def test_numbers_are_inputs_already():
    inputs = NumberInputs(shape=(1,))
    assert torch.equal(inputs([1, 2.5], {}), torch.tensor([[1], [2.5]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"inputs must have the shape \[S, 1\], got \[2, 2\]"):
        inputs([[1, 2], [3, 4]], {})
    with pytest.raises(ValueError, match="inputs must be finite numbers"):
        inputs([1, float("nan")], {})
    tokens = NumberInputs(shape=(3,), is_integer=True)
    assert tokens(np.array([[1, 2, 3]]), {}).dtype == torch.int64


def test_a_run_of_numbers_knows_them(sinusoid_run):
    assert load(sinusoid_run).inputs == NumberInputs(shape=(1,))


def test_drawings_that_are_light_on_dark_are_noticed(caplog, glyph_run):
    light = torch.full((2, 1, 20, 20), 255, dtype=torch.uint8)
    light[:, :, 3:6] = 0
    run = load(glyph_run)
    run.adapt(light, ["a", "b"])
    assert caplog.messages == []
    run.adapt(255 - light, ["a", "b"])
    (words,) = caplog.messages
    assert words.startswith(
        "the images are mostly dark, and this model was trained on drawings in dark ink on light paper."
    )
    assert COLOUR.doubts(torch.ones(1, 3, 20, 20)) is None
