"""A module as a function of its parameters: what the algorithms adapt."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from metarun import checks
from metarun.maths.trees import Params
from metarun.models.exchange import batch_norms, difference, refuse_unsafe_layers, replace_batch_norms
from metarun.models.failures import failure_of
from metarun.models.functions import RightFunctions
from metarun.models.head import find_head, learnable, names_of_each, parameters_of
from metarun.models.norm import TaskBatchNorm, statistics_of_first
from metarun.models.once import refuse_second_derivatives

BATCH_NORM_MODES = ("transductive", "support")


class Learner:
    """Any `nn.Module`, called with explicit parameters, for one task.

    Every plain batch norm of the module is replaced by `TaskBatchNorm` (their names are in `replaced_norms`); other functions
    that `vmap` or a second derivative gets wrong are called in a form that is right (`RightFunctions`). Layers whose output
    is not a function of parameters and inputs (dropout, running statistics) are refused. Parameters with
    `requires_grad=False` are constants.

    Args:
        module: the structure; its values are read by `init` alone, those of constants in each call.
        batch_norm: where a query example's batch statistics come from: "transductive", the whole query set, as in MAML,
            iMAML and most code (accuracies are higher for it); or "support", the support set, so that predictions do not
            depend on the other query examples.
        head: name of the layer that makes the outputs; None: the module's own `head_layer`, or found by `check`.
        products: whether convolutions are worked out as products of matrices; None: where they are faster so, on a GPU.
    Attributes:
        one_by_one: None, or the operation for which `vmap` has no rule: tasks are then worked on one after the other.
    Raises:
        ValueError: a layer that cannot be adapted, or no parameters.
    """

    def __init__(
        self,
        module: nn.Module,
        batch_norm: Literal["transductive", "support"] = "transductive",
        head: str | None = None,
        products: bool | None = None,
    ) -> None:
        checks.one_of("batch_norm", batch_norm, BATCH_NORM_MODES)
        refuse_unsafe_layers(module)
        if not learnable(module):
            raise ValueError(f"the model ({type(module).__name__}) has no parameters to learn")
        if head is not None:
            parameters_of(module, head)
        self.module = module.train()
        self.one_by_one: str | None = None
        self._head = head
        self._example: Tensor | None = None
        self._asked = batch_norm
        self._original = copy.deepcopy(module) if batch_norms(module) else None  # what `check` compares with
        self.replaced_norms = replace_batch_norms(self.module)
        self._norms = [layer for layer in self.module.modules() if isinstance(layer, TaskBatchNorm)]
        self._functions = RightFunctions(products)
        self._is_checked = False
        # Other names of shared weights, by hand: PyTorch's own tying searches in every call, and when one layer has two names
        # it leaves the module without its parameters.
        learned = learnable(self.module)
        self._aliases = {
            alias: first for first, *others in names_of_each(self.module) if first in learned for alias in others
        }

    @property
    def batch_norm(self) -> str:
        """`batch_norm` as it was asked for, or "none" where there is none."""
        return self._asked if self._norms or "batch norm" in self._functions.used else "none"

    @property
    def num_parameters(self) -> int:
        """How many numbers theta holds."""
        return sum(parameter.numel() for parameter in learnable(self.module).values())

    @property
    def num_constants(self) -> int:
        """How many numbers are parameters with `requires_grad=False`."""
        return sum(parameter.numel() for parameter in self.module.parameters()) - self.num_parameters

    def init(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Params:
        """Theta as the module was constructed: copies of its parameters."""
        return {name: leaf.detach().to(device, dtype, copy=True) for name, leaf in learnable(self.module).items()}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Learner":
        """Move the module's constants; parameters are passed to each call."""
        self.module.to(device, dtype)
        return self

    @property
    def normalises_by_support(self) -> bool:
        """Whether query examples are normalised by the statistics of the support set."""
        return self.batch_norm == "support"

    def __call__(self, params: Params, inputs: Tensor, norm_inputs: Tensor | None = None) -> Tensor:
        """Outputs [S, ...] for inputs [S, *input_shape] of one task.

        Args:
            norm_inputs: [K, *input_shape], whose statistics batch norms take in place of the inputs' own, where they are asked to
                (`normalises_by_support`).
        Raises:
            ModelError: the module's own code fails.
        """
        if norm_inputs is None or not self.normalises_by_support:
            return self._call(params, inputs)
        with statistics_of_first(len(norm_inputs)):
            return self._call(params, torch.cat([norm_inputs, inputs]))[len(norm_inputs) :]

    def _call(self, params: Params, inputs: Tensor) -> Tensor:
        if self._aliases:
            params = params | {alias: params[name] for alias, name in self._aliases.items()}
        try:
            # The mode costs time in every call: once `check` has seen what the module calls, it is entered if it has to do.
            with self._functions if self._matters_on(inputs.device) else contextlib.nullcontext():
                return functional_call(self.module, params, (inputs,), tie_weights=False)
        except Exception as error:  # whatever a user's code raises
            failure = failure_of(error, self.module)
            if failure is error:
                raise
            raise failure from error

    def _matters_on(self, device: torch.device) -> bool:
        return not self._is_checked or self._functions.matters_on(device)

    def lift(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one task's tensors for those of B tasks, [B, ...]: by `vmap`, or one after the other."""
        if self.one_by_one is None:
            return vmap(function)

        def each(*arguments: Any) -> Any:
            leaves = [leaf for argument in arguments for leaf in _leaves(argument)]
            results = [
                function(*(tree_map(lambda tensor, b=b: tensor[b], argument) for argument in arguments))
                for b in range(len(leaves[0]))
            ]
            return tree_map(lambda *tensors: torch.stack(tensors), *results)

        return each

    @contextlib.contextmanager
    def looping(self, why: str) -> Iterator[None]:
        """Within the block, tasks are worked on one after the other."""
        before, self.one_by_one = self.one_by_one, why
        try:
            yield
        finally:
            self.one_by_one = before

    @functools.cached_property
    def head(self) -> str:
        """Name of the layer that makes the outputs.

        Raises:
            ValueError: it cannot be found, or one of its parameters is not its own.
        """
        head = self._head or getattr(self.module, "head_layer", None)
        if head is None:
            example = self._checked_example
            try:
                head = find_head(self.module, lambda: self._plainly(self.module, example, self._functions))
            except ValueError as error:
                raise ValueError(
                    f"which layer of the model ({type(self.module).__name__}) is its head cannot be found: {error}. "
                    "Name it: head=LAYER."
                ) from error
        parameters_of(self.module, head)
        return head

    @functools.cached_property
    def head_parameters(self) -> list[str]:
        """Names of the head's parameters."""
        return parameters_of(self.module, self.head)

    @property
    def has_linear_head(self) -> bool:
        """Whether the head is a linear layer with a bias, both learned."""
        layer = self.module.get_submodule(self.head)
        return type(layer).forward is nn.Linear.forward and len(self.head_parameters) == 2

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """What the head is given, [S, ...], for inputs [S, *input_shape] of one task; whatever follows the head plays no part."""
        given: list[Tensor] = []
        layer = self.module.get_submodule(self.head)
        hook = layer.register_forward_pre_hook(
            lambda _, args, kwargs: given.append(next(iter((*args, *kwargs.values())))), with_kwargs=True
        )
        try:
            self(params, inputs)
        finally:
            hook.remove()
        return given[-1]

    def check(self, inputs: Tensor, output_size: int) -> None:
        """Run the module as it was made on a few inputs, so that a model that does not fit its data is named before any work.

        Args:
            inputs: [S, *input_shape].
        Raises:
            ValueError: the outputs have the wrong shape, are not finite, change from call to call, or are others than those of
                the module itself; or the call changes a buffer.
            ModelError: the module's own code fails.
        """
        name = type(self.module).__name__
        buffers = {key: value.clone() for key, value in self.module.named_buffers()}
        params = {key: leaf.detach() for key, leaf in learnable(self.module).items()}
        self._example = inputs = _in_format_of(self.module, inputs)
        with torch.no_grad():
            try:
                first, second = self(params, inputs), self(params, inputs)
            except RuntimeError as error:
                raise ValueError(
                    f"the model ({name}) does not take inputs of shape {tuple(inputs.shape)}: {error}"
                ) from error
        if not isinstance(first, Tensor):
            raise ValueError(
                f"the model ({name}) must give one tensor of shape {(len(inputs), output_size)}, got a {type(first).__name__}"
            )
        if first.shape != (len(inputs), output_size):
            raise ValueError(
                f"the model ({name}) must give outputs of shape {(len(inputs), output_size)}, got {tuple(first.shape)}"
            )
        if not bool(torch.isfinite(first).all()):
            raise ValueError(f"the model ({name}) gives outputs that are not finite, such as NaN, before any training")
        if not torch.equal(first, second):
            raise ValueError(f"the model ({name}) gives another output for the same input; it must be deterministic")
        changed = [key for key, value in self.module.named_buffers() if not torch.equal(value, buffers[key])]
        if changed:
            raise ValueError(f"the model ({name}) writes its buffers {', '.join(changed)} when called; it must not")
        self._is_checked = True
        self._compare_with_original(inputs)

    def _compare_with_original(self, inputs: Tensor) -> None:
        """Raise `ValueError` unless outputs and gradients are those of the module before anything in it was exchanged."""
        if self._original is None and not self._functions.used:
            return
        original = self._original or copy.deepcopy(self.module)
        self._original = None

        def what_differs(original: nn.Module, exchanged: nn.Module) -> str | None:
            return difference(
                (original, lambda: self._plainly(original, inputs, None)),
                (exchanged, lambda: self._plainly(exchanged, inputs, self._functions)),
            )

        differing = what_differs(original, self.module)
        if differing is not None:  # by rounding alone, it may be: a channel that hardly varies is blown up by its norm
            differing = what_differs(original.double(), copy.deepcopy(self.module).double())
        if differing is not None:
            raise ValueError(
                f"the model ({type(self.module).__name__}) gives other {differing} when its "
                f"{' and '.join(self.exchanged)} is put into a form that may be differentiated twice; "
                "write it as PyTorch's own layer calls it, or choose a group norm"
            )

    def strict(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, second derivatives of what is `once_differentiable` raise (`refuse_second_derivatives`)."""
        with torch.enable_grad():
            return refuse_second_derivatives(self._plainly(self.module, self._checked_example, self._functions))

    @property
    def _checked_example(self) -> Tensor:
        if self._example is None:
            raise ValueError("the model is known by `check`: call it first, or name the head")
        return self._example

    @property
    def exchanged(self) -> list[str]:
        """Kinds of functions that are called in another form than the module's."""
        return sorted(self._functions.used | ({"batch norm"} if self.replaced_norms else set()))

    @staticmethod
    def _plainly(module: nn.Module, inputs: Tensor, functions: RightFunctions | None) -> Tensor:
        """Outputs with the module's own parameters."""
        with functions or contextlib.nullcontext():
            return module(_in_format_of(module, inputs))


def _in_format_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """`inputs` where the module's parameters are, floating-point ones in their number format."""
    leaf = next(module.parameters())
    return inputs.to(leaf.device, leaf.dtype) if inputs.is_floating_point() else inputs.to(leaf.device)


def _leaves(argument: Any) -> list[Tensor]:
    return [*argument.values()] if isinstance(argument, dict) else [argument]
