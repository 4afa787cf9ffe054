"""Functions that a model may call and that `vmap` or a second derivative gets wrong, or slow, put into another form."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from metarun.models.convolution import CONVOLUTIONS, by_products, faster_as_products
from metarun.models.norm import batch_norm


class RightFunctions(TorchFunctionMode):
    """While it is entered, PyTorch's functions below are called in another form, which computes the same outputs.

    - Batch norm, fused: silently wrong derivatives (`metarun.models.norm`). In elementary operations here.
    - Embedding with `padding_idx`: `vmap` forgets the index in all tasks but the first. A mask here.
    - Attention: the fast kernels have no second derivative. PyTorch's mathematical backend here.
    - Convolution: right, but slow on a GPU where each task has weights of its own. A product there.

    It sees what a module calls through `torch` and `torch.nn.functional`, layers' own calls among them; scripted modules call past
    it.

    Args:
        products: whether convolutions are products; None: where they are faster so.
    Attributes:
        used: names of the functions above that were called in another form so far.
        convolves: whether a convolution was called so far, in whichever form.
    """

    def __init__(self, products: bool | None = None) -> None:
        super().__init__()
        self.used: set[str] = set()
        self.convolves = False
        self._products = products

    def matters_on(self, device: torch.device) -> bool:
        """Whether a module that calls what was called so far, and nothing else, is called otherwise on this device."""
        return bool(self.used) or (self.convolves and self._has_products(device))

    def _has_products(self, device: torch.device) -> bool:
        return faster_as_products(device) if self._products is None else self._products

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what stands in its place."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is F.embedding:
            return self._embedding(*args, **kwargs)
        if func is F.scaled_dot_product_attention or func is F.multi_head_attention_forward:
            self.used.add("attention")
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        if func in CONVOLUTIONS:
            self.convolves = True
            if self._has_products((args[0] if args else kwargs["input"]).device):
                self.used.add("convolution")
                return by_products(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        self.used.add("batch norm")
        if training:  # running statistics play no part in what training gives, and are not kept
            return batch_norm(inputs, weight, bias, eps)
        assert running_mean is not None and running_var is not None  # PyTorch asks for them where it does not train
        shape = (-1,) + (1,) * (inputs.dim() - 2)
        scale = torch.rsqrt(running_var + eps).reshape(shape)
        normalised = (inputs - running_mean.reshape(shape)) * scale
        normalised = normalised if weight is None else normalised * weight.reshape(shape)
        return normalised if bias is None else normalised + bias.reshape(shape)

    def _embedding(
        self, inputs: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        outputs = F.embedding(inputs, weight, None, *args, **kwargs)
        if padding_idx is None:
            return outputs
        self.used.add("padding")
        is_padding = inputs == padding_idx % len(weight)
        return torch.where(is_padding[..., None], outputs.detach(), outputs)
