"""A model with adapted parameters inside, as a plain `nn.Module`."""

import contextlib
import copy

import torch
from torch import Tensor, nn

from metarun.maths.trees import Params
from metarun.models.functions import RightFunctions
from metarun.models.learner import Learner
from metarun.models.norm import statistics_of_first


class AdaptedModule(nn.Module):
    """A copy of a run's model whose parameters are phi; it needs nothing of the run any more.

    Args:
        phi: all parameters, without task axis.
        num_outputs: outputs that are classes of the task; None: all.
        norm_inputs: [K, *input_shape], whose statistics batch norms take; None: those of the inputs.
    """

    def __init__(self, learner: Learner, phi: Params, num_outputs: int | None, norm_inputs: Tensor | None) -> None:
        super().__init__()
        self.model = copy.deepcopy(learner.module)
        shared: dict[int, nn.Parameter] = {}
        for name, old in list(self.model.named_parameters(remove_duplicate=False)):
            if name in phi:
                shared[id(old)] = nn.Parameter(phi[name].detach().clone())
        for name, old in list(self.model.named_parameters(remove_duplicate=False)):
            if id(old) in shared:
                owner, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(owner), leaf, shared[id(old)])
        self.num_outputs = num_outputs
        self.register_buffer("norm_inputs", None if norm_inputs is None else norm_inputs.detach().clone())
        self._has_norms_by_function = "batch norm" in learner._functions.used

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs [Q, N] for prepared inputs [Q, *input_shape]."""
        support = self.norm_inputs
        if not isinstance(support, Tensor):
            return self.model(inputs)[..., : self.num_outputs]
        functions = RightFunctions(products=False) if self._has_norms_by_function else contextlib.nullcontext()
        with statistics_of_first(len(support)), functions:
            return self.model(torch.cat([support, inputs]))[len(support) :, : self.num_outputs]
