"""Why a model's own code failed, in one line: which layer, which operation, and the way out."""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from metarun.errors import TrainingError

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"data-dependent control flow|\.item\(\) on a Tensor|dynamic shape",
        "its control flow depends on values, and vmap works on all tasks at once; choose between tensors with torch.where, or "
        "weigh them, in place of `if` and .item()",
    ),
    (
        r"setup_context",
        "a torch.autograd.Function must have a static method setup_context (and generate_vmap_rule = True) to be "
        "lifted over tasks; or write the operation in PyTorch's own functions",
    ),
    (
        r"vmap: .*(inplace|in-place)|mutating directly with|leaf Variable that requires grad is being used in an in-place",
        "it writes in place into a tensor that is not a task's own; build the result with torch.stack or torch.cat, or start "
        "from zeros_like of an input",
    ),
    (
        r"random operation|randomness",
        "it draws random numbers, and adapted models must be deterministic; take the draw out, or give it in the inputs",
    ),
    (
        r"does not require grad and does not have a grad_fn",
        "the query loss depends on nothing that is learned; let more parameters be learned (requires_grad), or adapt others",
    ),
    (
        r"marked with @once_differentiable",
        "a torch.autograd.Function that is once_differentiable has no second derivative; write its backward in "
        "PyTorch's own functions, or choose algorithm/meta_gradient=first_order",
    ),
    (
        r"expected scalar type|have the same dtype|dtype mismatch|Found dtype|Input type .* should be the same"
        r"|does not match weight dtype",
        "it holds a constant of another number format than device.dtype; make it a buffer (register_buffer), or give it "
        "the dtype of an input",
    ),
)


class ModelError(TrainingError):
    """A model's own code fails; `str()` is one line that names the layer and the line of its file."""


def failure_of(error: Exception, module: nn.Module) -> Exception:
    """What to raise for `error` from within a call of `module`: a `ModelError`, or the error itself.

    Itself where it is none of the model's (no memory), or is a `ModelError` already.
    """
    if isinstance(error, torch.OutOfMemoryError | ModelError):
        return error
    return ModelError(describe(error, module))


def describe(error: BaseException, module: nn.Module) -> str:
    """`error` in one line: layer, place, cause, and what to do where that is known.

    Its own words come last; their first sentence alone where ours say more.
    """
    if isinstance(error, ModelError):
        return str(error)
    own = first_line(error)
    words = next((way for pattern, way in _CAUSES if re.search(pattern, str(error), re.IGNORECASE)), None)
    operation = operation_without("derivative for", str(error))
    if operation:
        words = (
            f"{operation} has no second derivative; take another operation, or choose "
            "algorithm/meta_gradient=first_order with algorithm/inner=gradient_descent"
        )
    where = ", ".join(filter(None, (_layer(error, module), _place(error))))
    return ": ".join(filter(None, (where, f"{words} ({own.split('. ')[0].rstrip('.')})" if words else own)))


def lacks_batching_rule(error: BaseException) -> str | None:
    """The operation that `vmap` has no rule for, where that is what went wrong."""
    found = re.search(r"Batching rule not implemented for (aten::[\w.]+)", _all_words(error))
    return found[1].rstrip(".") if found else None


def operation_without(words: str, text: str) -> str | None:
    """aten::X of "WORDS aten::X is not implemented"."""
    found = re.search(rf"{words} '?([\w:.]+)'? is not implemented", text)
    return found[1] if found else None


def first_line(error: BaseException) -> str:
    """The first line of an error's words, or its kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _all_words(error: BaseException | None) -> str:
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__
    return "\n".join(words)


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    yield from reversed(traceback.extract_tb(error.__traceback__))


def _place(error: BaseException) -> str:
    """file:line of the innermost code that is neither PyTorch's nor ours; empty where there is none."""
    ours = Path(__file__).resolve().parents[1], Path(torch.__file__).resolve().parent
    for frame in _frames(error):
        file = Path(frame.filename)
        if file.is_file() and not any(folder in file.resolve().parents for folder in ours):
            return f"{file.name}:{frame.lineno}"
    return ""


def _layer(error: BaseException, module: nn.Module) -> str:
    """The innermost layer of `module` that was being called; the module itself has no name."""
    names = {id(layer): name for name, layer in module.named_modules()}
    found = None
    frame = error.__traceback__
    while frame is not None:
        layer = frame.tb_frame.f_locals.get("self")
        if isinstance(layer, nn.Module) and id(layer) in names:
            found = layer
        frame = frame.tb_next
    if found is None:
        return ""
    return f"layer {names[id(found)]} ({type(found).__name__})" if names[id(found)] else f"model {type(found).__name__}"
