"""metarun.device.precision: TF32 is allowed where it was asked for, and in no curvature product."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from metarun.device.precision import allow_tf32, allows_tf32, full_precision, precisely
from metarun.maths.operators import LinearOperator, finite_difference, gauss_newton, hessian, hessian_by_jvp
from metarun.maths.trees import Params

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """TF32 allowed, as `device.tf32=true` does; a CPU takes no notice. Put back as it was."""
    before = allows_tf32()
    allow_tf32(True)
    yield
    allow_tf32(before)


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_full_precision_holds_within_its_block_and_for_both_kinds_of_products():
    assert flags() == (True, True)
    with full_precision():
        assert flags() == (False, False)
        assert precisely(flags)() == (False, False)
        with full_precision():
            pass
        assert flags() == (False, False)
    assert flags() == (True, True)
    assert precisely(flags)() == (False, False)
    assert flags() == (True, True)


def test_full_precision_is_left_by_an_error_too():
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert flags() == (True, True)


def test_where_it_is_not_allowed_nothing_is_touched(monkeypatch):
    allow_tf32(False)
    monkeypatch.setattr("metarun.device.precision.allow_tf32", lambda allowed: pytest.fail("set"))
    with full_precision():
        assert precisely(flags)() == (False, False)


SEEN: list[tuple[bool, bool]] = []


def cubed(x: Tensor) -> Tensor:
    """x^3, which notes what is allowed when it and its first and second derivatives are computed."""
    SEEN.append(flags())
    return Cube.apply(x)


class Cube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        SEEN.append(flags())
        return 3 * ctx.saved_tensors[0] ** 2 * gradient

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        SEEN.append(flags())
        return 3 * ctx.saved_tensors[0] ** 2 * tangent


def gradient(params: Params) -> Params:
    """Of sum x^4 / 4, through a function that notes what is allowed; its Hessian is 3 x^2."""
    return {"x": cubed(params["x"])}


OPERATORS = {
    "hessian": lambda params: hessian(gradient, params),
    "hessian_by_jvp": lambda params: hessian_by_jvp(gradient, params),
    "finite_difference": lambda params: finite_difference(gradient, params),
    # J' J of the outputs x^3 is 9 x^4.
    "gauss_newton": lambda params: gauss_newton(
        lambda p: cubed(p["x"]), lambda outputs, at: (outputs - at).square().sum(-1) / 2, params
    ),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_curvature_is_in_full_precision_whatever_is_allowed(kind):
    """When it is made, as what is kept then is part of each product, and in each product, scaled and shifted ones too."""
    x = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    SEEN.clear()
    operator = OPERATORS[kind]({"x": x}).shifted(1.0).scaled(2.0).between(1.0)
    made = len(SEEN)
    v = torch.tensor([[1.0, -1.0], [2.0, 0.5]])
    diagonal = 9 * x**4 if kind == "gauss_newton" else 3 * x**2
    torch.testing.assert_close(operator.apply(v), 2 * (diagonal + 1) * v, rtol=1e-6, atol=1e-6)
    assert len(SEEN) > made and (made > 0 or kind == "hessian_by_jvp")  # which computes all in its products
    assert set(SEEN) == {(False, False)}
    assert flags() == (True, True)


def test_every_operator_is_precise():
    """Whatever it is made of: the natural gradient's own, and what comes later."""
    seen = []
    LinearOperator(lambda vectors: seen.append(flags()) or vectors).apply(torch.ones(1, 1))
    assert seen == [(False, False)]
