"""Layers as a matrix times rows, against PyTorch's own outputs."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from metarun.models.layers import layers_of, recording

pytestmark = pytest.mark.usefixtures("float64")

LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), (5, 3)),
    "linear of sequences": (lambda: nn.Linear(3, 2), (5, 7, 3)),
    "linear without bias": (lambda: nn.Linear(3, 2, bias=False), (5, 3)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), (5, 3, 6, 7)),
    "strided, padded, dilated": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 2), (1, 2)), (5, 3, 8, 9)),
    "in one dimension": (lambda: nn.Conv1d(3, 4, 3, 2, 1, 2, bias=False), (5, 3, 11)),
}


@pytest.mark.parametrize("which", list(LAYERS))
def test_outputs_are_the_matrix_times_the_rows(which):
    make, shape = LAYERS[which]
    module = make().double()
    inputs = torch.randn(2, *shape)
    (layer,) = layers_of(module, dict(module.named_parameters()))
    leaves = {name: leaf.detach()[None] for name, leaf in module.named_parameters()}
    expected = torch.stack([module(each) for each in inputs]).detach()
    matrix, rows = layer.matrix(leaves), layer.inputs(inputs)
    torch.testing.assert_close(rows @ matrix.mT, layer.outputs(expected))
    for name, leaf in layer.leaves(matrix, leaves).items():
        assert torch.equal(leaf, leaves[name])


def test_only_whole_layers_of_their_own():
    """Groups, other padding, a forward of one's own, shared or parametrised weights, and layers not learned as a whole are none."""

    class Own(nn.Linear):
        def forward(self, input):
            return super().forward(input) * 2

    model = nn.ModuleDict(
        {
            "plain": nn.Linear(2, 2),
            "grouped": nn.Conv2d(2, 2, 1, groups=2),
            "circular": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
            "same": nn.Conv2d(2, 2, 3, padding="same"),
            "own": Own(2, 2),
            "shared": nn.Linear(2, 2),
            "tied": nn.Linear(2, 2),
            "normed": parametrizations.weight_norm(nn.Linear(2, 2)),
            "partly": nn.Linear(2, 2),
            "conv": nn.Conv2d(2, 2, 1),
        }
    )
    model["tied"].weight = model["shared"].weight
    names = {name for name, _ in model.named_parameters()} - {"partly.bias"}
    assert [layer.names for layer in layers_of(model, names)] == [
        ["plain.weight", "plain.bias"],
        ["conv.weight", "conv.bias"],
    ]


def test_calls_are_recorded_each_and_shifts_are_outputs():
    """A layer that is called twice has two rows of inputs; a shift of its first output is one of the second's input."""
    layer = nn.Linear(2, 2)
    layers = layers_of(layer, dict(layer.named_parameters()))
    inputs, zero = torch.randn(3, 2), torch.zeros(3, 2)
    shift = torch.randn(3, 2)
    with recording(layers) as outputs:
        layer(layer(inputs))
    with recording(layers, {"0:0": shift, "0:1": zero}) as given:
        layer(layer(inputs))
    assert list(outputs) == list(given) == ["0:0", "0:1"]
    torch.testing.assert_close(outputs["0:1"], layer(outputs["0:0"]))
    assert torch.equal(given["0:0"], inputs)
    torch.testing.assert_close(given["0:1"], layer(inputs) + shift)
    with recording(layers) as none:
        pass
    assert none == {}
