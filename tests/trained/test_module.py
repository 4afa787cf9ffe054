"""metarun.trained.module: a plain module whose parameters are phi."""

import torch
from torch import nn

from metarun.models.learner import Learner
from metarun.trained.module import AdaptedModule


class Tied(nn.Module):
    """Two layers of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs).tanh())


def test_shared_weights_stay_shared():
    learner = Learner(Tied().double())
    phi = {name: 2 * leaf for name, leaf in learner.init(dtype=torch.float64).items()}
    module = AdaptedModule(learner, phi, None, None)
    assert module.model.first.weight is module.model.second.weight
    assert {name for name, _ in module.named_parameters()} == {f"model.{name}" for name in phi}
    inputs = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
    torch.testing.assert_close(module(inputs), learner(phi, inputs))
    with torch.no_grad():
        phi["first.weight"].zero_()
    assert module.model.first.weight.abs().sum() > 0, "phi is copied"
