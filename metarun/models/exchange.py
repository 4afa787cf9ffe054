"""What is exchanged inside a user's module, what cannot be, and whether it is the same module afterwards."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from metarun.models.head import learnable
from metarun.models.norm import TaskBatchNorm

Module = tuple[nn.Module, Callable[[], Tensor]]
_SAME = 1e-3
"""How far outputs and gradients of the module as it was and as it is called may lie apart, relative to their norm; in float32
a fused and a spelled-out batch norm differ by 1e-6."""


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms among a module's layers."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def replace_batch_norms(module: nn.Module) -> list[str]:
    """Put a `TaskBatchNorm` in the place of each plain batch norm; returns their names.

    One with a forward of its own keeps it; what it calls is exchanged (`RightFunctions`), and it keeps no running statistics.
    """
    replaced = []
    norms: dict[_BatchNorm, TaskBatchNorm] = {}  # one layer under two names stays one
    for parent_name, parent in list(module.named_modules()):
        for child_name, child in list(parent._modules.items()):
            if not isinstance(child, _BatchNorm):
                continue
            if type(child).forward is not _BatchNorm.forward:
                child.track_running_stats = False
                child.running_mean = child.running_var = child.num_batches_tracked = None
                continue
            if child not in norms:
                norms[child] = norm = TaskBatchNorm(child.num_features, child.eps, child.affine)
                norm.weight, norm.bias = child.weight, child.bias
            setattr(parent, child_name, norms[child])
            replaced.append(f"{parent_name}.{child_name}".lstrip("."))
    return replaced


def refuse_unsafe_layers(module: nn.Module) -> None:
    """Raise `ValueError` for a layer whose outputs are no function of parameters and inputs, by its name."""
    if isinstance(module, _BatchNorm):
        raise ValueError(f"the model is itself a batch norm ({type(module).__name__}); wrap it in a module")
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(f"layer {name} ({type(layer).__name__}): adapted models must be deterministic; set p to 0")
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            raise ValueError(f"layer {name}: running statistics cannot be adapted; set track_running_stats to false")
        if isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0:
            raise ValueError(
                f"layer {name} ({type(layer).__name__}): adapted models must be deterministic; set dropout to 0"
            )


def difference(original: Module, exchanged: Module) -> str | None:
    """What two modules do not have in common, each given with a call of it; None if outputs and gradients agree."""
    pairs = zip(_outputs_and_gradient(*original), _outputs_and_gradient(*exchanged), strict=True)
    for what, (expected, found) in zip(("outputs", "gradients"), pairs, strict=True):
        if not bool((found - expected).norm() <= _SAME * expected.norm() + 1e-6):
            return what
    return None


def _outputs_and_gradient(module: nn.Module, call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of half their sum of squares in all learned parameters, both flat."""
    with torch.enable_grad():
        outputs = call()
        gradients = torch.autograd.grad(
            outputs.square().sum() / 2, list(learnable(module).values()), materialize_grads=True, allow_unused=True
        )
    return outputs.detach().flatten(), torch.cat([gradient.flatten() for gradient in gradients])
