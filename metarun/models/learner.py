"""A module as a function of its parameters: what the algorithms adapt."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from metarun import checks
from metarun.maths.trees import Params
from metarun.models.norm import TaskBatchNorm

BATCH_NORM_MODES = ("transductive", "support")


class Learner:
    """Any `nn.Module`, called with explicit parameters, for one task.

    Every batch norm of the module is replaced by `TaskBatchNorm` (their names are in `replaced_norms`). Layers whose output
    is not a function of parameters and inputs (dropout, running statistics) are refused.

    Args:
        module: the structure; its values are read by `init` alone.
        batch_norm: where a query example's batch statistics come from: "transductive", the whole query set, as in MAML,
            iMAML and most code (accuracies are higher for it); or "support", the support set, so that predictions do not
            depend on the other query examples.
    Raises:
        ValueError: a layer that cannot be adapted, or no parameters.
    """

    def __init__(self, module: nn.Module, batch_norm: Literal["transductive", "support"] = "transductive") -> None:
        checks.one_of("batch_norm", batch_norm, BATCH_NORM_MODES)
        self.module = module.train()
        self.replaced_norms = _replace_batch_norms(self.module)
        self._norms = [layer for layer in self.module.modules() if isinstance(layer, TaskBatchNorm)]
        self._support_statistics = bool(self._norms) and batch_norm == "support"
        self.batch_norm = batch_norm if self._norms else "none"
        # Looking for shared weights costs a tenth of a small net's forward pass, in every call: once is enough.
        every = list(self.module.named_parameters(remove_duplicate=False))
        self._shares_weights = len(every) > len(list(self.module.parameters()))
        _refuse_unsafe_layers(self.module)
        if not list(self.module.parameters()):
            raise ValueError(f"the model ({type(module).__name__}) has no parameters to learn")

    @property
    def num_parameters(self) -> int:
        """How many numbers theta holds."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def init(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Params:
        """Theta as the module was constructed: copies of its parameters."""
        return {name: leaf.detach().to(device, dtype, copy=True) for name, leaf in self.module.named_parameters()}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Learner":
        """Move the module's constant buffers; parameters are passed to each call."""
        self.module.to(device, dtype)
        return self

    def __call__(self, params: Params, inputs: Tensor, support: Tensor | None = None) -> Tensor:
        """Outputs [S, ...] for inputs [S, *input_shape] of one task.

        `support` [K, *input_shape] are the task's support inputs; they matter only where `batch_norm` is "support".
        """
        if support is None or not self._support_statistics:
            return self._call(params, inputs)
        for layer in self._norms:
            layer.statistics_rows = len(support)
        try:
            return self._call(params, torch.cat([support, inputs]))[len(support) :]
        finally:
            for layer in self._norms:
                layer.statistics_rows = None

    def _call(self, params: Params, inputs: Tensor) -> Tensor:
        return functional_call(self.module, params, (inputs,), tie_weights=self._shares_weights)

    def check(self, input_shape: Sequence[int], output_size: int, *, num_examples: int = 3) -> None:
        """Run the module on a small batch, so that a model that does not fit its data is named before any work.

        Raises:
            ValueError: the outputs have the wrong shape, change from call to call, or the call changes a buffer.
        """
        name = type(self.module).__name__
        inputs = torch.linspace(0, 1, num_examples * torch.Size(input_shape).numel()).reshape(
            num_examples, *input_shape
        )
        buffers = {key: value.clone() for key, value in self.module.named_buffers()}
        params = self.init()
        with torch.no_grad():
            try:
                first, second = self(params, inputs), self(params, inputs)
            except (RuntimeError, TypeError, ValueError) as error:
                shape = (num_examples, *input_shape)
                raise ValueError(f"the model ({name}) does not take inputs of shape {shape}: {error}") from error
        if first.shape != (num_examples, output_size):
            raise ValueError(
                f"the model ({name}) must give outputs of shape {(num_examples, output_size)}, got {tuple(first.shape)}"
            )
        if not torch.equal(first, second):
            raise ValueError(f"the model ({name}) gives another output for the same input; it must be deterministic")
        changed = [key for key, value in self.module.named_buffers() if not torch.equal(value, buffers[key])]
        if changed:
            raise ValueError(f"the model ({name}) writes its buffers {', '.join(changed)} when called; it must not")


def _replace_batch_norms(module: nn.Module) -> list[str]:
    replaced = []
    for parent_name, parent in list(module.named_modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                norm = TaskBatchNorm(child.num_features, child.eps)
                if child.affine:
                    norm.weight, norm.bias = child.weight, child.bias
                else:
                    raise ValueError(f"layer {child_name}: batch norm without affine parameters is not supported")
                setattr(parent, child_name, norm)
                replaced.append(f"{parent_name}.{child_name}".lstrip("."))
    return replaced


def _refuse_unsafe_layers(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(f"layer {name} ({type(layer).__name__}): adapted models must be deterministic; set p to 0")
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            raise ValueError(f"layer {name}: running statistics cannot be adapted; set track_running_stats to false")
        if isinstance(layer, _BatchNorm):
            raise ValueError(f"the model is itself a batch norm ({type(layer).__name__}); wrap it in a module")
